//! Golden values and their comparison.

use std::fs;

use serde_json::Value;

use crate::workspace_root;

/// The values of `tests/golden/values/NAME.json`.
///
/// # Panics
/// If the file is absent or damaged: it is part of the project.
#[must_use]
pub fn golden(name: &str) -> Value {
    let path = workspace_root().join("tests/golden/values").join(name).with_extension("json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The numbers of a JSON list, or of the lists in a list, in order.
///
/// # Panics
/// If there is something else than numbers in it.
#[must_use]
pub fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        other => vec![other.as_f64().unwrap_or_else(|| panic!("a number expected, got {other}")) as f32],
    }
}

/// The whole numbers of a JSON list, as token ids.
///
/// # Panics
/// If there is something else than whole numbers in it.
#[must_use]
pub fn ids<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let values = value.as_array().unwrap_or_else(|| panic!("a list expected, got {value}"));
    let id = |value: &Value| value.as_i64().and_then(|id| T::try_from(id).ok());
    values.iter().map(|value| id(value).unwrap_or_else(|| panic!("an id expected, got {value}"))).collect()
}

/// Compares point by point, and the mean of the differences too: a lost factor moves all values the same way.
///
/// # Panics
/// If lengths differ, a value is off by more than `tolerance`, or the mean by more than a quarter of it.
pub fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        // Written so that NaN fails.
        assert!((a - b).abs() <= tolerance, "{what}[{index}]: {a} instead of {b}, tolerance {tolerance}");
    }
    let sum: f32 = ours.iter().zip(theirs).map(|(a, b)| a - b).sum();
    let mean = sum / ours.len().max(1) as f32;
    let few = ours.len() < 8;
    assert!(few || mean.abs() <= tolerance / 4.0, "{what}: values drift by {mean} on average, tolerance {tolerance}");
}
