//! `reheat eval` as a process, on the bundled model.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The form of GSM8K, with words that the bundled base model has read.
fn rows() -> String {
    let rows = [
        json!({ "question": "The owl", "answer": "It has <<1+1=2>>2 eyes.\n#### 2" }),
        json!({ "question": "The fox", "answer": "#### -1,000" }),
    ];
    rows.map(|row| format!("{row}\n")).concat()
}

fn eval(folder: &TempDir, arguments: &[&str]) -> Output {
    fs::write(folder.path().join("rows.jsonl"), rows()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["eval", "--dataset", "rows.jsonl"])
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn answers_are_written_and_judged() {
    let folder = TempDir::new().unwrap();
    let judge = ["--judge", "accuracy:answer", "regex:.", "--max-new-tokens", "8", "--answers", "answers.jsonl"];
    let output = eval(&folder, &[&judge[..], &["--json"]].concat());
    let told: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&told["num_prompts"], &told["regex"]), (&json!(2), &json!(1.0)));

    let answers = fs::read_to_string(folder.path().join("answers.jsonl")).unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scores: Vec<f64> = answers.iter().map(|row| row["scores"]["accuracy"].as_f64().unwrap()).collect();
    assert_eq!(told["accuracy"].as_f64().unwrap(), scores.iter().sum::<f64>() / 2.0);
    assert!(answers.iter().all(|row| !row["answer"].as_str().unwrap().is_empty()), "{answers:?}");

    // Greedy: again, and one at a time, the same.
    let again = eval(&folder, &[&judge[..], &["--batch-size", "1"]].concat());
    assert!(stdout(&again).contains(" over 2 answers"), "{}", stdout(&again));
    let text = fs::read_to_string(folder.path().join("answers.jsonl")).unwrap();
    assert_eq!(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>(), answers);
}

#[test]
fn a_judge_needs_its_column() {
    let folder = TempDir::new().unwrap();
    for (arguments, expected) in [
        (&["--judge", "accuracy"][..], "needs the column `solution`, but no row of the dataset has it"),
        (&["--judge", "acuracy"], "reward `acuracy` is unknown"),
        (&["--answers", "a.jsonl"], "--judge"),
    ] {
        let output = eval(&folder, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}
