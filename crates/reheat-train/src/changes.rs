//! What differs between a run and the one that it continues.

use serde_json::{Map, Value};

use crate::TrainError;

/// Settings that leave weights, moments and rows of metrics as they are.
const WITHOUT_EFFECT: [&str; 18] = [
    "gradient_checkpointing",
    "optimizer_in_backward",
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "eval_rows_sha256",
    "per_device_eval_batch_size",
    "greater_is_better",
    "metric_for_best_model",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_dtype",
    "save_only_model",
];

/// Settings that say which rows a step has: with others, some rows would be seen twice and some never. The optimizer,
/// whose moments another one cannot use. And those that say which parameters are trained.
const FIXED: [&str; 12] = [
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "seed",
    "optim",
    "use_peft",
    "lora_r",
    "lora_target_modules",
    "lora_modules_to_save",
    "trainable_token_indices",
    "use_dora",
    "rank_pattern",
];

/// A setting that a resumed run has with another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub key: String,
    /// What it was.
    pub before: Value,
    /// What it is.
    pub after: Value,
    /// Whether the run ends in other weights than without the change.
    pub has_effect: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was {}, is {}", self.key, self.before, self.after)
    }
}

/// Compares settings, and refuses those that the rows of the steps or the trained parameters depend on.
pub(crate) fn compare(
    settings: (&Map<String, Value>, &Map<String, Value>),
    identity: (&Map<String, Value>, &Map<String, Value>),
) -> Result<Vec<Change>, TrainError> {
    let is_methods = |key: &str| identity.0.contains_key(key) || identity.1.contains_key(key);
    let changes = differences(settings.0, settings.1).into_iter().filter(|change| !is_methods(&change.key));
    let (refused, allowed): (Vec<_>, Vec<_>) = changes.partition(|change| FIXED.contains(&change.key.as_str()));
    let refused: Vec<String> =
        refused.into_iter().chain(differences(identity.0, identity.1)).map(|change| change.to_string()).collect();
    if refused.is_empty() { Ok(allowed) } else { Err(TrainError::Changed(refused)) }
}

fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Change> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let value = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
    keys.into_iter()
        .map(|key| Change {
            key: key.clone(),
            before: value(before, key),
            after: value(after, key),
            has_effect: !WITHOUT_EFFECT.contains(&key.as_str()),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("an object") };
        map
    }

    #[test]
    fn settings_that_the_rows_depend_on_are_refused_together() {
        let before = map(json!({ "seed": 1, "per_device_train_batch_size": 2, "learning_rate": 0.1 }));
        let after = map(json!({ "seed": 2, "per_device_train_batch_size": 4, "learning_rate": 0.1 }));
        let rows = |count: u64| map(json!({ "rows": count }));
        let error = compare((&before, &after), (&rows(3), &rows(5))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the run to resume had other settings: per_device_train_batch_size was 2, is 4; seed was 1, is 2; rows was 3, is 5"
        );
    }

    #[test]
    fn others_are_named_with_their_effect() {
        let before = map(json!({ "learning_rate": 0.1, "save_steps": 5 }));
        let after = map(json!({ "learning_rate": 0.2, "save_steps": 6 }));
        let none = Map::new();
        let changes = compare((&before, &after), (&none, &none)).unwrap();
        let found: Vec<_> = changes.iter().map(|change| (change.to_string(), change.has_effect)).collect();
        assert_eq!(
            found,
            [("learning_rate was 0.1, is 0.2".to_owned(), true), ("save_steps was 5, is 6".to_owned(), false)]
        );
    }
}
