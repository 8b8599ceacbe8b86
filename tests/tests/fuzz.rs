//! The fuzz targets as an ordinary test: the fixtures of the crates, and damaged copies of them.
//!
//! A fuzzer looks further (`tests/fuzz/README.md`); this keeps the targets alive, and finds what is easily found.
//! `REHEAT_FUZZ_SECONDS` makes it go on for so long with each target.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[expect(unreachable_pub, reason = "the fuzz targets call them from a crate of their own")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Damaged copies of each input where no time is asked for.
const COPIES: usize = 20;

/// Runs a target on inputs and on copies of them.
fn run(target: fn(&[u8]), inputs: &[Vec<u8>]) {
    static QUIET: Once = Once::new();
    QUIET.call_once(targets::let_caught_panics_pass);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let seconds = std::env::var("REHEAT_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    inputs.iter().for_each(|input| target(input));
    for round in 0.. {
        for input in inputs {
            let damaged = damaged(input, inputs, &mut rng);
            // What makes a target fail is found here when the process ends.
            if end.is_some() {
                fs::write(std::env::temp_dir().join("reheat-fuzz-last"), &damaged).unwrap();
            }
            target(&damaged);
        }
        if end.map_or(round >= COPIES, |end| Instant::now() > end) {
            return;
        }
    }
}

/// Bytes changed, cut out, doubled, made extreme, or taken from another input.
fn damaged(input: &[u8], inputs: &[Vec<u8>], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..8) {
        if bytes.is_empty() {
            return bytes;
        }
        // The end of a file is where its footer is.
        let near_the_end = rng.random_bool(0.3);
        let start = if near_the_end { bytes.len().saturating_sub(600) } else { 0 };
        let at = rng.random_range(start..bytes.len());
        let end = bytes.len().min(at + rng.random_range(1..64));
        match rng.random_range(0..8) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            3 => bytes[at..end].fill([0, 0xff, b'[', b'{', b'"'][rng.random_range(0..5)]),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => bytes.truncate(at),
            _ => {
                let other = &inputs[rng.random_range(0..inputs.len())];
                if other.len() > 1 {
                    let from = rng.random_range(0..other.len());
                    let part = &other[from..other.len().min(from + 64)];
                    bytes.splice(at..end, part.iter().copied());
                }
            }
        }
    }
    bytes
}

#[test]
fn readers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/reheat-data/tests/fixtures");
    // The number of the name comes first; what the content tells is read under any.
    let fixture = |path: &Path| [vec![0], fs::read(path).unwrap()].concat();
    let mut inputs: Vec<Vec<u8>> = fs::read_dir(folder).unwrap().map(|entry| fixture(&entry.unwrap().path())).collect();
    inputs.sort();
    for (name, text) in [
        (0, "{\"a\": 1}\n{\"a\": \"x\", \"b\": [null, {}]}\n"),
        (1, "[{\"a\": 1},\n {\"a\": {\"b\": [1, 2.5e3, \"\\u00e9\"]}}]"),
        (1, "{\"data\": [{\"a\": 1}], \"x\": 2}"),
        (1, "{\"a\": [\"x\", \"y\"], \"b\": [1, 2]}"),
        (2, "a,b\n1,\"x, \"\"y\"\"\nz\"\n,\n"),
        (3, "a\tb\n1\t2\n"),
        (4, "one\ntwo\n\nthree\n"),
    ] {
        inputs.push([vec![name], text.as_bytes().to_vec()].concat());
    }
    run(targets::readers, &inputs);
}

#[test]
fn expressions() {
    let readme = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: '*.jsonl'\n---\n";
    let inputs = [
        format!("train[:50%]+train[-1:]\na = 1 and (b contains 'x' or not c.1.d is null)\n10%\n{readme}"),
        "train[1:](pct1_dropremainder)\nlength(b) in (1, 'x') and a >= -1.5e3\n2\n".to_owned(),
        "test\n\n\n---\nconfigs: [{data_files: [x, y], data_dir: ../z}]\n---\n".to_owned(),
    ];
    run(targets::expressions, &inputs.map(String::into_bytes));
}

#[test]
fn converters() {
    let rows = [
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}], "weight": 1}], "tools": "[]"}"#,
        r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{\"name\": \"f\"}"}], "system": "s"}"#,
        r#"{"instruction": "a", "input": null, "output": "b", "history": [["c", "d"]]}"#,
        r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": "b", "prompt": ""}"#,
        r#"{"prompt": "a", "completions": ["b"], "labels": [true]}"#,
        r#"{"input_ids": [1, 2], "labels": [-100, 2], "completion_mask": [0, 1]}"#,
        r#"{"prompt": "a", "completion": "b", "label": "+"}"#,
        r#"{"instruction": "a", "instances": [{"input": "b", "output": "c"}]}"#,
    ];
    run(targets::converters, &rows.map(|row| row.as_bytes().to_vec()));
}

#[test]
fn templates() {
    let chat = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let inputs = [
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}",
        "{%- macro f(x, y=1) -%}{{ x ~ y }}{%- endmacro %}{% set ns = namespace(n=0) %}{% for m in messages if m.content is string %}{% set ns.n = ns.n + loop.index0 %}{{ f(m['content'].split('a')[-1], ns.n) }}{% else %}{{ raise_exception('x') }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m | tojson(indent=2) }}{{ m.items() | list }}{% endgeneration %}{% break %}{% endfor %}{{ strftime_now('%d %b %Y') }}{{ range(3) | map('string') | join(',') }}",
    ];
    run(targets::templates, &inputs.map(|source| format!("{source}\n----\n{chat}").into_bytes()));
}
