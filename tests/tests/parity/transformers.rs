//! Directories that we save, loaded by transformers.

use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use reheat_model::{Qwen2, SaveOptions};
use reheat_tests::{fixture, golden, reference_python, workspace_root};
use serde_json::json;

const INPUT_IDS: [i32; 6] = [3, 1, 4, 1, 5, 9];

#[test]
fn saved_models_load_in_transformers_with_the_same_logits() {
    let Some(python) = reference_python() else { return };
    let golden = golden("forward");
    for name in golden["models"].as_object().expect("models by name").keys() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let model = Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete");
        let options = SaveOptions { max_shard_bytes: 50_000, ..SaveOptions::default() };
        model.save(dir.path(), &options).expect("the folder is writable");

        let logits = model.logits(&INPUT_IDS); // [tokens, vocab]
        let [_tokens, vocab] = logits.dims();
        let values: Vec<f32> = logits.into_data().try_to_vec().expect("a float tensor");
        let rows: Vec<_> = values.chunks(vocab).collect();
        let expected = dir.path().join("expected.json");
        let case = json!([{ "input_ids": INPUT_IDS, "logits": rows }]);
        fs::write(&expected, case.to_string()).expect("the folder is writable");
        assert_loads(&python, dir.path(), &expected);
    }
}

/// Runs the script that loads a directory in transformers.
fn assert_loads(python: &Path, dir: &Path, expected: &Path) {
    let script = workspace_root().join("tests/golden/load_in_transformers.py");
    let output = Command::new(python).arg(script).args([dir, expected]).output().expect("python starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
