//! Any program as a reward, over lines of JSON.
//!
//! The program runs as long as training does. For each batch it reads one line from its standard input, a list of
//! objects, and answers with one line, a list of numbers:
//!
//! ```text
//! → [{"prompt": "1 + 1 =", "completion": " 2", "completion_ids": [17], "truncated": false, "row": {"answer": "2"}}]
//! ← [1.0]
//! ```
//!
//! `prompt` is a string or a list of messages, and `row` holds all columns of the dataset. `null` in the answer says
//! that the reward does not apply. What the program writes to its standard error is shown.

mod process; // one run of the program

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use self::process::Process;
use super::{Reward, RewardError, RewardInput, excerpt};

/// Gets what a program says to people, line by line.
pub type Talk = Arc<dyn Fn(&str) + Send + Sync>;

/// A program that judges completions.
///
/// One that ends or says nothing for too long is started again, once per batch, and asked the same again; then the error
/// holds its last words. It is killed when the reward is dropped, and finds its input closed if training is killed.
pub struct ProgramReward {
    name: String,
    command: String,
    timeout: Duration,
    talk: Talk,
    process: Option<Process>,
}

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
    /// It answered something else than a list of numbers.
    Garbage {
        /// The start of the line.
        line: String,
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
            Self::Garbage { line } => {
                write!(f, "answered `{line}`, expected a JSON list of numbers and nulls on one line")
            }
            Self::Unasked { line } => write!(f, "printed a line that answers nothing: `{line}`"),
        }
    }
}

/// A completion as the program sees it.
#[derive(Serialize)]
struct Question<'a> {
    prompt: &'a Value,
    completion: &'a str,
    completion_ids: &'a [u32],
    truncated: bool,
    row: &'a Map<String, Value>,
}

impl ProgramReward {
    /// A reward that runs `command` in the system's shell when it is first asked. `talk` gets its standard error.
    pub fn new(name: impl Into<String>, command: impl Into<String>, timeout: Duration, talk: Talk) -> Self {
        Self { name: name.into(), command: command.into(), timeout, talk, process: None }
    }

    /// The line that answers `question`.
    fn ask(&mut self, question: &str) -> Result<String, RewardError> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.start()?,
        };
        let mut answer = process.ask(question, self.timeout);
        if let Err(fault @ (ProgramFault::Ended(_) | ProgramFault::Silent { .. })) = &answer {
            (self.talk)(&format!("reward program `{}` {fault}; it is started again", self.command));
            process.kill();
            process = self.start()?;
            answer = process.ask(question, self.timeout);
        }
        match answer {
            Ok(line) => {
                self.process = Some(process);
                Ok(line)
            }
            Err(fault) => Err(self.error(fault, process.last_words())),
        }
    }

    fn start(&self) -> Result<Process, RewardError> {
        Process::start(&self.command, self.talk.clone())
            .map_err(|error| self.error(ProgramFault::Start(error), Vec::new()))
    }

    fn error(&self, fault: ProgramFault, last_words: Vec<String>) -> RewardError {
        RewardError::Program { reward: self.name.clone(), command: self.command.clone(), fault, last_words }
    }
}

impl fmt::Debug for ProgramReward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramReward")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Reward for ProgramReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let questions: Vec<Question<'_>> = completions
            .iter()
            .map(|&RewardInput { prompt, completion, completion_ids, truncated, row }| Question {
                prompt,
                completion,
                completion_ids,
                truncated,
                row,
            })
            .collect();
        let question = serde_json::to_string(&questions).expect("texts and numbers can be written as JSON");
        let line = self.ask(&question)?;
        serde_json::from_str(&line).map_err(|_error| {
            // Python writes these, JSON has no word for them.
            let mut words = line.trim().trim_matches(['[', ']']).split(',').map(str::trim);
            let index = words.position(|word| ["NaN", "Infinity", "-Infinity"].contains(&word));
            match index.and_then(|index| Some((index, completions.get(index)?))) {
                Some((index, input)) => RewardError::NotFinite {
                    reward: self.name.clone(),
                    value: f64::NAN,
                    index,
                    prompt: excerpt(input.prompt),
                },
                None => self.error(ProgramFault::Garbage { line: process::start_of(&line) }, Vec::new()),
            }
        })
    }
}
