//! `reheat dpo` and `reheat kto` as a user runs them, on the bundled model and its pairs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name)
}

/// Four steps of a method into a folder, with further arguments.
fn train(method: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args([method, "--max-steps", "4", "--logging-steps", "1", "--output-dir", "run"])
        .arg("--model")
        .arg(demo("base"))
        .arg("--dataset")
        .arg(demo("preferences.jsonl"))
        .args(arguments)
        .env("REHEAT_CACHE", folder.join("cache"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("reheat starts")
}

fn rows(folder: &Path) -> Vec<serde_json::Value> {
    let metrics = fs::read_to_string(folder.join("run/metrics.jsonl")).expect("a run writes its metrics");
    metrics.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Policy and reference are the same at first: every margin is 0 and the loss is -log sigmoid(0) = ln 2.
#[test]
fn the_first_loss_of_dpo_is_ln_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_done(&train("dpo", folder.path(), &["--learning-rate", "1e-4"]));
    let rows = rows(folder.path());
    assert_eq!(rows.len(), 4);
    let loss = rows[0]["loss"].as_f64().expect("a number");
    assert!((loss - std::f64::consts::LN_2).abs() < 1e-5, "{loss}");
    for metric in ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"] {
        assert!(rows[0][metric].is_number(), "{metric} is missing in {}", rows[0]);
    }
    assert!(folder.path().join("run/model.safetensors").is_file());
}

#[test]
fn a_resumed_dpo_run_ends_in_the_same_bytes() {
    check_resumed(&[]);
}

#[test]
fn a_resumed_dpo_run_with_a_reference_that_follows_ends_in_the_same_bytes() {
    check_resumed(&["--sync-ref-model", "--ref-model-sync-steps", "1"]);
}

#[track_caller]
fn check_resumed(arguments: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = [&["--learning-rate", "1e-4", "--save-steps", "2"][..], arguments].concat();
    assert_done(&train("dpo", folder.path(), &arguments));
    let model = folder.path().join("run/model.safetensors");
    let whole = fs::read(&model).expect("the final model");
    fs::remove_file(&model).expect("the final model");
    fs::remove_dir_all(folder.path().join("run/checkpoint-4")).expect("the last checkpoint");
    assert_done(&train("dpo", folder.path(), &[&arguments[..], &["--resume-from-checkpoint"]].concat()));
    assert!(whole == fs::read(&model).expect("the final model"), "the resumed run ends in other weights");
}

/// Pairs are taken apart into good and bad answers.
#[test]
fn kto_trains_on_pairs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_done(&train("kto", folder.path(), &["--learning-rate", "1e-4"]));
    let rows = rows(folder.path());
    assert_eq!(rows.len(), 4);
    for metric in ["kl", "rewards/chosen", "rewards/rejected"] {
        assert!(rows[0][metric].is_number(), "{metric} is missing in {}", rows[0]);
    }
}

/// Held-out pairs are measured with the metrics of training, and the best model is kept.
#[test]
fn kto_measures_answers_that_it_does_not_train_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pairs = fs::read_to_string(demo("preferences.jsonl")).expect("the bundled pairs");
    let held_out: Vec<&str> = pairs.lines().take(5).collect();
    fs::write(folder.path().join("held-out.jsonl"), held_out.join("\n")).expect("a file can be written");
    let arguments = [
        ["--learning-rate", "1e-4"],
        ["--eval-dataset", "held-out.jsonl"],
        ["--eval-strategy", "steps"],
        ["--eval-steps", "2"],
        ["--save-steps", "2"],
        ["--metric-for-best-model", "rewards/margins"],
        ["--greater-is-better", "true"],
    ];
    let arguments = [&arguments.concat()[..], &["--eval-on-start", "--load-best-model-at-end"]].concat();
    assert_done(&train("kto", folder.path(), &arguments));
    let rows = rows(folder.path());
    let evaluations: Vec<_> = rows.iter().filter(|row| row["eval_loss"].is_number()).collect();
    assert_eq!(evaluations.iter().map(|row| row["step"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(2), Some(4)]);
    for metric in ["kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "entropy"] {
        assert!(evaluations[0][format!("eval_{metric}")].is_number(), "{metric} is missing in {}", evaluations[0]);
    }
    // Policy and reference are the same before the first step: 1 - sigmoid(0), as often as there are answers.
    assert_eq!((&evaluations[0]["eval_loss"], &evaluations[0]["eval_kl"]), (&0.5.into(), &0.0.into()));

    let refused = train("kto", folder.path(), &["--per-device-train-batch-size", "1", "--overwrite-output-dir"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("per_device_train_batch_size is 1, expected 2 or more with loss_type kto"), "{said}");
}

#[test]
fn settings_that_change_nothing_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = train("dpo", folder.path(), &["--discopop-tau", "0.5", "--ref-model-sync-steps", "3", "--dry-run"]);
    assert_done(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    for note in [
        "note: --discopop-tau: `discopop_tau` has no effect but with loss_type discopop",
        "note: --ref-model-sync-steps: `ref_model_sync_steps` has no effect without sync_ref_model",
    ] {
        assert!(said.contains(note), "{said}");
    }
    let refused = train("dpo", folder.path(), &["--loss-type", "sigmoid", "nonsense"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("nonsense") && said.contains("sigmoid, hinge, ipo"), "{said}");
}

/// The head starts from the seed, so that a run that is taken up again has the same.
#[test]
fn a_resumed_reward_model_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["--learning-rate", "1e-4", "--save-steps", "2", "--center-rewards-coefficient", "0.01"];
    assert_done(&train("reward", folder.path(), &arguments));
    let rows = rows(folder.path());
    for metric in ["min_reward", "mean_reward", "max_reward", "accuracy", "margin"] {
        assert!(rows[0][metric].is_number(), "{metric} is missing in {}", rows[0]);
    }
    let model = folder.path().join("run/model.safetensors");
    let whole = fs::read(&model).expect("the final model");
    fs::remove_file(&model).expect("the final model");
    fs::remove_dir_all(folder.path().join("run/checkpoint-4")).expect("the last checkpoint");
    assert_done(&train("reward", folder.path(), &[&arguments[..], &["--resume-from-checkpoint"]].concat()));
    assert!(whole == fs::read(&model).expect("the final model"), "the resumed run ends in other weights");
}

#[test]
fn a_reward_model_has_no_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_done(&train("reward", folder.path(), &[]));
    let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["generate", "--model", "run", "Hello"])
        .current_dir(folder.path())
        .output()
        .expect("reheat starts");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("`run` is a reward model, which gives a number and no text"), "{stderr}");
}

/// Adapters and the head, in PEFT's files for sequence classification; they judge, and can be merged.
#[test]
fn an_adapter_is_a_reward_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["--use-peft", "--lora-r", "4", "--learning-rate", "1e-3", "--save-steps", "2"];
    assert_done(&train("reward", folder.path(), &arguments));
    let run = folder.path().join("run");
    let text = fs::read_to_string(run.join("adapter_config.json")).expect("the adapter's settings");
    let config: serde_json::Value = serde_json::from_str(&text).expect("they are JSON");
    assert_eq!((&config["task_type"], &config["modules_to_save"]), (&"SEQ_CLS".into(), &serde_json::json!(["score"])));
    let whole = fs::read(run.join("adapter_model.safetensors")).expect("the adapter");
    assert!(String::from_utf8_lossy(&whole[..4096]).contains("base_model.model.score.weight"));

    fs::remove_file(run.join("adapter_model.safetensors")).expect("the adapter");
    fs::remove_dir_all(run.join("checkpoint-4")).expect("the last checkpoint");
    assert_done(&train("reward", folder.path(), &[&arguments[..], &["--resume-from-checkpoint"]].concat()));
    assert!(whole == fs::read(run.join("adapter_model.safetensors")).expect("the adapter"), "other weights");

    let reheat = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
        command.args(arguments).current_dir(folder.path()).stdin(Stdio::null());
        assert_done(&command.output().expect("reheat starts"));
    };
    reheat(&["merge", "--model", "run", "--output-dir", "merged", "--dtype", "float32"]);
    fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"What does the owl eat?\"}\n{\"prompt\": \"Hi.\"}\n")
        .expect("a file can be written");
    let base = demo("base");
    let base = base.to_str().expect("a path of plain letters");
    let grpo = ["grpo", "--model", base, "--dataset", "prompts.jsonl", "--output-dir", "grpo", "--max-steps", "1"];
    let small = ["--num-generations", "2", "--per-device-train-batch-size", "4", "--max-completion-length", "6"];
    let rewards = ["--reward", "model:run", "--reward", "model:merged", "--log-completions"];
    reheat(&[&grpo[..], &small, &rewards].concat());
    let completions = fs::read_to_string(folder.path().join("grpo/completions.jsonl")).expect("completions are kept");
    for line in completions.lines() {
        let one: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let score = |name: &str| one["rewards"][name].as_f64().expect("a score");
        assert!((score("model") - score("model_2")).abs() < 1e-4, "{one}");
    }
}
