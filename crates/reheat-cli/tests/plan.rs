//! `reheat plan` as a user meets it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn plan(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
    command.arg("plan").args(arguments.split_whitespace()).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

fn json(arguments: &str) -> Value {
    let output = plan(&format!("{arguments} --json"));
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn a_model_known_by_name_is_planned_in_every_way() {
    let plans = json("--model Qwen/Qwen2.5-1.5B --device 16GB");
    assert_eq!(plans["num_parameters"], 1_543_714_304_u64);
    let ways = plans["plans"].as_array().expect("a list");
    assert_eq!(ways.len(), 8);
    let total = |way: &Value| way["total_bytes"].as_u64().expect("bytes");
    assert!(ways.windows(2).all(|pair| total(&pair[0]) > total(&pair[1])), "each way takes less than the one before");
    for way in ways {
        let parts = way["components"].as_object().expect("parts by name");
        assert_eq!(parts.values().filter_map(Value::as_u64).sum::<u64>(), total(way));
        assert_eq!(way["fits"] == true, way["largest_batch"].as_u64() > Some(0));
    }
    // Weights, gradients and moments alone are four times 6.2 GB.
    assert_eq!((&ways[0]["fits"], &ways[7]["fits"]), (&Value::Bool(false), &Value::Bool(true)));
}

#[test]
fn methods_and_sizes_are_chosen() {
    let small = json("--model Qwen2.5-0.5B --method lora --seq-len 512");
    let large = json("--model Qwen2.5-0.5B --method lora --seq-len 4096 --batch-size 4 --lora-r 64");
    assert_eq!(small["plans"].as_array().map(Vec::len), Some(2));
    for part in ["weights", "gradients", "moments", "activations"] {
        let of = |plans: &Value| plans["plans"][0]["components"][part].as_u64();
        assert!(of(&small) < of(&large), "{part}");
    }
}

/// A weight, a gradient and two moments for each of 896 numbers.
#[test]
fn rows_of_new_tokens_are_counted() {
    let total = |more: &str| {
        let plans = json(&format!("--model Qwen2.5-0.5B --method lora --seq-len 1 {more}"));
        plans["plans"][0]["total_bytes"].as_u64().expect("bytes")
    };
    assert_eq!(total("--num-new-tokens 10") - total(""), 10 * 896 * 4 * 4);
    let refused = plan("--model Qwen2.5-0.5B --num-new-tokens 200000");
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn what_is_unknown_is_answered_with_what_is_known() {
    for (arguments, message) in [
        ("--model Llama-3-8B", "give a folder with config.json, or one of Qwen2.5-0.5B"),
        ("--model Qwen2.5-7B --device tpu", "expected cpu, a size such as 16GB, or one of t4"),
        ("--model Qwen2.5-7B --lora-target-modules c_attn", "no module is called `c_attn`"),
        ("--model Qwen2.5-7B --batch-size 0", "0 is not in 1..="),
    ] {
        let output = plan(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(message), "{arguments}: {stderr}");
    }
}
