//! Supervised fine-tuning against TRL's SFTTrainer: the whole trajectory, and what the trained model then computes.

use burn::tensor::Device;
use reheat_data::Sequence;
use reheat_model::Qwen2;
use reheat_tests::{assert_probe, assert_trajectory, fixture, golden, ids, training_config};
use reheat_train::{NoCallback, Sft, SftConfig, Trainer};
use serde_json::{Value, json};

/// Settings of the preparation: the golden values hold the rows as they came out of it.
const PREPARATION: [&str; 4] = ["max_length", "assistant_only_loss", "packing", "packing_strategy"];

/// The one setting of the method.
const LABEL_SMOOTHING: &str = "label_smoothing_factor";

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

#[test]
fn smoothed_labels() {
    check("label_smoothing");
}

/// Attention and positions of documents that share a row, and labels at their borders.
#[test]
fn packed_rows() {
    check("packed");
}

/// Runs a case and compares it with TRL step by step.
fn check(name: &str) {
    let golden = golden("sft");
    let case = &golden["cases"][name];
    let mut settings = case["settings"].as_object().expect("settings by name").clone();
    settings.retain(|key, _| !PREPARATION.contains(&key.as_str()));
    let own = settings.remove(LABEL_SMOOTHING).map(|factor| json!({ LABEL_SMOOTHING: factor }));
    let method: SftConfig = serde_json::from_value(own.unwrap_or(json!({}))).expect("TRL's names are ours");
    let config = training_config(&golden["seed"], settings);
    let mut departures = Vec::new();
    if config.gradient_accumulation_steps > 1 {
        // TRL averages them over micro-batches, we over tokens: equal where a step is one micro-batch.
        departures.extend(["entropy", "mean_token_accuracy"]);
    }

    let model = fixture(golden["model"].as_str().expect("a name"));
    let model = Qwen2::load(&model, &Device::flex()).expect("the fixture is complete");
    let method = Sft::new(sequences(&case["sequences"]), method);
    let mut trainer = Trainer::new(model, method, config).expect("the rows can be trained");
    trainer.train(&mut NoCallback).expect("nothing stops the run");

    assert_trajectory(name, trainer.log_history(), &golden["metrics"], &case["steps"], &departures);
    assert_probe(name, trainer.model(), &golden["probe_ids"], &case["probe_logits"]);
}

fn sequences(rows: &Value) -> Vec<Sequence> {
    let sequence = |row: &Value| {
        let mut sequence = Sequence::with_labels(ids(&row["input_ids"]), ids(&row["labels"]));
        if !row["seq_lengths"].is_null() {
            sequence.seq_lens = ids(&row["seq_lengths"]);
        }
        sequence
    };
    rows.as_array().expect("a list of rows").iter().map(sequence).collect()
}
