//! `reheat chat`: talk with a model.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use console::style;
use reheat_chat::{ChatTemplate, Conversation, Message, RenderOptions};
use reheat_generate::{Flow, GenerateConfig};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;

use super::{generate::stream_text, sampling::SamplingArgs, source::ModelArg};
use crate::{device::DeviceChoice, fault::Fault, interrupt::Interrupt, output};

/// Talk with a model. Ctrl-C stops an answer, Ctrl-D ends the chat.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat chat --model runs/sft
  reheat chat --model ./Qwen2.5-0.5B-Instruct --system \"Answer in one sentence.\" --temperature 0.7 --top-p 0.8

In the chat: /system TEXT sets the system message, /reset forgets the conversation, /exit ends it.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,

    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// A model that answers, and what was said so far.
pub(crate) struct Chat {
    model: Qwen2,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    config: GenerateConfig,
    stop: Vec<String>,
    messages: Vec<Message>,
}

impl Chat {
    pub(crate) fn new(model: Qwen2, tokenizer: Tokenizer, template: ChatTemplate, config: GenerateConfig) -> Self {
        Self { model, tokenizer, template, config, stop: Vec::new(), messages: Vec::new() }
    }

    /// Ends answers before the first of `stop`.
    pub(crate) fn with_stop(self, stop: &[String]) -> Self {
        Self { stop: stop.to_vec(), ..self }
    }

    pub(crate) fn reset(&mut self, system: Option<&str>) {
        self.messages = system.map(|system| Message::new("system", system)).into_iter().collect();
    }

    /// Says something and hands the answer to `on_piece` as it comes; both become part of the conversation.
    pub(crate) fn say(&mut self, text: &str, on_piece: &mut dyn FnMut(&str) -> Flow) -> anyhow::Result<String> {
        self.messages.push(Message::new("user", text));
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let answer = self.template.render(&Conversation::new(self.messages.clone()), &options).map_err(Into::into);
        let answer = answer.and_then(|prompt| {
            let ids = self.tokenizer.encode_literal(&prompt.text, &prompt.literal_spans)?.ids;
            Ok(stream_text(&self.model, &self.tokenizer, &ids, &self.config, &self.stop, on_piece)?.0)
        });
        match answer {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", answer.as_str()));
                Ok(answer)
            }
            Err(error) => {
                // What was not answered is not part of the conversation.
                self.messages.pop();
                Err(error)
            }
        }
    }
}

pub(super) fn run(args: ChatArgs) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let Some(template) = source.template(&tokenizer)? else {
        return Err(Fault::input(format!("`{}` has no chat template", source.dir().display()))
            .hint("a base model continues text: `reheat generate`; `reheat sft` teaches it to answer")
            .into());
    };
    let model = source.model(&args.device.resolve()?.device)?;
    let config = args.sampling.config(tokenizer.eos_ids());
    let interrupt = Interrupt::install()?;
    let mut chat = Chat::new(model, tokenizer, template, config).with_stop(args.sampling.stop());
    chat.reset(args.system.as_deref());

    let is_terminal = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().lines();
    loop {
        if is_terminal {
            eprint!("{} ", style("›").cyan().bold().for_stderr());
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|error| Fault::input("cannot read stdin as text").because(error))?;
        let line = line.trim();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => {}
            ("/exit" | "/quit", _) => return Ok(()),
            ("/reset", _) => chat.reset(args.system.as_deref()),
            ("/system", text) => chat.reset(Some(text)),
            (command, _) if command.starts_with('/') => {
                eprintln!("{command} is unknown; there are /system TEXT, /reset and /exit");
            }
            _ => speak(&mut chat, line, &interrupt)?,
        }
    }
}

/// Answers on stdout as the tokens come.
fn speak(chat: &mut Chat, text: &str, interrupt: &Interrupt) -> anyhow::Result<()> {
    interrupt.reset();
    let mut out = output::stdout();
    let mut written = Ok(());
    let answer = chat.say(text, &mut |piece| {
        written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        if written.is_err() || interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    });
    interrupt.reset();
    written?;
    answer?;
    Ok(writeln!(out)?)
}
