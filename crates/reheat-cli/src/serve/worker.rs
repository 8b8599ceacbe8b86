//! The thread that owns the model. It takes requests between two forward passes, tells each what was drawn, and forgets
//! those whose client is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use reheat_generate::{Engine, EngineConfig, EventKind, FinishReason, GenerateConfig, RequestId, Token};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::ApiError;
use crate::text::TextStream;

/// What is to be completed.
#[derive(Debug)]
pub(super) struct Job {
    /// Token ids of each prompt.
    pub(super) prompts: Vec<Vec<u32>>,
    pub(super) config: GenerateConfig,
    /// Texts that end a completion.
    pub(super) stop: Vec<String>,
}

/// What became of one completion, which is one choice of the answer.
#[derive(Debug)]
pub(super) struct Told {
    /// Prompts × completions of each, in this order.
    pub(super) choice: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A token was drawn, and this much more text is certain.
    Token { token: Token, text: String },
    /// The rest of the text; nothing follows.
    Finished { text: String, reason: FinishReason },
    /// Nothing follows.
    Failed(ApiError),
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Sender<Waiting>,
}

/// A job on its way to the thread.
struct Waiting {
    job: Job,
    told: UnboundedSender<Told>,
    permit: OwnedSemaphorePermit,
}

impl Worker {
    /// Starts the thread. It ends when the worker is dropped.
    pub(super) fn start(
        model: Qwen2,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel();
        let thread = thread::Builder::new().name("engine".into()).spawn(move || {
            let engine = Engine::new(&model, config);
            Loop { engine, tokenizer: &tokenizer, open: BTreeMap::new() }.run(&waiting);
        })?;
        Ok((Self { jobs }, thread))
    }

    /// Hands a job over. The receiver holds no more than its completions can have tokens; dropping it cancels them.
    pub(super) fn submit(&self, job: Job, permit: OwnedSemaphorePermit) -> Result<UnboundedReceiver<Told>, ApiError> {
        let (told, receiver) = unbounded_channel();
        let stopped = |_| ApiError::internal("the engine stopped");
        self.jobs.send(Waiting { job, told, permit }).map_err(stopped)?;
        Ok(receiver)
    }
}

struct Loop<'a> {
    engine: Engine<'a>,
    tokenizer: &'a Tokenizer,
    /// A prompt of a job, by the engine's name for it.
    open: BTreeMap<RequestId, Open<'a>>,
}

/// A prompt under way.
struct Open<'a> {
    told: UnboundedSender<Told>,
    /// The choice that its first completion is.
    first_choice: usize,
    /// The text of each completion; `None` where it has ended.
    texts: Vec<Option<TextStream<'a>>>,
    /// Its place in the queue, shared with the job's other prompts.
    _permit: Arc<OwnedSemaphorePermit>,
}

impl<'a> Loop<'a> {
    fn run(mut self, jobs: &Receiver<Waiting>) {
        loop {
            if self.engine.is_idle() {
                // Nothing to do until someone asks.
                let Ok(job) = jobs.recv() else { return };
                self.take(job);
            }
            loop {
                match jobs.try_recv() {
                    Ok(job) => self.take(job),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.forget_the_gone();
            for event in self.engine.step() {
                self.tell(event.request, event.sample, event.kind);
            }
        }
    }

    fn take(&mut self, Waiting { job, told, permit }: Waiting) {
        let permit = Arc::new(permit);
        let per_prompt = job.config.num_return_sequences;
        let mut taken = Vec::new();
        for (index, prompt) in job.prompts.iter().enumerate() {
            let first_choice = index * per_prompt;
            match self.engine.submit_with_stream(prompt, &job.config, first_choice as u64) {
                Ok(id) => {
                    let text = || Some(TextStream::new(self.tokenizer, &job.stop));
                    let texts = (0..per_prompt).map(|_| text()).collect();
                    let open = Open { told: told.clone(), first_choice, texts, _permit: Arc::clone(&permit) };
                    self.open.insert(id, open);
                    taken.push(id);
                }
                Err(error) => {
                    // One bad prompt ends the request.
                    for id in taken {
                        self.engine.cancel(id);
                        self.open.remove(&id);
                    }
                    let _ = told.send(Told { choice: first_choice, what: What::Failed(error.into()) });
                    return;
                }
            }
        }
    }

    /// Cancels what nobody waits for any more.
    fn forget_the_gone(&mut self) {
        let engine = &mut self.engine;
        self.open.retain(|id, open| {
            let gone = open.told.is_closed();
            if gone {
                engine.cancel(*id);
            }
            !gone
        });
    }

    fn tell(&mut self, id: RequestId, sample: usize, kind: EventKind) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let choice = open.first_choice + sample;
        let Some(text) = &mut open.texts[sample] else { return };
        let what = match kind {
            EventKind::Token(token) => match text.push(token.id) {
                Ok(piece) => What::Token { token, text: piece },
                Err(error) => What::Failed(error.into()),
            },
            EventKind::Finished(reason) => match text.finish() {
                Ok(text) => What::Finished { text, reason },
                Err(error) => What::Failed(error.into()),
            },
            EventKind::Failed(error) => What::Failed(error.into()),
        };
        let stopped = matches!(what, What::Token { .. }) && text.has_stopped();
        let mut ended = !matches!(what, What::Token { .. });
        // A send fails where nobody listens; the next round sees it.
        let _ = open.told.send(Told { choice, what });
        if stopped {
            self.engine.stop(id, sample);
            let finished = What::Finished { text: String::new(), reason: FinishReason::Stop };
            let _ = open.told.send(Told { choice, what: finished });
            ended = true;
        }
        if ended {
            open.texts[sample] = None;
            if open.texts.iter().all(Option::is_none) {
                self.open.remove(&id);
            }
        }
    }
}
