//! Whole training runs beside the reference's.

use reheat_model::Qwen2;
use reheat_train::{LogRow, TrainingConfig};
use serde_json::{Map, Value, json};

use crate::{assert_close, floats, ids};

/// The first step is one forward and backward pass in f32; relative where a number is above 1.
const FIRST_STEP: f64 = 2e-5;

/// AdamW divides small numbers by small numbers, which magnifies rounding from step to step.
const LATER_STEPS: f64 = 1e-3;

/// Logits after up to eight such steps, which changed them by about 1.
const PROBE: f32 = 2e-3;

/// Settings of golden cases that belong to the loop and not to a method.
const OF_THE_LOOP: [&str; 7] = [
    "learning_rate",
    "per_device_train_batch_size",
    "num_train_epochs",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "lr_scheduler_type",
    "weight_decay",
];

/// Whether a setting of a golden case is for [`training_config`].
#[must_use]
pub fn is_of_the_loop(setting: &str) -> bool {
    OF_THE_LOOP.contains(&setting)
}

/// Settings of the loop with a golden case's put over them: TRL's names are ours.
///
/// # Panics
/// If there is a setting that the loop does not have.
#[must_use]
pub fn training_config(seed: &Value, settings: Map<String, Value>) -> TrainingConfig {
    let mut merged = json!({
        "seed": seed, "gradient_checkpointing": false, "train_sampling_strategy": "sequential", "logging_steps": 1,
        "save_strategy": "no",
    });
    merged.as_object_mut().expect("an object literal").extend(settings);
    serde_json::from_value(merged).expect("TRL's names are ours")
}

/// Compares what was logged with `steps`, whose numbers are of `metrics`; those in `departures` are left out.
///
/// # Panics
/// If the number of steps differs or a metric is off.
pub fn assert_trajectory(name: &str, history: &[LogRow], metrics: &Value, steps: &Value, departures: &[&str]) {
    let metrics: Vec<&str> = metrics.as_array().expect("a list of names").iter().filter_map(Value::as_str).collect();
    let steps = steps.as_array().expect("a list of steps");
    assert_eq!(history.len(), steps.len(), "{name}: number of steps");
    for (row, expected) in history.iter().zip(steps) {
        let tolerance = if row.step == 1 { FIRST_STEP } else { LATER_STEPS };
        let values = serde_json::to_value(row).expect("a row is numbers by name");
        for (metric, expected) in metrics.iter().zip(expected.as_array().expect("a list of numbers")) {
            // Null: the reference has nothing to say of it at this step.
            let Some(expected) = expected.as_f64().filter(|_| !departures.contains(metric)) else { continue };
            let ours = values[metric].as_f64().unwrap_or_else(|| panic!("{name}: `{metric}` is not logged"));
            let bound = tolerance * expected.abs().max(1.0);
            let step = row.step;
            assert!((ours - expected).abs() <= bound, "{name}, step {step}: {metric} {ours} instead of {expected}");
        }
    }
}

/// Compares the last logits that the trained model gives for the ids `probe`: all of them, or every n-th where fewer are
/// expected.
///
/// # Panics
/// If a logit is off.
pub fn assert_probe(name: &str, model: &Qwen2, probe: &Value, expected: &Value) {
    let logits = model.logits(&ids::<i32>(probe)); // [tokens, vocab]
    let [tokens, _vocab] = logits.dims();
    let last: Vec<f32> = logits.narrow(0, tokens - 1, 1).into_data().try_to_vec().expect("a float tensor");
    let expected = floats(expected);
    let some: Vec<f32> = last.iter().copied().step_by(last.len().div_ceil(expected.len())).collect();
    assert_close(&format!("{name}, logits after training"), &some, &expected, PROBE);
}
