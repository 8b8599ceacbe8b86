//! `next-token`, `generate` and `chat` as processes: what they print, and what they say to bad input.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// What a run left.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn reheat(arguments: &[&str], folder: &Path, stdin: &str) -> Ended {
    let output =
        Command::cargo_bin("reheat").unwrap().args(arguments).current_dir(folder).write_stdin(stdin).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(arguments: &[&str]) -> Ended {
    reheat(arguments, TempDir::new().unwrap().path(), "")
}

fn lines(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A refusal: exit code 2, nothing on stdout, and a message that has all of `parts`.
fn refused(ended: &Ended, parts: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{}", ended.stderr);
    for part in parts {
        assert!(ended.stderr.contains(part), "`{part}` is missing in: {}", ended.stderr);
    }
}

#[test]
fn next_token_keeps_its_contract() {
    let found = lines(&run(&["next-token", "--json", "--all-positions", "--top-k", "3", "The zebra eats"])).remove(0);
    let positions = found["positions"].as_array().unwrap();
    assert_eq!(found["shape"], serde_json::json!([1, positions.len(), 1024]));
    let prefixes: Vec<&str> = positions.iter().map(|position| position["prefix"].as_str().unwrap()).collect();
    assert_eq!(prefixes, ["The", "The zebra", "The zebra eats"]);
    for position in positions {
        let top = position["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert!(position["entropy"].as_f64().unwrap() >= 0.0);
        for expected in top {
            let (prob, logprob) = (expected["prob"].as_f64().unwrap(), expected["logprob"].as_f64().unwrap());
            assert!((prob.ln() - logprob).abs() < 1e-6 && expected["id"].is_u64() && expected["token"].is_string());
        }
        assert!(top.windows(2).all(|pair| pair[0]["prob"].as_f64() >= pair[1]["prob"].as_f64()));
    }
}

#[test]
fn a_model_compared_with_itself_is_no_distance_away() {
    let folder = TempDir::new().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped");
    let model = model.to_str().unwrap();
    let arguments = ["next-token", "--model", model, "--compare", model, "--json", "--plot", "both.svg", "abc"];
    let found = lines(&reheat(&arguments, folder.path(), "")).remove(0);
    let position = &found["positions"][0];
    assert!(position["kl"].as_f64().unwrap() < 1e-9);
    assert_eq!(position["top"][0]["prob"], position["top"][0]["other_prob"]);
    assert_eq!(position["entropy"], position["other"]["entropy"]);
    assert!(fs::read_to_string(folder.path().join("both.svg")).unwrap().contains("probability"));
}

#[test]
fn narrow_terminals_get_narrow_lines() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/base");
    let model = model.to_str().unwrap();
    for columns in [30, 44, 60, 100] {
        let show = |arguments: &[&str]| {
            let folder = TempDir::new().unwrap();
            let output = Command::cargo_bin("reheat")
                .unwrap()
                .args(["next-token", "The zebra eats"])
                .args(arguments)
                .current_dir(folder.path())
                .env("COLUMNS", columns.to_string())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let bars: Vec<&str> = text.lines().filter(|line| line.contains('%')).collect();
            assert!(!bars.is_empty() && bars.iter().all(|line| line.chars().count() <= columns), "{columns}: {text}");
            bars.len()
        };
        assert_eq!(show(&[]), 10);
        // Side by side where there is room, else one below the other.
        assert_eq!(show(&["--compare", model]), if columns >= 60 { 10 } else { 20 });
    }
}

#[test]
fn perplexity_is_the_mean_surprise_of_the_tokens() {
    let found = lines(&run(&["next-token", "--json", "--perplexity", "The zebra eats grass."])).remove(0);
    let logprobs: Vec<f64> =
        found["tokens"].as_array().unwrap().iter().map(|token| token["logprob"].as_f64().unwrap()).collect();
    let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    assert!((found["perplexity"].as_f64().unwrap().ln() + mean).abs() < 1e-6);
    refused(&run(&["next-token", "--perplexity", "The"]), &["one token", "hint:"]);
}

#[test]
fn generate_keeps_its_contract_and_one_seed_gives_one_text() {
    let arguments = ["generate", "--json", "--temperature", "1", "--seed", "3", "--max-new-tokens", "12", "The zebra"];
    let (first, second) = (run(&arguments), run(&arguments));
    assert_eq!(first.stdout, second.stdout);
    let found = lines(&first).remove(0);
    assert!(found["text"].is_string() && ["stop", "length"].contains(&found["finish_reason"].as_str().unwrap()));
    assert_eq!(found["ids"].as_array().unwrap().len(), found["logprobs"].as_array().unwrap().len());
}

#[test]
fn many_prompts_give_a_line_for_each_completion_as_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("prompts.jsonl"),
        "{\"prompt\": \"The zebra eats\"}\n\n{\"text\": \"The lion\"}\n{\"input_ids\": [1, 2, 3]}\n",
    )
    .unwrap();
    let arguments = ["generate", "--prompts", "prompts.jsonl", "-n", "2", "--json", "--max-new-tokens", "6"];
    let rows = lines(&reheat(&arguments, folder.path(), ""));
    let places: Vec<(u64, u64)> =
        rows.iter().map(|row| (row["prompt"].as_u64().unwrap(), row["sample"].as_u64().unwrap())).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    let alone = lines(&run(&["generate", "--json", "--max-new-tokens", "6", "The zebra eats"])).remove(0);
    assert_eq!(rows[0]["ids"], alone["ids"]);
    assert_eq!(rows[1]["ids"], alone["ids"]);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let whole = run(&["generate", "--max-new-tokens", "30", "The zebra eats"]).stdout;
    let cut = run(&["generate", "--max-new-tokens", "30", "--stop", ".", "The zebra eats"]).stdout;
    assert_eq!(cut.trim_end(), &whole[..whole.find('.').unwrap()]);
}

#[test]
fn sampling_values_out_of_range_are_refused_before_anything_is_said() {
    let cases: [(&[&str], &str); 9] = [
        (&["--top-p", "1.5"], "top_p is 1.5, expected more than 0 and at most 1"),
        (&["--temperature", "-1"], "temperature is -1, expected 0 (greedy) or more"),
        (&["--min-p", "2"], "min_p is 2, expected from 0 to 1"),
        (&["--repetition-penalty", "0"], "repetition_penalty is 0, expected more than 0"),
        (
            &["--logit-bias", "99999=1"],
            "logit bias for token id 99999, which is outside the model's vocabulary of 1024",
        ),
        (&["--max-new-tokens", "0"], "0 is not in 1.."),
        (&["--min-new-tokens", "9", "--max-new-tokens", "8"], "min_new_tokens is 9, expected at most max_new_tokens"),
        // A mistyped option is not taken for the prompt.
        (&["--tempeature"], "unexpected argument '--tempeature'"),
        (&["--logit-bias", "grass=1"], "`grass` is not a token id"),
    ];
    for (flags, message) in cases {
        let arguments: Vec<&str> = ["generate", "The zebra"].into_iter().chain(flags.iter().copied()).collect();
        refused(&run(&arguments), &[message]);
    }
}

#[test]
fn prompts_that_cannot_be_continued_are_named() {
    let long = "zebra ".repeat(600);
    refused(&run(&["generate", &long]), &["the model's context holds 512", "hint:"]);
    refused(&run(&["generate", ""]), &["has no tokens", "hint:"]);
    refused(&run(&["next-token", ""]), &["has no tokens", "hint:"]);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("a.jsonl"), "{\"prompt\": \"x\"}\n{\"input_ids\": [5000]}\n").unwrap();
    let ended = reheat(&["generate", "--prompts", "a.jsonl"], folder.path(), "");
    refused(&ended, &["a.jsonl:2", "token id 5000 is outside the model's vocabulary of 1024"]);
    fs::write(folder.path().join("b.jsonl"), "{\"prompt\": \"x\"}\n{\"question\": \"y\"}\n").unwrap();
    let ended = reheat(&["generate", "--prompts", "b.jsonl"], folder.path(), "");
    refused(&ended, &["b.jsonl:2: there is no prompt; the keys are question", "hint:"]);
    refused(&run(&["generate", "--chat", "Hi"]), &["`bundled` has no chat template", "hint:"]);
    refused(&run(&["next-token", "--plot", "a.pdf", "x"]), &[".svg or .png"]);
}

/// A folder with a tiny model that has the template `source`.
fn model_with_template(source: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped");
    for entry in fs::read_dir(fixture).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    folder
}

const TEMPLATE: &str = "{% for m in messages %}{% if m.content == 'break' %}{{ raise_exception('no') }}{% endif %}\
    <|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn a_chat_in_a_pipe_answers_line_by_line_and_saves_itself() {
    let folder = model_with_template(TEMPLATE);
    let stdin = "/system Be brief.\nHello\n\"\"\"two\nlines\"\"\"\n/save chat.jsonl\n/regenerate\n/reset\n/help\n/exit\nnever\n";
    let arguments = ["chat", "--model", ".", "--max-new-tokens", "4", "--temperature", "1"];
    let ended = reheat(&arguments, folder.path(), stdin);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("/regenerate"));
    let saved: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("chat.jsonl")).unwrap()).unwrap();
    let roles: Vec<&str> =
        saved["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(saved["messages"][3]["content"], "two\nlines");
}

#[test]
fn a_template_that_fails_in_mid_chat_ends_a_script_with_what_was_wrong() {
    let folder = model_with_template(TEMPLATE);
    let ended = reheat(&["chat", "--model", ".", "--max-new-tokens", "2"], folder.path(), "Hello\nbreak\nHello\n");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("no"), "{}", ended.stderr);
    for (typed, message) in
        [("/nonsense", "`/nonsense` is no command"), ("/regenerate", "no answer"), ("/save", "name of a file")]
    {
        let ended = reheat(&["chat", "--model", "."], folder.path(), typed);
        assert!(ended.code == Some(2) && ended.stderr.contains(message), "{typed}: {}", ended.stderr);
    }
    let ended = reheat(&["chat", "--model", ".", "--top-p", "0"], folder.path(), "Hello\n");
    refused(&ended, &["top_p is 0"]);
}

#[test]
fn weights_in_fewer_bits_are_announced() {
    for dtype in ["float32", "bfloat16", "int8"] {
        let ended = run(&["generate", "--dtype", dtype, "--max-new-tokens", "8", "The zebra eats"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("{dtype} (asked for) on cpu")), "{}", ended.stderr);
        assert!(ended.stdout.contains("grass"), "{dtype}: {}", ended.stdout);
    }
    refused(&run(&["generate", "--dtype", "int4", "x"]), &["expected auto, float32, bfloat16 or int8"]);
}
