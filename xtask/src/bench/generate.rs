//! `cargo xtask bench generate`: greedy decoding, `reheat generate` against transformers.
//!
//! Both read the same checkpoint with random weights and the same prompts of random ids, go on after end tokens, and
//! take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reheat_model::Qwen2Config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::Machine;
use super::{checkpoint, measured};
use crate::random_model::Shape;
use crate::{python, workspace};

#[derive(clap::Args, Debug, Serialize)]
pub(crate) struct GenerateArgs {
    /// Shape of the checkpoint
    #[arg(long, value_name = "NAME", default_value = Shape::DEFAULT)]
    #[serde(skip)]
    like: Shape,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 64)]
    prompt_len: usize,
    /// Tokens of each completion
    #[arg(long, default_value_t = 48)]
    new_tokens: usize,
    /// Completions at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    batch_sizes: Vec<usize>,
    /// Types in which Reheat holds the weights
    #[arg(long, value_delimiter = ',', default_values_t = ["bfloat16".to_owned(), "int8".to_owned()])]
    dtypes: Vec<String>,
    /// Types in which transformers does
    #[arg(long, value_delimiter = ',', default_values_t = ["float32".to_owned(), "bfloat16".to_owned()])]
    against: Vec<String>,
    /// Directory with a tokenizer; by default the one of the tests' tiny model
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    tokenizer: Option<PathBuf>,
    /// Where the table and the record go, as NAME.md and NAME.json
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    out: Option<PathBuf>,
}

/// One contender on one batch size.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    batch_size: usize,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    peak_bytes: u64,
}

/// What the other side prints.
#[derive(Deserialize)]
struct Printed {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    versions: Value,
}

/// What `reheat generate --stats` writes.
#[derive(Deserialize)]
struct Stats {
    stats: EngineStats,
}

#[derive(Deserialize)]
struct EngineStats {
    prompt_tokens: f64,
    prefill_seconds: f64,
    decoded_tokens: f64,
    decode_seconds: f64,
}

/// Measures, prints the table, and leaves it with the record.
pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let dir = workspace::target_dir().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let machine = Machine::here();
    let model = checkpoint(&args.like, args.tokenizer.clone(), &dir)?;
    python::python()?;
    workspace::run(workspace::cargo().args(["build", "--release", "--workspace", "--bin", "reheat"]))?;

    let mut rows = Vec::new();
    let mut versions = Value::Null;
    for &batch_size in &args.batch_sizes {
        let prompts = write_prompts(args, batch_size, &model, &dir)?;
        for dtype in &args.dtypes {
            rows.push(reheat(args, dtype, batch_size, &model, &prompts, &dir)?);
        }
        for dtype in &args.against {
            let (row, found) = transformers(args, dtype, batch_size, &model, &prompts)?;
            rows.push(row);
            versions = found;
        }
    }
    let record = json!({
        "benchmark": "generate", "machine": machine, "model": args.like.name(), "settings": args,
        "versions": versions, "rows": rows,
    });
    let table = markdown(args, &machine, &rows);
    println!("{table}");
    let name = args.out.clone().unwrap_or_else(|| dir.join("generate"));
    let write = |extension: &str, text: String| {
        let path = name.with_extension(extension);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    };
    write("md", table)?;
    write("json", serde_json::to_string_pretty(&record)? + "\n")
}

/// Prompts of random ids.
fn write_prompts(args: &GenerateArgs, batch_size: usize, model: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let vocab_size = Qwen2Config::from_dir(model)?.vocab_size;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let prompt = || -> Vec<usize> { (0..args.prompt_len).map(|_| rng.random_range(0..vocab_size)).collect() };
    let lines: Vec<String> =
        std::iter::repeat_with(prompt).take(batch_size).map(|ids| json!({ "input_ids": ids }).to_string()).collect();
    let path = dir.join(format!("prompts-{batch_size}x{}.jsonl", args.prompt_len));
    fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path)
}

/// A turn of `reheat generate`, the command that a user types.
fn reheat(
    args: &GenerateArgs,
    dtype: &str,
    batch_size: usize,
    model: &Path,
    prompts: &Path,
    dir: &Path,
) -> anyhow::Result<Row> {
    let stats = dir.join("generate-stats.json");
    let mut command = Command::new(workspace::target_dir().join("release/reheat"));
    command.arg("generate").arg("--model").arg(model).arg("--prompts").arg(prompts).arg("--stats").arg(&stats);
    command.args(["--json", "--ignore-eos", "--dtype", dtype]);
    command.args(["--max-new-tokens", &args.new_tokens.to_string(), "--batch-size", &batch_size.to_string()]);
    let measured = measured::run(&mut command)?;
    let text = fs::read_to_string(&stats).with_context(|| format!("cannot read `{}`", stats.display()))?;
    let found: Vec<Stats> = serde_json::from_str(&text)?;
    ensure!(found.len() == 1, "one model was asked");
    let EngineStats { prompt_tokens, prefill_seconds, decoded_tokens, decode_seconds } = found[0].stats;
    ensure!(decoded_tokens as usize == batch_size * (args.new_tokens - 1), "Reheat drew {decoded_tokens} tokens");
    Ok(Row {
        name: format!("Reheat {dtype}"),
        batch_size,
        prefill_tokens_per_second: prompt_tokens / prefill_seconds,
        decode_tokens_per_second: decoded_tokens / decode_seconds,
        peak_bytes: measured.peak_bytes,
    })
}

/// A turn of transformers.
fn transformers(
    args: &GenerateArgs,
    dtype: &str,
    batch_size: usize,
    model: &Path,
    prompts: &Path,
) -> anyhow::Result<(Row, Value)> {
    let mut command = python::script("xtask/python/transformers_generate.py")?;
    command.arg("--model").arg(model).arg("--prompts").arg(prompts);
    command.args(["--dtype", dtype, "--max-new-tokens", &args.new_tokens.to_string()]);
    let measured = measured::run(&mut command)?;
    let last = measured.stdout.lines().last().unwrap_or_default();
    let printed: Printed = serde_json::from_str(last).context("transformers' side did not print its numbers")?;
    let row = Row {
        name: format!("transformers {dtype}"),
        batch_size,
        prefill_tokens_per_second: printed.prefill_tokens_per_second,
        decode_tokens_per_second: printed.decode_tokens_per_second,
        peak_bytes: measured.peak_bytes,
    };
    Ok((row, printed.versions))
}

/// A table with speeds and memory as multiples of transformers' in bfloat16, at the same batch size.
fn markdown(args: &GenerateArgs, machine: &Machine, rows: &[Row]) -> String {
    let mut lines = vec![
        format!(
            "Greedy decoding, {} shape with random weights, prompts of {} tokens, {} new tokens. {}.\n",
            args.like.name(),
            args.prompt_len,
            args.new_tokens,
            machine.line()
        ),
        "| | batch | prefill, tokens/s | decode, tokens/s | decode against transformers bfloat16 | peak memory |"
            .into(),
        "|---|---|---|---|---|---|".into(),
    ];
    for row in rows {
        let rival =
            rows.iter().find(|other| other.name == "transformers bfloat16" && other.batch_size == row.batch_size);
        let ratio = rival.map_or("–".to_owned(), |rival| {
            format!("{:.2}×", row.decode_tokens_per_second / rival.decode_tokens_per_second)
        });
        lines.push(format!(
            "| {} | {} | {:.0} | {:.1} | {ratio} | {:.2} GB |",
            row.name,
            row.batch_size,
            row.prefill_tokens_per_second,
            row.decode_tokens_per_second,
            row.peak_bytes as f64 / 1e9
        ));
    }
    lines.join("\n") + "\n"
}
