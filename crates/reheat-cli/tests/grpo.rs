//! `reheat grpo` and `reheat rloo` as a user runs them, on the bundled model and on real questions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use burn::tensor::Device;
use reheat_model::{Qwen2, Qwen2Config, SaveOptions};
use serde_json::Value;

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(name)
}

/// Questions with short answers.
const PROMPTS: &str = r#"
{"prompt": "What does the owl eat?", "answer": "mice"}
{"prompt": [{"role": "user", "content": "Where does the fox live?"}], "answer": "forest"}
{"prompt": "Name a colour.", "answer": "blue"}
{"prompt": "Say something.", "answer": null}
"#;

/// Runs a method in a folder with `prompts.jsonl`.
fn reheat(method: &str, folder: &Path, model: &Path, arguments: &[&str]) -> Output {
    let prompts = folder.join("prompts.jsonl");
    if !prompts.exists() {
        fs::write(&prompts, PROMPTS.trim()).expect("a file can be written");
    }
    Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args([method, "--logging-steps", "1", "--output-dir", "run", "--dataset", "prompts.jsonl", "--model"])
        .arg(model)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("reheat starts")
}

/// Short completions in groups of four, unless the arguments say otherwise.
fn train(method: &str, folder: &Path, arguments: &[&str]) -> Output {
    let small = [
        ["--num-generations", "4"],
        ["--max-completion-length", "8"],
        ["--per-device-train-batch-size", "8"],
        ["--learning-rate", "1e-4"],
    ];
    let others = small.iter().filter(|[name, _]| !arguments.contains(name)).flatten().copied();
    reheat(method, folder, &demo("base"), &others.chain(arguments.iter().copied()).collect::<Vec<_>>())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn completions_are_judged_shown_and_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = [
        "--max-steps",
        "3",
        "--reward",
        "length:4",
        "--reward",
        "contains:answer",
        "--reward",
        // Some completions have to be better than others, whatever they are.
        "program:while read -r batch; do echo '[0, 1, 2, 3, 4, 5, 6, 7]'; done",
        "--reward-weights",
        "1",
        "2",
        "0.5",
        "--log-completions",
        "--num-completions-to-print",
        "2",
    ];
    let output = train("grpo", folder.path(), &arguments);
    assert_done(&output);
    let said = stderr(&output);
    assert!(said.contains("note: the loss is ") && said.contains("about 0 by construction"), "{said}");
    assert!(said.contains("completions of step 2\nprompt "), "{said}");
    assert!(said.contains("reward by step"), "{said}");

    let rows = lines(&folder.path().join("run/metrics.jsonl"));
    assert_eq!(rows.len(), 3);
    for metric in [
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/length/mean",
        "rewards/length/std",
        "completions/mean_length",
        "completions/clipped_ratio",
        "entropy",
        "clip_ratio/region_mean",
        "step_time",
        "time/generation",
        "time/training",
        "sampling/sampling_logp_difference/mean",
    ] {
        assert!(rows[0][metric].is_number(), "{metric} is missing in {}", rows[0]);
    }
    let completions = lines(&folder.path().join("run/completions.jsonl"));
    assert_eq!(completions.len(), 3 * 8);
    let unjudged = completions.iter().filter(|one| one["prompt"] == "Say something.");
    assert!(unjudged.clone().count() > 0 && unjudged.clone().all(|one| one["rewards"]["contains"].is_null()));
    assert!(folder.path().join("run/model.safetensors").is_file());
    assert!(folder.path().join("run/plots/reward.svg").is_file());
    let card = fs::read_to_string(folder.path().join("run/README.md")).expect("a model card");
    assert!(card.contains("group relative policy optimisation") && card.contains("plots/reward.svg"), "{card}");
}

/// The checkpoint of step 1 holds completions that are drawn and not used up; the reference of `rloo` is not saved, as it
/// follows from the model.
#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let spread = ["--reward", "length:4", "--steps-per-generation", "2", "--max-steps", "3", "--save-steps", "1"];
    for (method, more) in [("grpo", &["--num-iterations", "2"][..]), ("rloo", &["--beta", "0.1"][..])] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let arguments = [&spread[..], more].concat();
        assert_done(&train(method, folder.path(), &arguments));
        let model = folder.path().join("run/model.safetensors");
        let whole = fs::read(&model).expect("the final model");
        fs::remove_file(&model).expect("the final model");
        for step in [2, 3] {
            fs::remove_dir_all(folder.path().join(format!("run/checkpoint-{step}"))).expect("a checkpoint");
        }
        assert_done(&train(method, folder.path(), &[&arguments[..], &["--resume-from-checkpoint"]].concat()));
        assert!(whole == fs::read(&model).expect("the final model"), "{method}: the resumed run ends in other weights");
    }
}

#[test]
fn a_dry_run_says_what_is_drawn_and_what_is_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["--reward", "think_format", "--per-device-train-batch-size", "12", "--use-peft", "--beta", "0.1"];
    let output = train("grpo", folder.path(), &[&arguments[..], &["--dry-run", "--json"]].concat());
    assert_done(&output);
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = plan.to_string();
    assert!(text.contains("12 completions: 4 of each of 3 prompts"), "{text}");
    assert!(text.contains("1 prompts of each epoch"), "{text}");
    assert!(text.contains("the model with its adapters as they were"), "{text}");
    assert_eq!(plan["settings"]["loss_type"]["value"], "dapo");
    assert!(!folder.path().join("run").exists());
}

#[track_caller]
fn assert_refused(method: &str, arguments: &[&str], expected: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = train(method, folder.path(), arguments);
    let said = stderr(&output);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(said.contains(expected) && !said.contains("panicked"), "{said}");
    assert!(!folder.path().join("run/model.safetensors").exists());
}

#[test]
fn what_cannot_work_is_told_before_anything_is_loaded() {
    assert_refused("grpo", &[], "--reward is missing: something has to judge the completions");
    assert_refused("grpo", &["--reward", "nonsense"], "nonsense");
    assert_refused(
        "grpo",
        &["--reward", "think_format", "--num-generations", "1"],
        "num_generations is 1, expected 2 or more",
    );
    assert_refused(
        "rloo",
        &["--reward", "think_format", "--num-generations", "3"],
        "8 completions are drawn at a time (per_device_train_batch_size 8 times steps_per_generation 1), expected a multiple of num_generations, 3",
    );
    assert_refused(
        "grpo",
        &["--reward", "think_format", "--reward-weights", "1", "2"],
        "reward_weights has 2 values for 1 rewards",
    );
    assert_refused(
        "grpo",
        &["--reward", "think_format", "--per-device-train-batch-size", "32"],
        "8 prompts are drawn for at a time (32 completions in groups of num_generations, 4), and the dataset has 4",
    );
    assert_refused("grpo", &["--reward", "accuracy:nothing"], "needs the column `nothing`");
    assert_refused("grpo", &["--reward", "program:exit 3", "--max-steps", "1"], "program");
}

#[test]
fn a_dataset_without_prompts_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("prompts.jsonl"), "{\"text\": \"once upon a time\"}\n").expect("a file");
    let output = train("grpo", folder.path(), &["--reward", "think_format"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("prompt"), "{said}");
}

/// What was learned before a reward fails is saved, and the run goes on from there.
#[test]
fn a_run_whose_reward_fails_goes_on_when_it_is_mended() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Counts the batches that it has judged, and refuses the third.
    let program = "while read -r batch; do\n\
        count=$(cat count 2>/dev/null || echo 0)\n\
        [ \"$count\" -lt 2 ] || exit 3\n\
        echo $((count + 1)) > count\n\
        echo '[0, 1, 2, 3, 4, 5, 6, 7]'\n\
        done\n";
    fs::write(folder.path().join("reward.sh"), program).expect("a file");
    let reward = ["--reward", "program:sh reward.sh", "--max-steps", "4"];
    let output = train("grpo", folder.path(), &reward);
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("ended before it answered"), "{said}");
    assert!(folder.path().join("run/checkpoint-2").is_dir(), "{said}");
    fs::remove_file(folder.path().join("count")).expect("the count");
    assert_done(&train("grpo", folder.path(), &[&reward[..], &["--resume-from-checkpoint"]].concat()));
}

/// Real questions and the real tokenizer, with a model that knows nothing: rows, prompts, completions, rewards, steps,
/// checkpoint, resume.
#[test]
fn grade_school_maths_from_end_to_end() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let (tokenizer, questions) = (shared.join("qwen25-tokenizer"), shared.join("gsm8k/train-1000.jsonl"));
    if !tokenizer.is_dir() || !questions.is_file() {
        eprintln!("skipped: the real tokenizer and questions are not here");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    let config = Qwen2Config::tiny(151_936);
    Qwen2::random(&config, 1, &Device::flex()).save(&model, &SaveOptions::default()).expect("a model can be saved");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tokenizer.join(name), model.join(name)).expect("a file can be copied");
    }
    let rows = fs::read_to_string(questions).expect("questions");
    let first: Vec<&str> = rows.lines().take(8).collect();
    fs::write(folder.path().join("prompts.jsonl"), first.join("\n")).expect("a file");
    let arguments = [
        "--num-generations",
        "2",
        "--max-completion-length",
        "6",
        "--per-device-train-batch-size",
        "8",
        "--steps-per-generation",
        "2",
        "--reward",
        "accuracy:answer",
        "--reward",
        "length:3",
        "--max-steps",
        "3",
        "--save-steps",
        "1",
        "--log-completions",
        "--learning-rate",
        "1e-3",
    ];
    assert_done(&reheat("grpo", folder.path(), &model, &arguments));
    let completions = lines(&folder.path().join("run/completions.jsonl"));
    assert_eq!(completions.len(), 2 * 16);
    let question = |row: &&str| serde_json::from_str::<Value>(row).expect("a row is JSON")["question"].clone();
    let questions: Vec<Value> = first.iter().map(question).collect();
    for completion in &completions {
        // Every answer of the dataset can be read; none is found by chance.
        assert_eq!(completion["rewards"]["accuracy"], 0.0, "{completion}");
        assert!(questions.contains(&completion["prompt"][0]["content"]), "{completion}");
    }
    let weights = folder.path().join("run/model.safetensors");
    let whole = fs::read(&weights).expect("the final model");
    for step in [2, 3] {
        fs::remove_dir_all(folder.path().join(format!("run/checkpoint-{step}"))).expect("a checkpoint");
    }
    let again = [&arguments[..], &["--resume-from-checkpoint"]].concat();
    assert_done(&reheat("grpo", folder.path(), &model, &again));
    assert!(whole == fs::read(&weights).expect("the final model"), "the resumed run ends in other weights");
}

#[test]
fn held_out_prompts_choose_the_best_checkpoint() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(
        folder.path().join("held-out.jsonl"),
        "{\"prompt\": \"What does the cow eat?\", \"answer\": \"grass\"}\n",
    )
    .expect("a file can be written");
    let arguments = [
        ["--max-steps", "4"],
        ["--reward", "length:3"],
        ["--eval-dataset", "held-out.jsonl"],
        ["--eval-strategy", "steps"],
        ["--eval-steps", "2"],
        ["--save-steps", "2"],
        ["--num-generations-eval", "3"],
        ["--metric-for-best-model", "reward"],
    ];
    let arguments = [&arguments.concat()[..], &["--load-best-model-at-end", "--greater-is-better", "true"]].concat();
    assert_done(&train("grpo", folder.path(), &arguments));
    let rows = lines(&folder.path().join("run/metrics.jsonl"));
    let evaluations: Vec<&Value> = rows.iter().filter(|row| row["eval_reward"].is_number()).collect();
    assert_eq!(evaluations.len(), 2);
    for metric in ["eval_rewards/length/mean", "eval_completions/mean_length", "eval_frac_reward_zero_std", "eval_loss"]
    {
        assert!(evaluations[0][metric].is_number(), "{metric} is missing in {}", evaluations[0]);
    }
    let refused = train("rloo", folder.path(), &["--reward", "length:3", "--eval-strategy", "steps"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--eval-strategy needs --eval-dataset"), "{}", stderr(&refused));
}

/// Says that it has one tool, and answers every call alike.
#[cfg(unix)]
const TOOL_PROGRAM: &str = r#"while read -r line; do case "$line" in
*list*) echo '[{"type": "function", "function": {"name": "f"}}]' ;;
*) echo '{"result": "grass"}' ;;
esac; done
"#;

/// The bundled model learns to call, then meets a tool that answers, one that hangs, and one that babbles.
#[cfg(unix)]
#[test]
fn a_program_has_tools() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file can be written");
    write("template.jinja", include_str!("../../../tests/fixtures/tool_calls.jinja"));
    write("tools.sh", TOOL_PROGRAM);
    write("hangs.sh", &TOOL_PROGRAM.replace(r#"echo '{"result": "grass"}'"#, "sleep 100"));
    write("babbles.sh", &TOOL_PROGRAM.replace(r#"{"result": "grass"}"#, "well, well"));
    let tools = r#"[{"type": "function", "function": {"name": "f"}}]"#;
    let question = r#"{"role": "user", "content": "What does the cow eat?"}"#;
    let call = r#"{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}"#;
    write(
        "sft.jsonl",
        &format!(
            r#"{{"messages": [{question}, {call}, {{"role": "tool", "content": "grass"}}, {{"role": "assistant", "content": "Grass."}}], "tools": {tools}}}"#
        ),
    );
    write("prompts.jsonl", &format!("{{\"prompt\": [{question}]}}\n{{\"prompt\": [{question}]}}\n"));
    let sft =
        ["--dataset", "sft.jsonl", "--chat-template", "template.jinja", "--max-steps", "60", "--learning-rate", "2e-3"];
    let output = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["sft", "--output-dir", "caller", "--assistant-only-loss", "--logging-steps", "20", "--model"])
        .arg(demo("base"))
        .args(sft)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("reheat starts");
    assert_done(&output);

    let small = ["--num-generations", "2", "--per-device-train-batch-size", "4", "--max-completion-length", "120"];
    let grpo = |program: &str, more: &[&str]| {
        let tool = format!("sh {program}");
        let arguments =
            [&["--tool", &tool, "--reward", "length:9", "--reward", "tool_call", "--max-steps", "1"], &small[..], more];
        reheat("grpo", folder.path(), &folder.path().join("caller"), &arguments.concat())
    };
    let output = grpo("tools.sh", &["--log-completions"]);
    assert_done(&output);
    let row = lines(&folder.path().join("run/metrics.jsonl")).remove(0);
    assert!(row["tools/call_frequency"].as_f64().expect("counted") > 0.0, "{row}");
    assert_eq!(row["tools/failure_frequency"], 0.0, "{row}");
    let completions = lines(&folder.path().join("run/completions.jsonl"));
    let called = completions.iter().find(|one| one["tool_calls"].is_number()).expect("one that calls");
    assert!(called["completion"].as_str().is_some_and(|text| text.contains("grass")), "{called}");
    assert_eq!(called["rewards"]["tool_call"], 1.0, "{called}");

    for (program, said) in [("hangs.sh", "gave no answer in 1 seconds"), ("babbles.sh", "answered `well, well`")] {
        let again = ["--overwrite-output-dir", "--tool-timeout-secs", "1", "--max-tool-calling-iterations", "1"];
        let output = grpo(program, &again);
        assert_done(&output);
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        let row = lines(&folder.path().join("run/metrics.jsonl")).remove(0);
        assert_eq!(row["tools/failure_frequency"], 1.0, "{row}");
    }

    let refused = |arguments: &[&str]| {
        let output = reheat(
            "grpo",
            folder.path(),
            &folder.path().join("caller"),
            &[&["--reward", "length:9"], arguments].concat(),
        );
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(
        refused(&["--tool", "echo no"])
            .contains("tool program `echo no` answered `no`, expected a JSON list of schemas")
    );
    assert!(refused(&["--max-tool-calling-iterations", "2"]).contains("has no effect without --tool"));
    let output = reheat(
        "grpo",
        folder.path(),
        &demo("base"),
        &["--reward", "length:9", "--tool", "sh tools.sh", "--overwrite-output-dir"],
    );
    assert!(stderr(&output).contains("shows no calls of tools"), "{}", stderr(&output));
}
