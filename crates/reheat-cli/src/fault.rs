//! What a person reads when something fails, and the exit code that goes with it.
//!
//! 0 done, 1 failed, 2 wrong usage or input, 130 interrupted.

use std::{
    any::Any,
    error::Error as StdError,
    fmt, io,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use console::style;

use crate::{
    dashboard,
    painted::harmless,
    settings::{Foreign, foreign},
};

mod library; // what the libraries' errors say about themselves

/// Something the command line itself refuses or fails at.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    hints: Vec<String>,
    kind: Kind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Whose mistake it is, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The person's: usage, a file, a value.
    Input,
    /// The world's or ours: a full disk, a loss that became NaN.
    Failed,
    /// Stopped on request.
    Interrupted,
}

impl Fault {
    /// A mistake in usage or input.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), kind: Kind::Input, source: None }
    }

    /// A run that can't go on.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, ..Self::input(message) }
    }

    /// A run that was asked to stop.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { kind: Kind::Interrupted, ..Self::input(message) }
    }

    /// Adds a remedy: an option or command that exists.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The remedies.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Adds the cause.
    pub(crate) fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

/// Prints clap's own message, which is help as often as a complaint.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Printing fails only where nobody reads.
    let _ = error.print();
    if let Some(hint) = foreign_flag(error) {
        eprintln!("\n{} {hint}", style("hint:").cyan().bold().for_stderr());
    }
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// What to do instead of an option that other tools have.
fn foreign_flag(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let key = flag.trim_start_matches('-').split('=').next().unwrap_or_default().replace('-', "_");
    match (error.kind(), foreign(&key)?) {
        (ErrorKind::UnknownArgument, Foreign::Refused(reason)) => Some(reason.to_owned()),
        (ErrorKind::UnknownArgument, Foreign::Ignored(reason)) => Some(format!("leave {flag} out: {reason}")),
        _ => None,
    }
}

/// Prints `error` on stderr, for a program that goes on.
pub(crate) fn print(error: &anyhow::Error) {
    eprint!("{}", Description::of(error));
}

/// Prints `error` on stderr and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS; // the reader has what it wanted, as in `reheat … | head`
    }
    let description = Description::of(error);
    eprint!("{description}");
    ExitCode::from(match description.kind {
        Kind::Input => 2,
        Kind::Failed => 1,
        Kind::Interrupted => 130,
    })
}

/// Whether the reader of stdout has gone.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// An error as it will be printed.
struct Description {
    causes: Vec<String>,
    hints: Vec<String>,
    kind: Kind,
}

impl Description {
    fn of(error: &anyhow::Error) -> Self {
        let mut causes: Vec<String> = Vec::new();
        let mut hints: Vec<String> = Vec::new();
        let mut kind = None;
        for cause in error.chain() {
            // An error quotes files, and what programs and servers answered.
            let text = harmless(&cause.to_string());
            // Some libraries repeat their cause in their own text.
            if !causes.iter().any(|known| known.contains(&text)) {
                causes.push(text);
            }
            let facts = match cause.downcast_ref::<Fault>() {
                Some(fault) => library::Facts { kind: Some(fault.kind), hints: fault.hints().to_vec() },
                None => library::facts(cause),
            };
            kind = kind.or(facts.kind);
            for hint in facts.hints.iter().map(|hint| harmless(hint)) {
                if !hints.contains(&hint) {
                    hints.push(hint);
                }
            }
        }
        Self { causes, hints, kind: kind.unwrap_or(Kind::Failed) }
    }
}

/// Longest message and causes that stay on one line.
const LINE: usize = 160;

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match self.kind {
            Kind::Interrupted => style("interrupted:").yellow().bold().for_stderr(),
            _ => style("error:").red().bold().for_stderr(),
        };
        let one_line = self.causes.join(": ");
        if one_line.len() <= LINE && !one_line.contains('\n') {
            writeln!(f, "{label} {one_line}")?;
        } else {
            writeln!(f, "{label} {}", self.causes[0])?;
            for cause in &self.causes[1..] {
                writeln!(f, "  because: {}", cause.replace('\n', "\n           "))?;
            }
        }
        for hint in &self.hints {
            writeln!(f, "{} {hint}", style("hint:").cyan().bold().for_stderr())?;
        }
        Ok(())
    }
}

/// Set while a panic is expected and handled, such as an accelerator that doesn't start.
static QUIET: AtomicBool = AtomicBool::new(false);

/// A panic is a mistake of ours: one clear line, never a backtrace.
pub(crate) fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let message = payload_text(info.payload());
        if QUIET.load(Ordering::Relaxed) || reheat_data::panic_is_expected() || message.contains("Broken pipe") {
            return;
        }
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        eprintln!("{} internal fault: {message}{place}", style("error:").red().bold().for_stderr());
        eprintln!(
            "{} this is a bug in reheat; please report it with the command that was run",
            style("hint:").cyan().bold().for_stderr()
        );
        // The dashboard's renderer would go on drawing while this thread unwinds.
        if dashboard::is_taken() {
            dashboard::restore();
            std::process::exit(1);
        }
    }));
}

/// Runs `work`; a panic in it ends as an error that has been printed already.
pub(crate) fn catch_panics(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) if payload_text(payload.as_ref()).contains("Broken pipe") => Ok(()),
        Err(_) => std::process::exit(1),
    }
}

/// Runs `work`, which may panic without that being a bug. Gives the panic's message.
pub(crate) fn expecting_panics<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    QUIET.store(true, Ordering::Relaxed);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.store(false, Ordering::Relaxed);
    result.map_err(|payload| payload_text(payload.as_ref()))
}

fn payload_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "unknown".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: impl Into<anyhow::Error>) -> String {
        console::strip_ansi_codes(&Description::of(&error.into()).to_string()).into_owned()
    }

    #[test]
    fn a_short_chain_is_one_line() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let fault = Fault::input("cannot read `a.yaml`").because(cause).hint("check the path");
        assert_eq!(text(fault), "error: cannot read `a.yaml`: no such file\nhint: check the path\n");
    }

    #[test]
    fn a_long_chain_has_a_line_for_each_cause() {
        let fault = Fault::failed("x".repeat(100)).because(io::Error::other("y".repeat(100)));
        assert_eq!(text(fault), format!("error: {}\n  because: {}\n", "x".repeat(100), "y".repeat(100)));
    }

    #[test]
    fn a_cause_that_the_message_repeats_is_printed_once() {
        let fault = Fault::failed("cannot start: out of memory").because(io::Error::other("out of memory"));
        assert_eq!(text(fault), "error: cannot start: out of memory\n");
    }

    #[test]
    fn what_an_error_quotes_does_not_move_the_cursor() {
        let fault = Fault::input("the program answered `\u{1b}[2J`").hint("say `\u{7}` less");
        assert_eq!(Description::of(&fault.into()).causes, ["the program answered `␛[2J`"]);
    }

    #[test]
    fn the_outermost_opinion_on_the_kind_wins() {
        let fault = Fault::input("bad").because(Fault::failed("worse"));
        assert_eq!(Description::of(&fault.into()).kind, Kind::Input);
        assert_eq!(Description::of(&anyhow::anyhow!("plain")).kind, Kind::Failed);
    }
}
