//! Reward models against TRL's RewardTrainer.

use burn::tensor::{Device, Tensor};
use reheat_data::RewardPair;
use reheat_model::{Qwen2, map_parameters};
use reheat_tests::{assert_close, assert_trajectory, fixture, floats, golden, ids, training_config};
use reheat_train::{NoCallback, RewardConfig, RewardTraining, Trainer};
use serde_json::{Map, Value, json};

/// Scores after up to four steps of AdamW in f32, which moved them by about 1.
const PROBE: f32 = 2e-3;

#[test]
fn pairs_of_answers() {
    check("reward");
}

#[test]
fn rewards_around_zero() {
    check("centred");
}

#[test]
fn margins_of_the_rows() {
    check("margins");
}

#[test]
fn accumulated_pairs() {
    check("accumulated");
}

/// Runs a case and compares it with TRL step by step.
fn check(name: &str) {
    let golden = golden("reward");
    let case = &golden["runs"][name];
    let settings = case["settings"].as_object().expect("settings by name");
    let is_own = |key: &str| key == "center_rewards_coefficient";
    let part = |own: bool| -> Map<String, Value> {
        let chosen = settings.iter().filter(|(key, _)| is_own(key) == own && *key != "max_length"); // used up before the rows
        chosen.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let method: RewardConfig = serde_json::from_value(json!(part(true))).expect("TRL's names are ours");
    let training = training_config(&golden["seed"], part(false));
    let pairs: Vec<RewardPair> = case["pairs"].as_array().expect("a list").iter().map(pair).collect();
    let training_of_pairs = RewardTraining::new(pairs, method).expect("settings that TRL takes");
    let mut trainer = Trainer::new(model(&golden), training_of_pairs, training).expect("good rows");
    trainer.train(&mut NoCallback).expect("nothing stops the run");
    assert_trajectory(name, trainer.log_history(), &golden["metrics"], &case["steps"], &[]);

    let probes: Vec<Vec<i32>> = golden["probes"].as_array().expect("a list").iter().map(ids).collect();
    let lens: Vec<usize> = probes.iter().map(Vec::len).collect();
    let scores = trainer.model().scores(&probes.concat(), &lens).into_data().try_to_vec::<f32>().expect("f32");
    assert_close(&format!("{name}, scores after training"), &scores, &floats(&case["probe_scores"]), PROBE);
}

/// The fixture with the head that the case starts from.
fn model(golden: &Value) -> Qwen2 {
    let device = Device::flex();
    let dir = fixture(golden["model"].as_str().expect("a name"));
    let model = Qwen2::load(&dir, &device).expect("the fixture is complete").with_score_head(0);
    let head = floats(&golden["score"]);
    map_parameters(model, "", |name, value| match name {
        "score.weight" => Tensor::from_data(head.as_slice(), &device),
        _ => value,
    })
}

fn pair(row: &Value) -> RewardPair {
    let margin = row[2].as_f64().map(|margin| margin as f32);
    RewardPair { chosen_ids: ids(&row[0]), rejected_ids: ids(&row[1]), margin }
}
