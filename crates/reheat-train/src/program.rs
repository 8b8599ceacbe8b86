//! Programs that answer lines of JSON: rewards and tools in any language.

mod process; // one run of a program

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use self::process::Process;
pub(crate) use self::process::start_of;

/// Gets what a program says to people, line by line.
pub type Talk = Arc<dyn Fn(&str) + Send + Sync>;

/// What a program did instead of answering.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProgramFault {
    /// It could not be started.
    Start(io::Error),
    /// It ended; without a status where it closed its output and runs on.
    Ended(Option<ExitStatus>),
    /// It gave no answer in time.
    Silent {
        /// Seconds that were waited.
        timeout_secs: u64,
    },
    /// It answered something else than what it was asked for.
    Garbage {
        /// The start of the line.
        line: String,
        /// What it was asked for.
        expected: &'static str,
    },
    /// It printed a line that nobody asked for.
    Unasked {
        /// The start of the line.
        line: String,
    },
}

impl fmt::Display for ProgramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "cannot be started: {error}"),
            Self::Ended(Some(status)) => write!(f, "ended before it answered ({status})"),
            Self::Ended(None) => f.write_str("closed its output before it answered"),
            Self::Silent { timeout_secs } => write!(f, "gave no answer in {timeout_secs} seconds"),
            Self::Garbage { line, expected } => write!(f, "answered `{line}`, expected {expected}"),
            Self::Unasked { line } => write!(f, "printed a line that answers nothing: `{line}`"),
        }
    }
}

/// A fault, and the last lines of standard error before it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fault: ProgramFault,
    pub(crate) last_words: Vec<String>,
}

/// A program that runs from its first question on, for as long as it answers. It is killed when this is dropped, and
/// finds its input closed if training is killed.
pub(crate) struct Program {
    /// What it is for, such as `reward program`.
    kind: &'static str,
    command: String,
    timeout: Duration,
    talk: Talk,
    process: Option<Process>,
}

impl Program {
    /// `command` in the system's shell; nothing is started yet. `talk` gets its standard error.
    pub(crate) fn new(kind: &'static str, command: impl Into<String>, timeout: Duration, talk: Talk) -> Self {
        Self { kind, command: command.into(), timeout, talk, process: None }
    }

    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// The line that answers `question`, one line too. After a fault, the next question starts the program again.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String, Failure> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start(&self.command, self.talk.clone())
                .map_err(|error| Failure { fault: ProgramFault::Start(error), last_words: Vec::new() })?,
        };
        match process.ask(question, self.timeout) {
            Ok(line) => {
                self.process = Some(process);
                Ok(line)
            }
            Err(fault) => Err(Failure { fault, last_words: process.last_words() }),
        }
    }

    /// As [`Self::ask`]; a program that ends or says nothing for too long is started again and asked once more.
    pub(crate) fn ask_patiently(&mut self, question: &str) -> Result<String, Failure> {
        match self.ask(question) {
            Err(Failure { fault: fault @ (ProgramFault::Ended(_) | ProgramFault::Silent { .. }), .. }) => {
                (self.talk)(&format!("{} `{}` {fault}; it is started again", self.kind, self.command));
                self.ask(question)
            }
            answer => answer,
        }
    }

    /// Ends the program; the next question starts it again.
    pub(crate) fn end(&mut self) {
        self.process = None;
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("command", &self.command).finish_non_exhaustive()
    }
}

/// The last words of a program, for the end of a message.
pub(crate) fn quoted(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("; its last words were\n{}", lines.join("\n")) }
}
