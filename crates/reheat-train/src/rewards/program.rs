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
//! that the reward does not apply. Where tools were called, `messages` has the turns. What the program writes to its standard error is shown.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Reward, RewardError, RewardInput, excerpt};
use crate::program::{Failure, Program, ProgramFault, Talk, start_of};

/// A program that judges completions.
///
/// One that ends or says nothing for too long is started again, once per batch, and asked the same again; then the error
/// holds its last words. It is killed when the reward is dropped, and finds its input closed if training is killed.
pub struct ProgramReward {
    name: String,
    program: Program,
}

/// What a program is asked for.
const ANSWER: &str = "a JSON list of numbers and nulls on one line";

/// A completion as the program sees it.
#[derive(Serialize)]
struct Question<'a> {
    prompt: &'a Value,
    completion: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Value]>,
    completion_ids: &'a [u32],
    truncated: bool,
    row: &'a Map<String, Value>,
}

impl ProgramReward {
    /// A reward that runs `command` in the system's shell when it is first asked. `talk` gets its standard error.
    pub fn new(name: impl Into<String>, command: impl Into<String>, timeout: Duration, talk: Talk) -> Self {
        Self { name: name.into(), program: Program::new("reward program", command, timeout, talk) }
    }

    fn error(&self, Failure { fault, last_words }: Failure) -> RewardError {
        RewardError::Program { reward: self.name.clone(), command: self.program.command().into(), fault, last_words }
    }
}

impl fmt::Debug for ProgramReward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramReward").field("name", &self.name).field("program", &self.program).finish()
    }
}

impl Reward for ProgramReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let questions: Vec<Question<'_>> = completions
            .iter()
            .map(|&RewardInput { prompt, completion, messages, completion_ids, truncated, row }| Question {
                prompt,
                completion,
                messages,
                completion_ids,
                truncated,
                row,
            })
            .collect();
        let question = serde_json::to_string(&questions).expect("texts and numbers can be written as JSON");
        let line = self.program.ask_patiently(&question).map_err(|failure| self.error(failure))?;
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
                None => {
                    let fault = ProgramFault::Garbage { line: start_of(&line), expected: ANSWER };
                    self.error(Failure { fault, last_words: Vec::new() })
                }
            }
        })
    }
}
