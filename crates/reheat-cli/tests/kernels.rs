//! `--kernels` on the command line: both implementations on the bundled model.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn reheat(folder: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Sums come in another order: after a few steps of training the losses agree to a few units in the last places.
const TOLERANCE: f64 = 1e-4;

/// The loss and the gradient's norm of every step.
fn trained(folder: &Path, kernels: &str, more: &str) -> Vec<[f64; 2]> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let (model, rows) = (demo.join("base"), demo.join("train.jsonl"));
    reheat(
        folder,
        &format!(
            "sft --model {} --dataset {} --max-steps 3 --logging-steps 1 --learning-rate 1e-3 --dtype float32 --output-dir {kernels} --kernels {kernels} {more}",
            model.display(),
            rows.display()
        ),
    );
    let metrics = fs::read_to_string(folder.join(kernels).join("metrics.jsonl")).expect("a run writes its metrics");
    let rows = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    let steps = rows.filter_map(|row| Some([row["loss"].as_f64()?, row["grad_norm"].as_f64()?])).collect::<Vec<_>>();
    assert_eq!(steps.len(), 3);
    steps
}

#[test]
fn definitions_and_kernels_train_alike() {
    for more in ["", "--packing true", "--use-peft --lora-r 4 --lora-dropout 0.1"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (fused, reference) = (trained(folder.path(), "fused", more), trained(folder.path(), "reference", more));
        for (fused, reference) in fused.iter().flatten().zip(reference.iter().flatten()) {
            assert!((fused - reference).abs() <= TOLERANCE * reference.abs(), "{more}: {fused}, not {reference}");
        }
    }
}

#[test]
fn definitions_and_kernels_continue_alike() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = |kernels: &str| -> Value {
        let text = reheat(folder.path(), &format!("generate Octopuses --max-new-tokens 12 --json --kernels {kernels}"));
        serde_json::from_str(&text).expect("one JSON document")
    };
    let (fused, reference) = (said("fused"), said("reference"));
    assert_eq!(fused["ids"], reference["ids"]);
    let logprobs = |value: &Value| -> Vec<f64> {
        value["logprobs"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect()
    };
    let (fused, reference) = (logprobs(&fused), logprobs(&reference));
    assert!(!fused.is_empty() && fused.len() == reference.len());
    for (fused, reference) in fused.iter().zip(&reference) {
        assert!((fused - reference).abs() <= TOLERANCE, "{fused}, not {reference}");
    }
}

#[test]
fn the_doctor_compares_definitions_too() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report: Value =
        serde_json::from_str(&reheat(folder.path(), "doctor --device cpu --kernels reference --json")).expect("JSON");
    let kernels = report["kernels"].as_array().expect("a list");
    assert!(kernels.iter().all(|kernel| kernel["error"] == 0.0), "the definition differs from itself: {report}");
}
