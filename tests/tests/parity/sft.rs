//! Supervised fine-tuning against TRL's SFTTrainer: the whole trajectory, and what the trained model then computes.

use burn::tensor::Device;
use reheat_data::Sequence;
use reheat_model::Qwen2;
use reheat_tests::{assert_close, fixture, floats, golden, ids};
use reheat_train::{LogRow, NoCallback, Sft, SftConfig, Trainer, TrainingConfig};
use serde_json::{Map, Value, json};

/// The first step is one forward and backward pass in f32; relative where a number is above 1.
const FIRST_STEP: f64 = 2e-5;

/// AdamW divides small numbers by small numbers, which magnifies rounding from step to step.
const LATER_STEPS: f64 = 1e-3;

/// Logits after up to eight such steps, which changed them by about 1.
pub(crate) const PROBE: f32 = 2e-3;

/// Settings of the preparation: the golden values hold the rows as they came out of it.
const PREPARATION: [&str; 4] = ["max_length", "assistant_only_loss", "packing", "packing_strategy"];

#[test]
fn assistant_only_conversations() {
    check("conversations_assistant_only");
}

#[test]
fn truncated_conversations() {
    check("conversations_truncated");
}

#[test]
fn accumulated_micro_batches_of_unequal_length() {
    check("accumulated");
}

#[test]
fn the_same_rows_in_one_micro_batch() {
    check("accumulated_wide");
}

#[test]
fn constant_learning_rate_after_a_warm_up() {
    check("constant_with_warmup");
}

/// Runs a case and compares it with TRL step by step.
fn check(name: &str) {
    let golden = golden("sft");
    let case = &golden["cases"][name];
    let config = config(&golden["seed"], case["settings"].as_object().expect("settings by name"));
    let sequences = sequences(&case["sequences"]);
    let mut departures = Vec::new();
    if config.gradient_accumulation_steps > 1 {
        // TRL averages them over micro-batches, we over tokens: equal where a step is one micro-batch.
        departures.extend(["entropy", "mean_token_accuracy"]);
    }

    let model = fixture(golden["model"].as_str().expect("a name"));
    let model = Qwen2::load(&model, &Device::flex()).expect("the fixture is complete");
    let mut trainer =
        Trainer::new(model, Sft::new(sequences, SftConfig::default()), config).expect("the rows can be trained");
    trainer.train(&mut NoCallback).expect("nothing stops the run");

    assert_steps(name, trainer.log_history(), &golden, case, &departures);
    let logits = trainer.model().logits(&ids::<i32>(&golden["probe_ids"])); // [tokens, vocab]
    let [tokens, _vocab] = logits.dims();
    let last: Vec<f32> = logits.narrow(0, tokens - 1, 1).into_data().try_to_vec().expect("a float tensor");
    assert_close(&format!("{name}, logits after training"), &last, &floats(&case["probe_logits"]), PROBE);
}

/// Compares the metrics of every step, but for `departures`.
pub(crate) fn assert_steps(name: &str, rows: &[LogRow], golden: &Value, case: &Value, departures: &[&str]) {
    let names: Vec<_> = golden["metrics"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let steps = case["steps"].as_array().expect("a list of steps");
    assert_eq!(rows.len(), steps.len(), "{name}: number of steps");
    for (row, expected) in rows.iter().zip(steps) {
        for (metric, expected) in names.iter().zip(expected.as_array().expect("a list of numbers")) {
            if !departures.contains(metric) {
                assert_metric(name, row, metric, expected.as_f64().expect("a number"));
            }
        }
    }
}

fn assert_metric(name: &str, row: &LogRow, metric: &str, expected: f64) {
    let row = serde_json::to_value(row).expect("a row is numbers by name");
    let ours = row[metric].as_f64().unwrap_or_else(|| panic!("`{metric}` is not logged"));
    let tolerance = if row["step"] == 1 { FIRST_STEP } else { LATER_STEPS };
    let bound = tolerance * expected.abs().max(1.0);
    assert!((ours - expected).abs() <= bound, "{name}, step {}: {metric} {ours} instead of {expected}", row["step"]);
}

/// Our settings with TRL's put over them: the names are the same.
pub(crate) fn config(seed: &Value, settings: &Map<String, Value>) -> TrainingConfig {
    let mut merged = json!({
        "seed": seed, "gradient_checkpointing": false, "train_sampling_strategy": "sequential", "logging_steps": 1,
        "save_strategy": "no",
    });
    let rest = settings.iter().filter(|(key, _)| !PREPARATION.contains(&key.as_str()));
    let merged_map = merged.as_object_mut().expect("an object literal");
    merged_map.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
    serde_json::from_value(merged).expect("TRL's names are ours")
}

fn sequences(rows: &Value) -> Vec<Sequence> {
    let rows = rows.as_array().expect("a list of rows");
    rows.iter().map(|row| Sequence::with_labels(ids(&row["input_ids"]), ids(&row["labels"]))).collect()
}
