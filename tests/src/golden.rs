//! Golden values and their comparison.

use std::fs;
use std::path::Path;

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

/// Calls `check` with a name, the whole file and one run, for each run of `method` in the file that
/// `$REHEAT_RANDOM_RUNS` names; `tests/golden/random_runs.py` makes such files. Nothing is done where it is not set.
///
/// # Panics
/// If the file is damaged; or, after all were tried, if a check panicked.
pub fn for_random_runs(method: &str, check: impl Fn(&str, &Value, &Value)) {
    let Some(path) = std::env::var_os("REHEAT_RANDOM_RUNS") else { return };
    let path = Path::new(&path);
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let runs = all[method].as_array().expect("a list of runs");
    let failed = runs.iter().enumerate().filter(|(index, run)| {
        let name = format!("{method} {index}: {} {}", run["rewards"], run["settings"]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&name, &all, run))).is_err()
    });
    let failed = failed.count();
    assert_eq!(failed, 0, "of {} runs", runs.len());
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
