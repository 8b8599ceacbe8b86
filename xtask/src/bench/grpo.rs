//! `cargo xtask bench grpo`: steps of `reheat grpo` against those of TRL's GRPOTrainer.
//!
//! Both read the same checkpoint with random weights and the same prompts, draw the same number of completions at
//! temperature 1, ask the same reward, and train all weights on them once. The contenders take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reheat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::Machine;
use super::report::Summary;
use super::{checkpoint, measured};
use crate::random_model::Shape;
use crate::{python, workspace};

#[derive(clap::Args, Debug, Serialize)]
pub(crate) struct GrpoArgs {
    /// Shape of the checkpoint; `tiny` shows what is not arithmetic
    #[arg(long, value_name = "NAME", default_value = Shape::DEFAULT)]
    #[serde(skip)]
    like: Shape,
    /// Prompts of a step
    #[arg(long, default_value_t = 4)]
    num_prompts: usize,
    /// Completions of each prompt
    #[arg(long, default_value_t = 4)]
    num_generations: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 64)]
    prompt_len: usize,
    /// Tokens of each completion
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Completions in a forward and backward pass of Reheat's
    #[arg(long, default_value_t = 4)]
    micro_batch_size: usize,
    /// The same of TRL's
    #[arg(long, default_value_t = 4)]
    trl_micro_batch_size: usize,
    /// Timed steps per round
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Steps before the timed ones
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Turns that each contender gets
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Learning rate of both sides
    #[arg(long, default_value_t = 1e-6)]
    learning_rate: f64,
    /// Directory with a tokenizer, which both sides load; by default the one of the tests' tiny model
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    tokenizer: Option<PathBuf>,
    /// Type in which Reheat takes products and keeps moments; its weights are f32 in both
    #[arg(long, default_value = "bfloat16")]
    dtype: String,
    /// Types of TRL's weights, gradients and moments
    #[arg(long, value_delimiter = ',', default_values_t = ["float32".to_owned(), "bfloat16".to_owned()])]
    against: Vec<String>,
    /// Let Reheat run blocks again in the backward pass, which takes less memory and more time
    #[arg(long)]
    recompute: bool,
    /// Further arguments of `reheat grpo`, one word each
    #[arg(last = true)]
    reheat_args: Vec<String>,
    /// Where the table and the record go, as NAME.md and NAME.json
    #[arg(long, value_name = "NAME")]
    #[serde(skip)]
    out: Option<PathBuf>,
}

/// One optimizer step.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    /// The whole of it, the update of the weights included.
    seconds: f64,
    /// What of it was drawing.
    generation_seconds: f64,
    generated_tokens: f64,
    /// Prompts and completions.
    trained_tokens: f64,
}

/// Everything measured of one contender.
#[derive(Debug, Serialize)]
struct Contender {
    name: String,
    steps: Vec<Step>,
    /// Most resident memory over all rounds, in bytes.
    peak_bytes: u64,
}

/// What TRL's side prints.
#[derive(Deserialize)]
struct Printed {
    steps: Vec<Step>,
    versions: Value,
}

/// The columns of `metrics.jsonl` that are needed here.
#[derive(Deserialize)]
struct MetricsRow {
    num_tokens: f64,
    tokens_per_second: f64,
    #[serde(rename = "time/generation")]
    generation_seconds: f64,
    #[serde(rename = "time/generated_tokens_per_second")]
    generated_tokens_per_second: f64,
}

/// Measures, prints the table, and leaves it with the record.
pub(crate) fn run(args: &GrpoArgs) -> anyhow::Result<()> {
    let completions = args.num_prompts * args.num_generations;
    for size in [args.micro_batch_size, args.trl_micro_batch_size] {
        ensure!(size > 0 && completions.is_multiple_of(size), "{completions} completions do not divide by {size}");
    }
    let dir = workspace::target_dir().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let machine = Machine::here();
    let model = checkpoint(&args.like, args.tokenizer.clone(), &dir)?;
    let rows = write_rows(args, &model, &dir)?;
    python::python()?;
    workspace::run(workspace::cargo().args(["build", "--release", "--workspace", "--bin", "reheat"]))?;

    let contender = |name: String| Contender { name, steps: Vec::new(), peak_bytes: 0 };
    let mut ours = contender(format!("Reheat {}", args.dtype));
    let mut rivals: Vec<_> = args.against.iter().map(|dtype| contender(format!("TRL {dtype}"))).collect();
    let mut versions = Value::Null;
    for _ in 0..args.rounds {
        ours.add(reheat(args, &model, &rows, &dir)?);
        for (dtype, rival) in args.against.iter().zip(&mut rivals) {
            let (steps, peak_bytes, found) = trl(args, dtype, &model, &rows)?;
            rival.add((steps, peak_bytes));
            versions = found;
        }
    }
    let table = markdown(args, &machine, &ours, &rivals);
    println!("{table}");
    let record = json!({
        "benchmark": "grpo", "machine": machine, "model": args.like.name(), "settings": args,
        "versions": versions, "reheat": ours, "rivals": rivals,
    });
    let name = args.out.clone().unwrap_or_else(|| dir.join("grpo"));
    let write = |extension: &str, text: String| {
        let path = name.with_extension(extension);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    };
    write("md", table)?;
    write("json", serde_json::to_string_pretty(&record)? + "\n")
}

impl Contender {
    fn add(&mut self, (steps, peak_bytes): (Vec<Step>, u64)) {
        self.steps.extend(steps);
        self.peak_bytes = self.peak_bytes.max(peak_bytes);
    }

    fn summary(&self, of: fn(&Step) -> f64) -> Summary {
        Summary::of(&self.steps.iter().map(of).collect::<Vec<_>>())
    }
}

/// Prompts of random letters, each of which has so many tokens.
fn write_rows(args: &GrpoArgs, model: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let tokenizer = Tokenizer::from_dir(model)?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut lines = String::new();
    for _ in 0..args.num_prompts * (args.steps + args.warmup) {
        let mut prompt = String::new();
        while tokenizer.encode(&prompt)?.ids.len() < args.prompt_len {
            prompt.push(char::from(rng.random_range(b'a'..=b'z')));
        }
        lines += &json!({ "prompt": prompt }).to_string();
        lines.push('\n');
    }
    let path = dir.join("grpo-rows.jsonl");
    fs::write(&path, lines).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path)
}

/// A turn of `reheat grpo`, the command that a user types.
fn reheat(args: &GrpoArgs, model: &Path, rows: &Path, dir: &Path) -> anyhow::Result<(Vec<Step>, u64)> {
    let run_dir = dir.join("reheat-run");
    if run_dir.exists() {
        fs::remove_dir_all(&run_dir).with_context(|| format!("cannot remove `{}`", run_dir.display()))?;
    }
    let reward = workspace::root().join("xtask/python/share_of_even_ids.py");
    let reward = format!("program:'{}' '{}'", python::python()?.display(), reward.display());
    let mut command = Command::new(workspace::target_dir().join("release/reheat"));
    command.arg("grpo").arg("--model").arg(model).arg("--dataset").arg(rows).arg("--output-dir").arg(&run_dir);
    let accumulation_steps = args.num_prompts * args.num_generations / args.micro_batch_size;
    for (flag, value) in [
        ("--reward", reward),
        ("--num-generations", args.num_generations.to_string()),
        ("--max-completion-length", args.new_tokens.to_string()),
        ("--per-device-train-batch-size", args.micro_batch_size.to_string()),
        ("--gradient-accumulation-steps", accumulation_steps.to_string()),
        ("--max-steps", (args.steps + args.warmup).to_string()),
        ("--learning-rate", args.learning_rate.to_string()),
        ("--train-sampling-strategy", "sequential".to_owned()),
        ("--logging-steps", "1".to_owned()),
        ("--save-strategy", "no".to_owned()),
        ("--dtype", args.dtype.clone()),
        ("--optim-dtype", args.dtype.clone()),
        ("--gradient-checkpointing", args.recompute.to_string()),
    ] {
        command.args([flag, &value]);
    }
    command.args(&args.reheat_args);
    let measured = measured::run(&mut command)?;

    let path = run_dir.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let rows = rows.into_iter().filter(|row| row.get("loss").is_some());
    let rows = rows.map(serde_json::from_value).collect::<Result<Vec<MetricsRow>, _>>()?;
    ensure!(rows.len() == args.warmup + args.steps, "`{}` has {} steps", path.display(), rows.len());
    let mut before = 0.0;
    let steps = rows.iter().map(|row| {
        let trained_tokens = row.num_tokens - std::mem::replace(&mut before, row.num_tokens);
        Step {
            seconds: trained_tokens / row.tokens_per_second,
            generation_seconds: row.generation_seconds,
            generated_tokens: row.generated_tokens_per_second * row.generation_seconds,
            trained_tokens,
        }
    });
    let steps = steps.skip(args.warmup).collect();
    fs::remove_dir_all(&run_dir).with_context(|| format!("cannot remove `{}`", run_dir.display()))?;
    Ok((steps, measured.peak_bytes))
}

/// A turn of TRL.
fn trl(args: &GrpoArgs, dtype: &str, model: &Path, rows: &Path) -> anyhow::Result<(Vec<Step>, u64, Value)> {
    let mut command = python::script("xtask/python/trl_grpo.py")?;
    command.arg("--model").arg(model).arg("--rows").arg(rows);
    for (flag, value) in [
        ("--dtype", dtype.to_owned()),
        ("--num-prompts", args.num_prompts.to_string()),
        ("--num-generations", args.num_generations.to_string()),
        ("--micro-batch-size", args.trl_micro_batch_size.to_string()),
        ("--max-completion-length", args.new_tokens.to_string()),
        ("--steps", args.steps.to_string()),
        ("--warmup", args.warmup.to_string()),
        ("--learning-rate", args.learning_rate.to_string()),
    ] {
        command.args([flag, &value]);
    }
    let measured = measured::run(&mut command)?;
    let last = measured.stdout.lines().last().unwrap_or_default();
    let printed: Printed = serde_json::from_str(last).context("TRL's side did not print its numbers")?;
    ensure!(printed.steps.len() == args.steps, "TRL timed {} steps", printed.steps.len());
    Ok((printed.steps, measured.peak_bytes, printed.versions))
}

/// A table of whole steps, with generation and training apart; the ratios are to each rival.
fn markdown(args: &GrpoArgs, machine: &Machine, ours: &Contender, rivals: &[Contender]) -> String {
    let mut lines = vec![
        format!(
            "GRPO, all weights, {} shape with random weights, {} prompts of {} tokens, {} completions each of {} tokens. {}.\n",
            args.like.name(),
            args.num_prompts,
            args.prompt_len,
            args.num_generations,
            args.new_tokens,
            machine.line()
        ),
        "| | step, median | min to max | generation, tokens/s | training, tokens/s | tokens drawn a step | peak memory | \
         speed of Reheat | memory of Reheat |"
            .into(),
        "|---|---|---|---|---|---|---|---|---|".into(),
    ];
    let base = ours.summary(|step| step.seconds).median;
    for contender in std::iter::once(ours).chain(rivals) {
        let Summary { median, min, max } = contender.summary(|step| step.seconds);
        let generation = contender.summary(|step| step.generated_tokens / step.generation_seconds).median;
        let training = contender.summary(|step| step.trained_tokens / (step.seconds - step.generation_seconds)).median;
        let (speed, memory) = if std::ptr::eq(contender, ours) {
            ("–".to_owned(), "–".to_owned())
        } else {
            let memory = ours.peak_bytes as f64 / contender.peak_bytes as f64;
            (format!("{:.2}×", median / base), format!("{memory:.2}×"))
        };
        lines.push(format!(
            "| {} | {median:.2} s | {min:.2} to {max:.2} s | {generation:.1} | {training:.1} | {:.0} | {:.2} GB | {speed} | \
             {memory} |",
            contender.name,
            contender.summary(|step| step.generated_tokens).median,
            contender.peak_bytes as f64 / 1e9,
        ));
    }
    lines.join("\n") + "\n"
}
