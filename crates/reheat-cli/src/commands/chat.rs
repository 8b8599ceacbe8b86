//! `reheat chat`: talk with a model.

mod input; // what is typed
mod session; // the model, and what was said

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use console::style;
use reheat_generate::Flow;

use self::input::Input;
pub(crate) use self::session::Chat;
use super::{
    sampling::SamplingArgs,
    source::{ModelArg, PrecisionArg},
};
use crate::{device::DeviceChoice, fault, fault::Fault, interrupt::Interrupt, output};

/// Talk with a model. Ctrl-C stops an answer, Ctrl-D ends the chat.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat chat --model runs/sft
  reheat chat --model ./Qwen2.5-0.5B-Instruct --system \"Answer in one sentence.\" --temperature 0.7 --top-p 0.8
  printf 'What does a zebra eat?\\nAnd a lion?\\n' | reheat chat --model runs/quickstart

In the chat, /help lists the commands. A line that ends in a backslash goes on in the next one; lines between two of \"\"\" are
one message. Answers go to stdout, everything else to stderr. In a pipe, the first failure ends the chat.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,

    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

const HELP: &str = "\
/system TEXT   tell the model something before the conversation, which starts anew
/reset         forget the conversation
/regenerate    draw the last answer again
/save FILE     add the conversation to a file, as a line of a dataset
/exit          end the chat, as Ctrl-D does
Ctrl-C stops an answer. A line that ends in \\ goes on in the next one; lines between two of \"\"\" are one message.";

/// Whether the chat goes on.
enum Next {
    Line,
    End,
}

pub(super) fn run(args: ChatArgs) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let Some(template) = source.template(&tokenizer)? else {
        return Err(Fault::input(format!("`{}` has no chat template", source.dir().display()))
            .hint("a base model continues text: `reheat generate`; `reheat sft` teaches it to answer")
            .into());
    };
    let device = args.device.resolve()?;
    let model = source.model_in(&device.device, args.precision.resolve(&source, &device)?)?;
    let config = args.sampling.config(tokenizer.eos_ids());
    config.validate(model.config().vocab_size)?;
    let interrupt = Interrupt::install()?;
    let mut chat = Chat::new(model, tokenizer, template, config).with_stop(args.sampling.stop());
    let mut system = args.system.clone();
    chat.reset(system.as_deref());

    let is_terminal = io::stdin().is_terminal();
    let mut prompt = |goes_on: bool| {
        if is_terminal {
            eprint!("{} ", style(if goes_on { "…" } else { "›" }).cyan().bold().for_stderr());
        }
    };
    let mut lines = io::stdin().lock();
    loop {
        let typed = input::read(&mut lines, &mut prompt);
        let Some(typed) = typed.map_err(|error| Fault::input("cannot read stdin as text").because(error))? else {
            return Ok(());
        };
        interrupt.reset();
        match answer(&mut chat, &mut system, typed, &interrupt) {
            Ok(Next::Line) => {}
            Ok(Next::End) => return Ok(()),
            // A person can mend it and go on; a script can't.
            Err(error) if is_terminal && !fault::is_closed_pipe(&error) => fault::print(&error),
            Err(error) => return Err(error),
        }
        interrupt.reset();
    }
}

fn answer(chat: &mut Chat, system: &mut Option<String>, typed: Input, interrupt: &Interrupt) -> anyhow::Result<Next> {
    let (name, rest) = match typed {
        Input::Message(text) => {
            speak(interrupt, |on_piece| Some(chat.say(&text, on_piece)))?;
            return Ok(Next::Line);
        }
        Input::Command { name, rest } => (name, rest),
    };
    match (name.as_str(), rest.as_str()) {
        ("/exit" | "/quit", _) => return Ok(Next::End),
        ("/help", _) => eprintln!("{HELP}"),
        ("/reset", _) => chat.reset(system.as_deref()),
        ("/system", text) => {
            *system = (!text.is_empty()).then(|| text.to_owned());
            chat.reset(system.as_deref());
        }
        ("/save", "") => return Err(Fault::input("/save needs the name of a file").into()),
        ("/save", path) => {
            let cannot = |error| Fault::failed(format!("cannot write `{path}`")).because(error);
            chat.save(Path::new(path)).map_err(cannot)?;
            eprintln!("added to {path}");
        }
        ("/regenerate", _) => {
            if chat.is_greedy() {
                eprintln!("note: with --temperature 0 the answer stays the same");
            }
            if !speak(interrupt, |on_piece| chat.regenerate(on_piece))? {
                return Err(Fault::input("there is no answer to draw again").into());
            }
        }
        (unknown, _) => return Err(Fault::input(format!("`{unknown}` is no command")).hint("/help lists them").into()),
    }
    Ok(Next::Line)
}

/// Writes an answer on stdout as it comes; says whether there was one.
fn speak(
    interrupt: &Interrupt,
    answer: impl FnOnce(&mut dyn FnMut(&str) -> Flow) -> Option<anyhow::Result<String>>,
) -> anyhow::Result<bool> {
    let mut out = output::stdout();
    let mut written = Ok(());
    let answer = answer(&mut |piece| {
        written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        if written.is_err() || interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    });
    written?;
    let Some(answer) = answer else { return Ok(false) };
    answer?;
    writeln!(out)?;
    out.flush()?;
    Ok(true)
}
