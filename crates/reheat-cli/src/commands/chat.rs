//! `reheat chat`: talk with a model.

mod editor; // typing on a terminal
mod input; // what is typed
mod session; // the model, and what was said

use std::io::{self, IsTerminal as _, StdinLock, Write as _};
use std::path::Path;

use console::style;
use reheat_generate::Flow;

use self::editor::Editor;
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
one message. The arrow keys bring back what was typed, in earlier chats too (XDG_STATE_HOME, ~/.local/state/reheat), unless
it begins with a space or looks like an access token. Answers go to stdout, everything else to stderr. In a pipe, the first
failure ends the chat.")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,

    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Neither read nor keep what is typed for the arrow keys of other chats.
    #[arg(long)]
    no_history: bool,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// What begins with a slash.
struct CommandHelp {
    name: &'static str,
    argument: &'static str,
    does: &'static str,
}

const COMMANDS: [CommandHelp; 6] = [
    command("/system", "TEXT", "tell the model something before the conversation, which starts anew"),
    command("/reset", "", "forget the conversation"),
    command("/regenerate", "", "draw the last answer again"),
    command("/save", "FILE", "add the conversation to a file, as a line of a dataset"),
    command("/help", "", "show this"),
    command("/exit", "", "end the chat, as Ctrl-D does"),
];

const fn command(name: &'static str, argument: &'static str, does: &'static str) -> CommandHelp {
    CommandHelp { name, argument, does }
}

const KEYS: &str =
    "Ctrl-C stops an answer, or drops what is typed. The arrow keys bring back what was typed, Tab completes commands.
A line that ends in \\ goes on in the next one; lines between two of \"\"\" are one message.";

/// Whether the chat goes on.
enum Next {
    Line,
    End,
}

pub(super) fn run(args: ChatArgs) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let Some(template) = source.template(&tokenizer)? else {
        return Err(Fault::input(format!("`{}` has no chat template", source.given()))
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

    let mut source = if io::stdin().is_terminal() {
        Source::Terminal(Box::new(Editor::open(!args.no_history)?))
    } else {
        Source::Pipe(io::stdin().lock())
    };
    while let Some(typed) = source.read()? {
        interrupt.reset();
        match answer(&mut chat, &mut system, typed, &interrupt) {
            Ok(Next::Line) => {}
            Ok(Next::End) => return Ok(()),
            // A person can mend it and go on; a script can't.
            Err(error) if source.is_terminal() && !fault::is_closed_pipe(&error) => fault::print(&error),
            Err(error) => return Err(error),
        }
        interrupt.reset();
    }
    Ok(())
}

/// Where messages come from.
enum Source {
    Terminal(Box<Editor>),
    Pipe(StdinLock<'static>),
}

impl Source {
    /// The next message or command; `None` at the end.
    fn read(&mut self) -> anyhow::Result<Option<Input>> {
        match self {
            Self::Terminal(editor) => editor.read(),
            Self::Pipe(lines) => {
                input::read(lines).map_err(|error| Fault::input("cannot read stdin as text").because(error).into())
            }
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }
}

fn answer(chat: &mut Chat, system: &mut Option<String>, typed: Input, interrupt: &Interrupt) -> anyhow::Result<Next> {
    let (name, rest) = match typed {
        Input::Message(text) => {
            speak(interrupt, |on_piece| Some(chat.say(&text, on_piece)))?;
            tell_end(chat);
            return Ok(Next::Line);
        }
        Input::Command { name, rest } => (name, rest),
    };
    match (name.as_str(), rest.as_str()) {
        ("/exit" | "/quit", _) => return Ok(Next::End),
        ("/help", _) => {
            for CommandHelp { name, argument, does } in &COMMANDS {
                eprintln!("{:<14} {does}", format!("{name} {argument}"));
            }
            eprintln!("{KEYS}");
        }
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
            tell_end(chat);
        }
        (unknown, _) => return Err(Fault::input(format!("`{unknown}` is no command")).hint("/help lists them").into()),
    }
    Ok(Next::Line)
}

/// Says so where an answer is cut.
fn tell_end(chat: &Chat) {
    if chat.is_cut() {
        eprintln!("{}", style("cut: --max-new-tokens or the model's context is reached").dim().for_stderr());
    }
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
