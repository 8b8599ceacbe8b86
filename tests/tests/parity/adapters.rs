//! Low-rank adapters against PEFT: its adapters here, ours there, and TRL's training of them.

use std::fs;
use std::process::Command;

use burn::tensor::{Device, Tensor};
use reheat_data::Sequence;
use reheat_model::{LoraConfig, Qwen2, SaveOptions, TargetModules};
use reheat_tests::{
    assert_close, assert_probe, assert_trajectory, fixture, floats, golden, ids, reference_python, training_config,
    workspace_root,
};
use reheat_train::{NoCallback, Sft, SftConfig, Trainer};
use serde_json::{Value, json};

/// f32 against f32 with sums in another order; logits are of size 10.
const TOLERANCE: f32 = 1e-4;

/// Logits, `[tokens, vocab]`.
fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("a float tensor")
}

fn base(golden: &Value) -> Qwen2 {
    let name = golden["model"].as_str().expect("a name");
    Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete")
}

fn last_logits(model: &Qwen2, input_ids: &[i32]) -> Vec<f32> {
    let logits = model.logits(input_ids);
    values(logits.narrow(0, input_ids.len() - 1, 1))
}

#[test]
fn adapters_of_peft_give_its_logits_here() {
    let golden = golden("adapters");
    let input_ids: Vec<i32> = ids(&golden["input_ids"]);
    for (name, case) in golden["cases"].as_object().expect("cases by name") {
        let dir = fixture("adapters").join(name);
        let model = base(&golden).with_adapter(&dir).expect("the adapter belongs to the model");
        assert_close(name, &last_logits(&model, &input_ids), &floats(&case["logits"]), TOLERANCE);
        if let Some(expected) = case.get("merged_logits") {
            let merged = last_logits(&model.merged(), &input_ids);
            assert_close(&format!("{name}, merged"), &merged, &floats(expected), TOLERANCE);
        }
    }
}

#[test]
fn our_adapters_give_our_logits_in_peft() {
    let Some(python) = reference_python() else { return };
    let golden = golden("adapters");
    let input_ids: Vec<i32> = ids(&golden["input_ids"]);
    let base_dir = fixture(golden["model"].as_str().expect("a name"));
    // Written by PEFT, read and written again by us; and one that never was PEFT's.
    let mut models: Vec<Qwen2> = ["all-linear", "patterns", "rslora-dora", "saved-modules", "tokens"]
        .iter()
        .map(|name| base(&golden).with_adapter(&fixture("adapters").join(name)).expect("the adapter fits"))
        .collect();
    let config = LoraConfig { target_modules: TargetModules::AllLinear, use_dora: true, ..LoraConfig::default() };
    models.push(base(&golden).with_lora(config, "base", 1).expect("the settings are fine"));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let cases: Vec<Value> = models
        .iter()
        .enumerate()
        .map(|(index, model)| {
            let adapter = dir.path().join(index.to_string());
            model.save(&adapter, &SaveOptions::default()).expect("the folder is writable");
            let logits = model.logits(&input_ids); // [tokens, vocab]
            let [_tokens, vocab] = logits.dims();
            let rows: Vec<Vec<f32>> = values(logits).chunks(vocab).map(<[f32]>::to_vec).collect();
            json!({ "adapter": adapter, "input_ids": input_ids, "logits": rows })
        })
        .collect();
    let file = dir.path().join("cases.json");
    fs::write(&file, json!(cases).to_string()).expect("the folder is writable");
    let script = workspace_root().join("tests/golden/load_in_peft.py");
    let output = Command::new(&python).arg(script).args([&base_dir, &file]).output().expect("python starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn training_adapters_follows_trl() {
    let golden = golden("lora");
    let mut settings = golden["settings"].as_object().expect("settings by name").clone();
    settings.remove("max_length"); // used up before the rows
    let rows = golden["rows"].as_array().expect("a list of rows");
    for (name, case) in golden["cases"].as_object().expect("cases by name") {
        let dir = fixture("adapters").join(name);
        let model = base(&golden).with_adapter(&dir).expect("the adapter belongs to the model");
        let trained = model.num_trained_parameters();
        assert_eq!(json!(trained), case["trained_parameters"], "{name}: trained parameters");
        let sequences = rows.iter().map(|row| Sequence::new(ids(row))).collect();
        let method = Sft::new(sequences, SftConfig::default());
        let config = training_config(&golden["seed"], settings.clone());
        let mut trainer = Trainer::new(model, method, config).expect("the rows can be trained");
        trainer.train(&mut NoCallback).expect("nothing stops the run");
        // TRL averages these over micro-batches, we over tokens.
        let departures = ["entropy", "mean_token_accuracy"];
        assert_trajectory(name, trainer.log_history(), &golden["metrics"], &case["steps"], &departures);
        assert_probe(name, trainer.model(), &golden["probe_ids"], &case["probe_logits"]);
    }
}
