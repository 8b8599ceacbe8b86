//! Kahneman-Tversky optimisation against TRL's KTOTrainer.

use burn::tensor::Device;
use reheat_data::UnpairedCompletion;
use reheat_model::Qwen2;
use reheat_tests::{
    assert_probe, assert_trajectory, fixture, for_random_runs, golden, ids, is_of_the_loop, training_config,
};
use reheat_train::{Kto, KtoConfig, NoCallback, Reference, Trainer, precompute_reference};
use serde_json::{Map, Value, json};

#[test]
fn good_and_bad_answers() {
    check("kto");
}

#[test]
fn weights_of_good_and_bad_answers() {
    check("weighted");
}

#[test]
fn the_reference_alone() {
    check("apo_zero_unpaired");
}

#[test]
fn accumulated_answers() {
    check("accumulated");
}

/// Runs a case with both kinds of reference and compares it with TRL step by step.
fn check(name: &str) {
    let golden = golden("kto");
    check_case(name, &golden, &golden["metrics"], &golden["runs"][name]);
}

/// What `tests/golden/random_runs.py` made, if it is named.
#[test]
fn random_runs() {
    for_random_runs("kto", |name, golden, case| check_case(name, golden, &golden["metrics"]["kto"], case));
}

fn check_case(name: &str, golden: &Value, metrics: &Value, case: &Value) {
    let settings = case["settings"].as_object().expect("settings by name");
    let part = |of_the_loop: bool| -> Map<String, Value> {
        let own = settings.iter().filter(|(key, _)| {
            is_of_the_loop(key) == of_the_loop && *key != "max_length" // used up before the rows
        });
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let method: KtoConfig = serde_json::from_value(json!(part(false))).expect("TRL's names are ours");
    let training = training_config(&golden["seed"], part(true));
    let model = fixture(golden["model"].as_str().expect("a name"));
    let load = || Qwen2::load(&model, &Device::flex()).expect("the fixture is complete");
    let rows: Vec<UnpairedCompletion> = case["answers"].as_array().expect("a list").iter().map(answer).collect();

    let micro_batch_size = training.per_device_train_batch_size;
    let pairs = Kto::pairs(&rows, micro_batch_size, None);
    let known = precompute_reference(&load(), &pairs, None, 3, None, &mut |_| {}).expect("nothing is written");
    for reference in [Reference::Model(Box::new(load())), Reference::Precomputed(known)] {
        let kto = Kto::new(&rows, micro_batch_size, None, method.clone(), reference).expect("settings that TRL takes");
        let mut trainer = Trainer::new(load(), kto, training.clone()).expect("good rows");
        trainer.train(&mut NoCallback).expect("nothing stops the run");
        // TRL averages these over micro-batches, we over what they count: equal where a step is one micro-batch.
        let departures: &[&str] = match training.gradient_accumulation_steps {
            1 => &[],
            _ => &[
                "entropy",
                "logits/chosen",
                "logits/rejected",
                "rewards/chosen",
                "rewards/rejected",
                "logps/chosen",
                "logps/rejected",
            ],
        };
        assert_trajectory(name, trainer.log_history(), metrics, &case["steps"], departures);
        assert_probe(name, trainer.model(), &golden["probe_ids"], &case["probe_logits"]);
    }
}

fn answer(row: &Value) -> UnpairedCompletion {
    let label = row[2].as_bool().expect("good or bad");
    UnpairedCompletion { prompt_ids: ids(&row[0]), completion_ids: ids(&row[1]), cut_ids: Vec::new(), label }
}
