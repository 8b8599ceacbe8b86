//! Built-in rewards: a function of one completion, which may find that a column holds what it cannot use.

use serde_json::Value;

use super::{Reward, RewardError, RewardInput, excerpt};

/// A score, nothing where the reward does not apply, or what is wrong with the row.
pub(super) type Verdict = Result<Option<f64>, String>;

/// A named function of one completion.
pub(super) struct Judge {
    name: String,
    columns: Vec<String>,
    judge: Box<dyn Fn(&RewardInput<'_>) -> Verdict + Send>,
}

impl Judge {
    pub(super) fn new(name: &str, judge: impl Fn(&RewardInput<'_>) -> Verdict + Send + 'static) -> Self {
        Self { name: name.into(), columns: Vec::new(), judge: Box::new(judge) }
    }

    /// A judge of a column's texts: does not apply where there are none.
    pub(super) fn of_column(
        name: &str,
        column: &str,
        judge: impl Fn(&RewardInput<'_>, &[String]) -> Verdict + Send + 'static,
    ) -> Self {
        let key = column.to_owned();
        let of_texts = move |input: &RewardInput<'_>| match input.column(&key) {
            None => Ok(None),
            Some(value) => {
                let texts = texts(value).map_err(|found| {
                    format!("column `{key}` holds {found}, expected a text, a number, or a list of them")
                })?;
                if texts.is_empty() { Ok(None) } else { judge(input, &texts) }
            }
        };
        Self { columns: vec![column.into()], ..Self::new(name, of_texts) }
    }

    pub(super) fn with_columns(self, columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|column| (*column).to_owned()).collect(), ..self }
    }
}

impl Reward for Judge {
    fn name(&self) -> &str {
        &self.name
    }

    fn columns(&self) -> Vec<&str> {
        self.columns.iter().map(String::as_str).collect()
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        let of_one = |input: &RewardInput<'_>| {
            (self.judge)(input).map_err(|reason| RewardError::Row {
                reward: self.name.clone(),
                prompt: excerpt(input.prompt),
                reason,
            })
        };
        completions.iter().map(of_one).collect()
    }
}

/// The texts in a value, but for empty ones; or what it is instead.
fn texts(value: &Value) -> Result<Vec<String>, &'static str> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Value::Number(_) | Value::Bool(_) => Ok(Some(value.to_string())),
        Value::Null => Ok(None),
        Value::Array(_) => Err("a list in a list"),
        Value::Object(_) => Err("an object"),
    };
    match value {
        Value::Array(values) => {
            Ok(values.iter().map(text).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        value => Ok(text(value)?.into_iter().collect()),
    }
}
