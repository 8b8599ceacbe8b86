//! `cargo xtask bench data`: rows to labelled tokens, `reheat sft --dry-run` against TRL's SFTTrainer with `datasets`.
//!
//! Both read the same ShareGPT rows, real conversations repeated with distinct ids, convert them, render and tokenise
//! them with the same tokenizer and template, and mask all but what the assistant wrote, on all cores. Reheat's time is
//! that of the whole process; TRL's leaves out the start of Python and the imports.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::Machine;
use super::measured;
use super::report::Summary;
use crate::{python, workspace};

#[derive(clap::Args, Debug, Serialize)]
pub(crate) struct DataArgs {
    /// File of conversations (`messages`, a row a line) that are repeated
    #[arg(long, value_name = "FILE", default_value = "../shared/data/derived/sft_messages.jsonl")]
    #[serde(skip)]
    conversations: PathBuf,
    /// Folder with a tokenizer and its template
    #[arg(long, value_name = "DIR", default_value = "../shared/data/qwen25-tokenizer")]
    #[serde(skip)]
    tokenizer: PathBuf,
    /// Rows
    #[arg(long, default_value_t = 20_000)]
    rows: usize,
    /// Longest sequence in tokens
    #[arg(long, default_value_t = 1024)]
    max_length: usize,
    /// Turns that each contender gets
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print the JSON record instead of the table
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// Everything measured of one contender.
#[derive(Debug, Default, Serialize)]
struct Contender {
    name: &'static str,
    rows_per_second: Vec<f64>,
    /// Most resident memory of the first process over all rounds, in bytes. TRL's workers come on top of it.
    peak_bytes: u64,
    tokens: u64,
    trained_tokens: u64,
}

/// What TRL's side prints.
#[derive(Deserialize)]
struct TrlOutput {
    seconds: std::collections::BTreeMap<String, f64>,
    tokens: u64,
    trained_tokens: u64,
    versions: Value,
}

/// Measures, prints the table or the record, and leaves the record under `target/bench`.
pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let dir = workspace::target_dir().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let rows = dir.join(format!("conversations-{}.jsonl", args.rows));
    write_rows(&workspace::root().join(&args.conversations), args.rows, &rows)?;
    python::python()?;
    workspace::run(workspace::cargo().args(["build", "--release", "--workspace", "--bin", "reheat"]))?;

    let machine = Machine::here();
    let tokenizer = workspace::root().join(&args.tokenizer);
    let (mut ours, mut theirs) =
        (Contender { name: "Reheat", ..Contender::default() }, Contender { name: "TRL", ..Contender::default() });
    let mut versions = Value::Null;
    for _ in 0..args.rounds {
        reheat(args, &tokenizer, &rows, &mut ours)?;
        versions = trl(args, &tokenizer, &rows, &mut theirs)?;
    }
    // Trained tokens differ by design: TRL's template for Qwen2.5 also learns the line ends around an answer.
    ensure!(ours.tokens == theirs.tokens, "the sides made different tokens: {ours:?} {theirs:?}");

    let record = json!({
        "benchmark": "data", "machine": machine, "settings": args, "versions": versions, "reheat": ours, "rivals": [theirs],
    });
    let path = dir.join("data.json");
    let text = serde_json::to_string_pretty(&record)?;
    fs::write(&path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
    if args.json {
        println!("{text}");
    } else {
        println!("{} rows of conversations to {} tokens. {}.\n", args.rows, ours.tokens, machine.line());
        println!("{}", table(&ours, &theirs));
    }
    eprintln!("record: {}", path.display());
    Ok(())
}

/// ShareGPT rows, each with an id of its own.
fn write_rows(conversations: &Path, rows: usize, out: &Path) -> anyhow::Result<()> {
    let cannot_read = || format!("cannot read `{}`", conversations.display());
    let lines = BufReader::new(File::open(conversations).with_context(cannot_read)?).lines();
    let mut turns = Vec::new();
    for line in lines {
        let row: Value = serde_json::from_str(&line.with_context(cannot_read)?).with_context(cannot_read)?;
        let messages = row["messages"].as_array().with_context(cannot_read)?;
        turns.push(Value::from_iter(messages.iter().map(|message| {
            let from = match message["role"].as_str() {
                Some("user") => "human",
                Some("assistant") => "gpt",
                other => other.unwrap_or_default(),
            };
            json!({ "from": from, "value": message["content"] })
        })));
    }
    ensure!(!turns.is_empty(), "`{}` has no rows", conversations.display());
    let cannot_write = || format!("cannot write `{}`", out.display());
    let mut file = BufWriter::new(File::create(out).with_context(cannot_write)?);
    for id in 0..rows {
        writeln!(file, "{}", json!({ "id": id, "conversations": turns[id % turns.len()] }))
            .with_context(cannot_write)?;
    }
    file.flush().with_context(cannot_write)
}

/// A turn of the command that a user types; it stops where training would begin.
fn reheat(args: &DataArgs, tokenizer: &Path, rows: &Path, ours: &mut Contender) -> anyhow::Result<()> {
    let mut command = Command::new(workspace::target_dir().join("release/reheat"));
    command.arg("sft").arg("--model").arg(tokenizer).arg("--dataset").arg(rows);
    command.args(["--assistant-only-loss", "--dry-run", "--json", "--max-length", &args.max_length.to_string()]);
    let start = Instant::now();
    let measured = measured::run(&mut command)?;
    ours.rows_per_second.push(args.rows as f64 / start.elapsed().as_secs_f64());
    ours.peak_bytes = ours.peak_bytes.max(measured.peak_bytes);
    let plan: Value =
        serde_json::from_str(&measured.stdout).context("`reheat sft --dry-run` did not print its plan")?;
    let fact = |name: &str| plan["plan"][name]["value"].as_u64().with_context(|| format!("the plan has no `{name}`"));
    (ours.tokens, ours.trained_tokens) = (fact("tokens")?, fact("trained tokens")?);
    Ok(())
}

/// A turn of TRL.
fn trl(args: &DataArgs, tokenizer: &Path, rows: &Path, theirs: &mut Contender) -> anyhow::Result<Value> {
    let mut command = python::script("xtask/python/trl_data.py")?;
    command.arg("--model").arg(workspace::root().join("tests/fixtures/tied-grouped"));
    command.arg("--tokenizer").arg(tokenizer).arg("--rows").arg(rows);
    command.args(["--max-length", &args.max_length.to_string()]);
    let measured = measured::run(&mut command)?;
    let last = measured.stdout.lines().last().unwrap_or_default();
    let output: TrlOutput = serde_json::from_str(last).context("TRL's side did not print its numbers")?;
    theirs.rows_per_second.push(args.rows as f64 / output.seconds.values().sum::<f64>());
    theirs.peak_bytes = theirs.peak_bytes.max(measured.peak_bytes);
    (theirs.tokens, theirs.trained_tokens) = (output.tokens, output.trained_tokens);
    Ok(output.versions)
}

/// A Markdown table; speed and memory as multiples of the rival's.
fn table(ours: &Contender, theirs: &Contender) -> String {
    let mut lines = vec![
        "| | rows/s, median | min to max | peak memory | speed of Reheat | memory of Reheat |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    let base = Summary::of(&ours.rows_per_second).median;
    for contender in [ours, theirs] {
        let Summary { median, min, max } = Summary::of(&contender.rows_per_second);
        let (speed, memory) = if std::ptr::eq(contender, ours) {
            ("–".to_owned(), "–".to_owned())
        } else {
            let memory = ours.peak_bytes as f64 / contender.peak_bytes as f64;
            (format!("{:.1}×", base / median), format!("{memory:.2}×"))
        };
        lines.push(format!(
            "| {} | {median:.0} | {min:.0} to {max:.0} | {:.2} GB | {speed} | {memory} |",
            contender.name,
            contender.peak_bytes as f64 / 1e9
        ));
    }
    lines.join("\n")
}
