//! `reheat data` as a process: what a person and a program get.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

const SHARE_GPT: &str =
    r#"{"conversations": [{"from": "human", "value": "What does a bee eat?"}, {"from": "gpt", "value": "Nectar."}]}"#;

struct Ran {
    code: i32,
    out: String,
    talk: String,
}

fn run(folder: &TempDir, line: &str) -> Ran {
    let words = line.split(' ');
    let output =
        Command::cargo_bin("reheat").unwrap().current_dir(folder.path()).arg("data").args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), talk: text(output.stderr) }
}

fn done(folder: &TempDir, line: &str) -> String {
    let ran = run(folder, line);
    assert_eq!(ran.code, 0, "{line}: {}", ran.talk);
    ran.out
}

fn json_of(folder: &TempDir, line: &str) -> Value {
    serde_json::from_str(&done(folder, line)).unwrap()
}

fn with(rows: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    folder
}

#[test]
fn an_inspection_names_format_roles_and_findings() {
    let folder = with(&[SHARE_GPT, SHARE_GPT]);
    let plain = done(&folder, "inspect rows.jsonl");
    for part in [
        "2 rows",
        "rows.jsonl: sharegpt, since `conversations` is a list of objects with `from` and `value`",
        "conversations  list of {from, value}",
        "assistant ×2, user ×2",
        "1 repeat another",
        "rows.jsonl:2 repeats rows.jsonl:1",
    ] {
        assert!(plain.contains(part), "{part} is missing:\n{plain}");
    }
    let json = json_of(&folder, "inspect --dataset rows.jsonl --json");
    assert_eq!(
        (&json["rows"], &json["files"][0]["format"], &json["tokens"]),
        (&json!(2), &json!("sharegpt"), &Value::Null)
    );
    assert_eq!(json["examples"][0]["messages"][1], json!({"role": "assistant", "content": "Nectar."}));
}

#[test]
fn a_conversion_goes_to_stdout_or_into_a_file() {
    let folder = with(&[SHARE_GPT]);
    let expected = json!({"messages": [
        {"role": "user", "content": "What does a bee eat?"}, {"role": "assistant", "content": "Nectar."},
    ]});
    assert_eq!(json_of(&folder, "convert rows.jsonl"), expected);
    assert_eq!(done(&folder, "convert --format sharegpt rows.jsonl --output out.parquet"), "out.parquet\n");
    assert_eq!(json_of(&folder, "convert out.parquet"), expected);
    assert_eq!(json_of(&folder, "convert rows.jsonl -o out.jsonl --json")["examples"], 1);
}

#[test]
fn bad_rows_end_a_conversion_or_are_set_aside() {
    let folder = with(&[SHARE_GPT, "{\"conversations\": []}"]);
    let ran = run(&folder, "convert rows.jsonl -o out.jsonl");
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(
        ran.talk.contains("error: rows.jsonl:2: `conversations` is empty\nhint: --on-bad-row skip"),
        "{}",
        ran.talk
    );
    assert!(!folder.path().join("out.jsonl").exists());

    let ran = run(&folder, "convert rows.jsonl -o out.jsonl --on-bad-row skip");
    assert_eq!(ran.code, 0);
    assert!(ran.talk.contains("2 rows read, 1 written\n1 row left out: empty\n"), "{}", ran.talk);
    let rejected = fs::read_to_string(folder.path().join("out.jsonl.rejected.jsonl")).unwrap();
    let rejected: Value = serde_json::from_str(&rejected).unwrap();
    assert_eq!((&rejected["row"], &rejected["text"]), (&json!("rows.jsonl:2"), &json!("{\"conversations\": []}")));
}

#[test]
fn a_preview_shows_what_is_learned() {
    let folder = with(&[SHARE_GPT]);
    let plain = done(&folder, "preview rows.jsonl --assistant-only-loss");
    let expected = "<|im_start|>user\nWhat does a bee eat?<|im_end|>\n<|im_start|>assistant\n⟦Nectar.<|im_end|>⟧\n";
    assert!(plain.contains(expected), "{plain}");
    let json = json_of(&folder, "preview rows.jsonl --max-length 8 --json");
    let sequence = &json["sequences"][0];
    assert_eq!(
        (sequence["name"].as_str(), sequence["input_ids"].as_array().map(Vec::len)),
        (Some("sequence"), Some(8))
    );
    assert_eq!(sequence["input_ids"], sequence["labels"]);
    assert!(json["tokens_cut"].as_u64().unwrap() > 0);

    let pairs = with(&[r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#]);
    let json = json_of(&pairs, "preview rows.jsonl --json");
    let names: Vec<&str> =
        json["sequences"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chosen", "rejected"]);
}

#[test]
fn lengths_say_what_a_limit_cuts() {
    let folder = with(&[r#"{"text": "one two three four five six"}"#, r#"{"text": "one"}"#]);
    let json = json_of(&folder, "lengths rows.jsonl --max-length 4 --bins 3 --plot lengths.png --json");
    let bins: u64 = json["bins"].as_array().unwrap().iter().map(|bin| bin["count"].as_u64().unwrap()).sum();
    assert_eq!((bins, &json["over"], &json["over_share"]), (2, &json!(1), &json!(0.5)));
    let max = json["tokens"]["max"].as_u64().unwrap();
    assert_eq!(json["tokens_cut"], max - 4);
    assert!(fs::read(folder.path().join("lengths.png")).unwrap().starts_with(b"\x89PNG"));
    let plain = done(&folder, "lengths rows.jsonl --max-length 4");
    assert!(plain.contains("--max-length 4 cuts 1 sequence (50.0%)"), "{plain}");
}

#[test]
fn wrong_use_is_met_with_what_is_missing() {
    let folder = with(&[SHARE_GPT]);
    for (line, expected) in [
        ("inspect", "error: no dataset is named\nhint: name files, a folder"),
        ("inspect rows.jsonl --dataset rows.jsonl", "error: the dataset is named twice"),
        ("convert rows.jsonl -o out.xlsx", "error: output `out.xlsx`: expected a name that ends in .jsonl or .parquet"),
        ("preview rows.jsonl --packing-batch-size 5", "error: packing_batch_size has no effect without packing"),
        ("convert rows.jsonl --format chatml", "error: format `chatml`: expected one of messages, sharegpt"),
        ("lengths rows.jsonl --plot a.gif", "expected a file name that ends in .svg or .png"),
    ] {
        let ran = run(&folder, line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.talk);
        assert!(ran.talk.contains(expected), "{line}: {}", ran.talk);
    }
}
