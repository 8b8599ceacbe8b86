//! Many completions at a time on one model.

mod sequence; // one completion under way
mod stats; // what was computed, and how fast

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use reheat_model::Qwen2;

use self::sequence::Sequence;
pub use self::stats::EngineStats;
use crate::cache::{KvCache, Segment};
use crate::{FinishReason, GenerateConfig, GenerateError, Token};

/// How much an engine does at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most completions under way at a time. Default 16.
    pub max_batch_size: usize,
    /// Tokens that the cache holds, over all completions under way. Default 16,384.
    pub cache_tokens: usize,
    /// Most prompt tokens in one forward pass; bounds the memory of a long prompt, and the time that other completions
    /// wait for it. Default 512.
    pub prefill_chunk: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_batch_size: 16, cache_tokens: 16_384, prefill_chunk: 512 }
    }
}

/// Names a request of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// One thing that happened to one completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Which of its completions, from 0.
    pub sample: usize,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a completion.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A token was drawn.
    Token(Token),
    /// The completion is complete; nothing follows.
    Finished(FinishReason),
    /// The completion cannot go on; nothing follows.
    Failed(GenerateError),
}

/// Completes many prompts at a time (continuous batching: Yu et al. 2022, Orca).
///
/// Each [`step`](Self::step) is one forward pass: over prompts that wait, laid end to end and in chunks, or over the
/// newest token of every completion under way. The place of a completion that ends is taken by the next that waits.
/// Several completions of one prompt compute the prompt once.
///
/// What a request gets does not depend on what else is under way; on the CPU, not by a bit: sums have one order in
/// products of all sizes.
///
/// ```
/// use burn::tensor::Device;
/// use reheat_generate::{Engine, EngineConfig, EventKind, GenerateConfig};
/// use reheat_model::{Qwen2, Qwen2Config};
///
/// # fn main() -> Result<(), reheat_generate::GenerateError> {
/// let model = Qwen2::random(&Qwen2Config::tiny(64), 7, &Device::flex());
/// let mut engine = Engine::new(&model, EngineConfig { cache_tokens: 64, ..EngineConfig::default() });
/// let config = GenerateConfig { max_new_tokens: 5, ..GenerateConfig::default() };
/// engine.submit(&[1, 2, 3], &config)?;
/// engine.submit(&[4], &config)?;
/// let mut tokens = 0;
/// while !engine.is_idle() {
///     tokens += engine.step().iter().filter(|event| matches!(event.kind, EventKind::Token(_))).count();
/// }
/// assert_eq!(tokens, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a Qwen2,
    config: EngineConfig,
    cache: KvCache,
    next_request: u64,
    /// Requests with completions that have not begun, in order of arrival.
    waiting: VecDeque<Request>,
    running: Vec<Sequence>,
    /// Whether the last pass was over prompts: then those who wait for a token come first.
    prefilled_last: bool,
    stats: EngineStats,
}

/// A request with completions that have not begun.
#[derive(Debug)]
struct Request {
    id: RequestId,
    prompt: Arc<[i32]>,
    config: Arc<GenerateConfig>,
    stream: u64,
    /// Tokens that a completion may have.
    budget: usize,
    /// Completions that have begun.
    num_begun: usize,
    prefix: Prefix,
}

/// Where the keys and values of a prompt are, for the completions that have not begun.
#[derive(Debug)]
enum Prefix {
    /// Nowhere yet.
    Nowhere,
    /// A completion under way is at it.
    InWork,
    /// At the start of the rows of a completion under way.
    Shared { rows: Range<usize>, logits: Arc<[f32]> },
    /// In rows that a completion has left.
    Left { rows: Range<usize>, logits: Arc<[f32]> },
}

impl<'a> Engine<'a> {
    /// An engine with an empty cache.
    pub fn new(model: &'a Qwen2, config: EngineConfig) -> Self {
        let cache = KvCache::new(model, config.cache_tokens);
        Self {
            model,
            config,
            cache,
            next_request: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefilled_last: false,
            stats: EngineStats::default(),
        }
    }

    /// Takes a request; its completions draw from streams 0, 1, … of the seed.
    ///
    /// # Errors
    /// If the prompt is empty, longer than the context, or has unknown ids; a sampling value is out of range; or prompt
    /// and completion do not fit into the cache.
    pub fn submit(&mut self, prompt: &[u32], config: &GenerateConfig) -> Result<RequestId, GenerateError> {
        self.submit_with_stream(prompt, config, 0)
    }

    /// As [`submit`](Self::submit), with streams from `stream` on: requests of one seed that are to differ have
    /// streams of their own.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_with_stream(
        &mut self,
        prompt: &[u32],
        config: &GenerateConfig,
        stream: u64,
    ) -> Result<RequestId, GenerateError> {
        let budget = budget(self.model, prompt, config)?;
        let (tokens, capacity) = (prompt.len() + budget, self.config.cache_tokens);
        if tokens > capacity {
            return Err(GenerateError::CacheTooSmall { tokens, capacity });
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.push_back(Request {
            id,
            prompt: prompt.iter().map(|id| *id as i32).collect(),
            config: Arc::new(config.clone()),
            stream,
            budget,
            num_begun: 0,
            prefix: Prefix::Nowhere,
        });
        Ok(id)
    }

    /// Ends one completion, if it is under way; no event follows. One that has not begun will not be drawn.
    pub fn stop(&mut self, request: RequestId, sample: usize) {
        if let Some(index) = self.running.iter().position(|s| s.request == request && s.sample == sample) {
            let sequence = self.running.remove(index);
            self.release(&sequence);
        }
    }

    /// Ends all completions of a request, those that have not begun too; no event follows.
    pub fn cancel(&mut self, request: RequestId) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.id == request)
            && let Some(Request { prefix: Prefix::Left { rows, .. }, .. }) = self.waiting.remove(index)
        {
            self.cache.give_back(rows);
        }
        let (ended, running) = self.running.drain(..).partition(|sequence| sequence.request == request);
        self.running = running;
        ended.iter().for_each(|sequence: &Sequence| self.release(sequence));
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Completions under way.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Requests with completions that have not begun.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What was computed so far.
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Begins what can begin, makes one forward pass, and tells what came of it.
    pub fn step(&mut self) -> Vec<Event> {
        // On a thread of the pool: from outside, each of a pass's hundreds of small operations would wake one.
        rayon::scope(|_| self.advance())
    }

    fn advance(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.begin(&mut events);
        let (prefills, decodes) = self.running.iter().fold((0, 0), |(prefills, decodes), sequence| {
            if sequence.is_prefilling() { (prefills + 1, decodes) } else { (prefills, decodes + 1) }
        });
        let prefill = prefills > 0 && (decodes == 0 || !self.prefilled_last);
        self.prefilled_last = prefill;
        if prefill {
            self.prefill(&mut events);
        } else if decodes > 0 {
            self.decode(&mut events);
        }
        events
    }

    /// Gives places and rows to those who wait, in order of arrival.
    fn begin(&mut self, events: &mut Vec<Event>) {
        let mut index = 0;
        while index < self.waiting.len() && self.running.len() < self.config.max_batch_size {
            let request = &mut self.waiting[index];
            if request.budget == 0 {
                let (id, count) = (request.id, request.config.num_return_sequences);
                let event = |sample| Event { request: id, sample, kind: EventKind::Finished(FinishReason::Length) };
                events.extend((0..count).map(event));
                self.waiting.remove(index);
                continue;
            }
            if matches!(request.prefix, Prefix::InWork) {
                index += 1;
                continue;
            }
            // Who came first is served first: where its rows are missing, no later one gets them.
            let Some(mut sequence) = begin_one(&mut self.cache, request) else { break };
            if request.num_begun == request.config.num_return_sequences {
                self.waiting.remove(index);
            }
            if let Some(logits) = sequence.take_first_logits() {
                let ended = sequence.draw(&logits, events);
                if ended {
                    self.release(&sequence);
                    continue;
                }
            }
            self.running.push(sequence);
        }
    }

    /// A pass over prompts, up to [`EngineConfig::prefill_chunk`] tokens.
    fn prefill(&mut self, events: &mut Vec<Event>) {
        let start = Instant::now();
        let mut room = self.config.prefill_chunk.max(1);
        let mut chunks = Vec::new();
        for (index, sequence) in self.running.iter().enumerate().filter(|(_, sequence)| sequence.is_prefilling()) {
            let len = sequence.num_to_prefill().min(room);
            room -= len;
            chunks.push((index, len));
            if room == 0 {
                break;
            }
        }
        let segments: Vec<Segment> =
            chunks.iter().map(|(index, len)| self.running[*index].prompt_chunk(*len)).collect();
        let logits = self.cache.forward(self.model, &segments).map(Tensor::into_data);
        let logits = numbers(&logits);
        let mut complete = Vec::new();
        for (index, len) in chunks {
            self.stats.prompt_tokens += len;
            self.running[index].num_cached += len;
            if !self.running[index].is_prefilling() {
                complete.push(index);
            }
        }
        self.stats.prefill_seconds += start.elapsed().as_secs_f64();
        let vocab_size = self.model.config().vocab_size;
        let mut ended = Vec::new();
        for (index, logits) in complete.into_iter().zip(logits.chunks_exact(vocab_size)) {
            let sequence = &mut self.running[index];
            if let Some(request) = self.waiting.iter_mut().find(|waiting| waiting.id == sequence.request) {
                request.prefix = Prefix::Shared { rows: sequence.rows.clone(), logits: logits.into() };
            }
            if sequence.draw(logits, events) {
                ended.push(index);
            }
        }
        self.remove(&ended);
    }

    /// A pass over the newest token of every completion whose prompt is done.
    fn decode(&mut self, events: &mut Vec<Event>) {
        let start = Instant::now();
        let mut indices = Vec::new();
        let mut segments = Vec::new();
        for (index, sequence) in self.running.iter().enumerate().filter(|(_, sequence)| !sequence.is_prefilling()) {
            indices.push(index);
            segments.push(sequence.newest());
        }
        let logits = self.cache.forward(self.model, &segments).map(Tensor::into_data);
        let logits = numbers(&logits);
        let vocab_size = self.model.config().vocab_size;
        // Each row is sampled by its own sequence, so they can all be at it.
        let drawn: Vec<(Vec<Event>, bool)> = self
            .running
            .par_iter_mut()
            .filter(|sequence| !sequence.is_prefilling())
            .collect::<Vec<_>>()
            .into_par_iter()
            .zip(logits.par_chunks_exact(vocab_size))
            .map(|(sequence, logits)| {
                sequence.num_cached += 1;
                let mut events = Vec::new();
                let ended = sequence.draw(logits, &mut events);
                (events, ended)
            })
            .collect();
        self.stats.decode_passes += 1;
        self.stats.decoded_tokens += drawn.len();
        self.stats.decode_seconds += start.elapsed().as_secs_f64();
        let mut ended = Vec::new();
        for (index, (mut new, has_ended)) in indices.into_iter().zip(drawn) {
            events.append(&mut new);
            if has_ended {
                ended.push(index);
            }
        }
        self.remove(&ended);
    }

    /// Takes out completions that have ended, by ascending index.
    fn remove(&mut self, ended: &[usize]) {
        for index in ended.iter().rev() {
            let sequence = self.running.remove(*index);
            self.release(&sequence);
        }
    }

    /// Frees the rows of a completion, or keeps them for those of its request that have not begun.
    fn release(&mut self, sequence: &Sequence) {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.id == sequence.request);
        if let Some(request) = waiting {
            match std::mem::replace(&mut request.prefix, Prefix::Nowhere) {
                Prefix::Shared { rows, logits } if rows == sequence.rows => {
                    request.prefix = Prefix::Left { rows, logits };
                    return;
                }
                // Stopped before its prompt was done: the next one begins from nothing.
                Prefix::InWork => {}
                other => request.prefix = other,
            }
        }
        self.cache.give_back(sequence.rows.clone());
    }
}

/// The next completion of a request, or `None` where the cache has no rows for it.
fn begin_one(cache: &mut KvCache, request: &mut Request) -> Option<Sequence> {
    let prompt_len = request.prompt.len();
    let (rows, logits) = match &request.prefix {
        Prefix::Nowhere | Prefix::InWork => (cache.take(prompt_len + request.budget)?, None),
        Prefix::Left { rows, logits } => (rows.clone(), Some(Arc::clone(logits))),
        Prefix::Shared { rows: from, logits } => {
            let rows = cache.take(prompt_len + request.budget)?;
            cache.copy(from.start..from.start + prompt_len, rows.start);
            (rows, Some(Arc::clone(logits)))
        }
    };
    match (&request.prefix, &logits) {
        (Prefix::Left { .. }, Some(logits)) => {
            request.prefix = Prefix::Shared { rows: rows.clone(), logits: Arc::clone(logits) };
        }
        (Prefix::Nowhere, _) => request.prefix = Prefix::InWork,
        _ => {}
    }
    let sample = request.num_begun;
    request.num_begun += 1;
    Some(Sequence::new(request, sample, rows, logits))
}

/// Tokens that a completion of `prompt` may have.
pub(crate) fn budget(model: &Qwen2, prompt: &[u32], config: &GenerateConfig) -> Result<usize, GenerateError> {
    let (context, vocab_size) = (model.config().max_position_embeddings, model.config().vocab_size);
    config.validate(vocab_size)?;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if prompt.len() >= context {
        return Err(GenerateError::PromptTooLong { tokens: prompt.len(), context });
    }
    if let Some(&id) = prompt.iter().find(|id| **id as usize >= vocab_size) {
        return Err(GenerateError::TokenOutsideVocabulary { id, vocab_size });
    }
    Ok(config.max_new_tokens.min(context - prompt.len()))
}

/// The numbers of a matrix, row by row.
fn numbers(rows: &Option<TensorData>) -> &[f32] {
    rows.as_ref().map_or(&[], |rows| rows.as_slice().expect("logits are f32"))
}
