//! Rewards: what a completion is worth.
//!
//! A [`Reward`] scores a batch of completions, each with its prompt, its ids and the whole row of the dataset. Training
//! asks through [`score_completions`], which holds every reward to its word: one finite number, or nothing, per completion.
//! [`RewardSpec`] names the built-in ones, [`ProgramReward`] is any program, [`RewardFn`] any closure.
//!
//! ```
//! use reheat_train::{Reward, RewardFn, RewardInput, score_completions};
//! use serde_json::{Map, json};
//!
//! let mut brief = RewardFn::new("brief", |input| Some(-(input.completion.len() as f64)));
//! let (prompt, row) = (json!("Why?"), Map::new());
//! let input = RewardInput::new(&prompt, "Because.", &[7, 8], &row);
//! assert_eq!(brief.name(), "brief");
//! assert_eq!(score_completions(&mut brief, &[input])?, [Some(-8.0)]);
//! # Ok::<(), reheat_train::RewardError>(())
//! ```

mod function; // a closure as a reward
mod spec; // built-in rewards by name
mod judge; // built-in rewards of one completion
mod shape; // form and length
mod answer; // answers to questions
mod expression; // their values
mod json; // JSON and calls of tools
mod schema; // JSON against a schema
mod program; // any program as a reward
mod model; // a reward model as a reward
mod shared; // a reward in two places
mod error;

use serde_json::{Map, Value};

pub(crate) use self::schema::Schema;
pub use self::{
    error::RewardError,
    function::RewardFn,
    model::ModelReward,
    program::ProgramReward,
    shared::share_rewards,
    spec::{LoadModel, RewardContext, RewardSpec, build_rewards},
};

/// One completion to judge.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RewardInput<'a> {
    /// What was completed: a string, or a list of messages with `role` and `content`.
    pub prompt: &'a Value,
    /// The completion's text, without special tokens.
    pub completion: &'a str,
    /// Where tools were called, the turns as messages: what the assistant wrote, its calls, and what came of them. Then
    /// `completion` is what the assistant wrote alone, a line for each turn.
    pub messages: Option<&'a [Value]>,
    /// The completion's ids, the end-of-sequence token included where the model wrote one.
    pub completion_ids: &'a [u32],
    /// Whether the completion ended because it reached the longest length.
    pub truncated: bool,
    /// All columns of the dataset's row.
    pub row: &'a Map<String, Value>,
}

impl<'a> RewardInput<'a> {
    /// A completion that came to its end.
    pub fn new(prompt: &'a Value, completion: &'a str, completion_ids: &'a [u32], row: &'a Map<String, Value>) -> Self {
        Self { prompt, completion, messages: None, completion_ids, truncated: false, row }
    }

    /// The same completion, which came to its end or not.
    pub fn with_truncated(self, truncated: bool) -> Self {
        Self { truncated, ..self }
    }

    /// The same completion, in the course of which tools were called.
    pub fn with_messages(self, messages: &'a [Value]) -> Self {
        Self { messages: Some(messages), ..self }
    }

    /// The value of a column; `None` where the row has none, or null: then a reward that needs it does not apply.
    pub fn column(&self, name: &str) -> Option<&'a Value> {
        self.row.get(name).filter(|value| !value.is_null())
    }
}

/// A judge of completions.
pub trait Reward: Send {
    /// What it is called in logs and messages, as in `rewards/NAME/mean`.
    fn name(&self) -> &str;

    /// Columns of the dataset without which it can judge nothing. Training checks before it starts that some row has
    /// each.
    fn columns(&self) -> Vec<&str> {
        Vec::new()
    }

    /// A finite number for each completion, in their order; `None` where the reward does not apply to the row.
    ///
    /// # Errors
    /// Whatever keeps it from judging.
    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError>;
}

/// Scores of `completions`, `[completions]`, held to what [`Reward::score`] promises.
///
/// # Errors
/// If the reward fails, gives more or fewer scores than there are completions, or one that is not a finite number.
pub fn score_completions(
    reward: &mut dyn Reward,
    completions: &[RewardInput<'_>],
) -> Result<Vec<Option<f64>>, RewardError> {
    let scores = reward.score(completions)?;
    if scores.len() != completions.len() {
        let (got, expected) = (scores.len(), completions.len());
        return Err(RewardError::Count { reward: reward.name().into(), got, expected });
    }
    for (index, (score, input)) in scores.iter().zip(completions).enumerate() {
        if let Some(value) = score.filter(|value| !value.is_finite()) {
            return Err(RewardError::NotFinite {
                reward: reward.name().into(),
                value,
                index,
                prompt: excerpt(input.prompt),
            });
        }
    }
    Ok(scores)
}

/// Checks that some row has a value in each column that a reward needs.
///
/// # Errors
/// If a column is in no row.
pub fn check_reward_columns<'a>(
    reward: &dyn Reward,
    rows: impl IntoIterator<Item = &'a Map<String, Value>> + Clone,
) -> Result<(), RewardError> {
    for column in reward.columns() {
        let has_it = |row: &Map<String, Value>| row.get(column).is_some_and(|value| !value.is_null());
        if !rows.clone().into_iter().any(has_it) {
            let known = rows.clone().into_iter().next().into_iter().flat_map(|row| row.keys().cloned()).collect();
            return Err(RewardError::MissingColumn { reward: reward.name().into(), column: column.into(), known });
        }
    }
    Ok(())
}

/// Characters of a prompt that an error shows.
const EXCERPT: usize = 60;

/// The end of a prompt on one line, by which a person finds its row.
fn excerpt(prompt: &Value) -> String {
    let last = prompt.as_array().and_then(|messages| messages.last());
    let text = match last.and_then(|message| message.get("content")).unwrap_or(prompt) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Scores(Vec<Option<f64>>);

    impl Reward for Scores {
        fn name(&self) -> &str {
            "scores"
        }

        fn columns(&self) -> Vec<&str> {
            vec!["answer"]
        }

        fn score(&mut self, _completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
            Ok(self.0.clone())
        }
    }

    fn scored(scores: &[Option<f64>]) -> Result<Vec<Option<f64>>, RewardError> {
        let (prompt, row) = (json!([{ "role": "user", "content": "What is\n1 + 1?" }]), Map::new());
        let input = RewardInput::new(&prompt, "2", &[1], &row);
        score_completions(&mut Scores(scores.to_vec()), &[input, input])
    }

    #[test]
    fn a_reward_is_held_to_its_word() {
        assert_eq!(scored(&[Some(1.0), None]).unwrap(), [Some(1.0), None]);
        assert_eq!(
            scored(&[Some(1.0)]).unwrap_err().to_string(),
            "reward `scores` gave 1 scores for 2 completions, expected one each"
        );
        assert_eq!(
            scored(&[None, Some(f64::NAN)]).unwrap_err().to_string(),
            "reward `scores` is NaN for completion 1 of its batch, to the prompt `What is 1 + 1?`, expected a finite number"
        );
        assert!(scored(&[Some(f64::INFINITY), None]).is_err());
    }

    #[test]
    fn a_column_has_to_be_in_some_row() {
        let rows: Vec<Map<String, Value>> =
            [json!({ "question": "?" }), json!({ "question": "?", "answer": null })].map(object).into();
        assert_eq!(
            check_reward_columns(&Scores(vec![]), &rows).unwrap_err().to_string(),
            "reward `scores` needs the column `answer`, but no row of the dataset has it; the first row has question"
        );
        let rows = [rows[0].clone(), object(json!({ "answer": "1" }))];
        assert!(check_reward_columns(&Scores(vec![]), &rows).is_ok());
    }

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("an object") };
        object
    }

    #[test]
    fn a_long_prompt_is_cut_between_characters() {
        assert_eq!(excerpt(&json!("é".repeat(70))), format!("{}…", "é".repeat(60)));
    }
}
