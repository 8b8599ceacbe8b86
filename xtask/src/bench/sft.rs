//! `cargo xtask bench sft`: `reheat sft` against TRL's SFTTrainer, full fine-tuning or LoRA, packed or not.
//!
//! Both read the same checkpoint with random weights and the same rows of random ids, in the same order, and log every
//! step. The contenders take turns, so that a machine that becomes busy slows all of them.

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
use super::report::{self, Contender};
use super::{checkpoint, measured};
use crate::random_model::Shape;
use crate::{python, workspace};

#[derive(clap::Args, Debug, Serialize)]
pub(crate) struct SftArgs {
    /// Shape of the checkpoint
    #[arg(long, value_name = "NAME", default_value = Shape::DEFAULT)]
    #[serde(skip)]
    like: Shape,
    /// Tokens per row; a step is one row. Several lengths, parted by commas, are measured one after another
    #[arg(long, value_delimiter = ',', default_value = "512")]
    seq_len: Vec<usize>,
    /// Timed steps per round
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Steps before the timed ones
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    warmup: u16,
    /// Turns that each contender gets
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Learning rate of both sides
    #[arg(long, default_value_t = 1e-5)]
    learning_rate: f64,
    /// Train adapters of this rank on every dense layer, with the alpha and the dropout of TRL's command line
    #[arg(long, value_name = "R")]
    lora_r: Option<usize>,
    /// Hold the frozen dense layers of Reheat's side in 4 bits with 8-bit scales; TRL's stay as they are, as its 4-bit
    /// layers are not for training on CPUs
    #[arg(long, requires = "lora_r")]
    load_in_4bit: bool,
    /// Run blocks again in the backward pass, on both sides
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Pack sequences of a half, a quarter and an eighth of a row, which fill rows without a gap
    #[arg(long)]
    packing: bool,
    /// Directory with a tokenizer, which both sides load; by default the one of the tests' tiny model
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    tokenizer: Option<PathBuf>,
    /// Type in which Reheat takes products and keeps moments; its weights are f32 in both
    #[arg(long, value_enum, default_value_t = Dtype::Bfloat16)]
    dtype: Dtype,
    /// Which rivals take part
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Rival::F32, Rival::Bf16])]
    against: Vec<Rival>,
    /// Further arguments of `reheat sft`, one word each
    #[arg(last = true)]
    reheat_args: Vec<String>,
    /// Print the JSON record instead of the table
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

/// A type of numbers, as `reheat sft` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Dtype {
    Float32,
    Bfloat16,
}

impl Dtype {
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// TRL in one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Rival {
    /// Everything in f32
    F32,
    /// Everything in bf16, moments too
    Bf16,
}

/// What all contenders came to with rows of one length.
#[derive(Serialize)]
struct Length {
    seq_len: usize,
    reheat: Contender,
    rivals: Vec<Contender>,
}

/// What one turn gave.
struct Turn {
    step_seconds: Vec<f64>,
    losses: Vec<f64>,
    peak_bytes: u64,
}

/// What TRL's side prints.
#[derive(Deserialize)]
struct TrlOutput {
    step_seconds: Vec<f64>,
    losses: Vec<f64>,
    versions: Value,
}

/// The columns of `metrics.jsonl` that are needed here.
#[derive(Deserialize)]
struct MetricsRow {
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
}

/// Measures, prints the table or the record, and leaves the record under `target/bench`.
pub(crate) fn run(args: &SftArgs) -> anyhow::Result<()> {
    let dir = workspace::target_dir().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let machine = Machine::here();
    let model = checkpoint(&args.like, args.tokenizer.clone(), &dir)?;
    python::python()?;
    workspace::run(workspace::cargo().args(["build", "--release", "--workspace", "--bin", "reheat"]))?;

    let mut versions = Value::Null;
    let mut lengths = Vec::new();
    for seq_len in &args.seq_len {
        let (length, found) = measure(args, *seq_len, &model, &dir)?;
        lengths.push(length);
        versions = found;
    }
    let record = json!({
        "benchmark": "sft", "machine": machine, "model": args.like.name(), "settings": args,
        "versions": versions, "lengths": lengths,
    });
    let path = dir.join("sft.json");
    let text = serde_json::to_string_pretty(&record)?;
    fs::write(&path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
    if args.json {
        println!("{text}");
    } else {
        println!("{}, {} shape. {}.", args.title(), args.like.name(), machine.line());
        for Length { seq_len, reheat, rivals } in &lengths {
            println!("\n1 × {seq_len} tokens a step:\n\n{}", report::markdown(reheat, rivals));
        }
    }
    eprintln!("record: {}", path.display());
    Ok(())
}

/// Each contender's turns with rows of one length, and the versions of what TRL stands on.
fn measure(args: &SftArgs, seq_len: usize, model: &Path, dir: &Path) -> anyhow::Result<(Length, Value)> {
    let rows = write_rows(args, seq_len, model, dir)?;
    let mut ours = Contender::new(&format!("Reheat {}", args.dtype.name()));
    let mut rivals: Vec<_> = args.against.iter().map(|rival| Contender::new(rival.name())).collect();
    let mut versions = Value::Null;
    for _ in 0..args.rounds {
        ours.add(seq_len, reheat(args, seq_len, model, &rows, dir)?);
        for (rival, contender) in args.against.iter().zip(&mut rivals) {
            let (turn, found) = trl(args, *rival, seq_len, model, &rows)?;
            contender.add(seq_len, turn);
            versions = found;
        }
    }
    Ok((Length { seq_len, reheat: ours, rivals }, versions))
}

impl SftArgs {
    /// What is measured, in words.
    fn title(&self) -> String {
        let mut title = match self.lora_r {
            Some(rank) if self.load_in_4bit => format!("LoRA of rank {rank} on 4-bit weights"),
            Some(rank) => format!("LoRA of rank {rank}"),
            None => "Full fine-tuning".to_owned(),
        };
        for (holds, what) in [(self.gradient_checkpointing, "blocks run again"), (self.packing, "packed rows")] {
            if holds {
                title = format!("{title}, {what}");
            }
        }
        title
    }
}

impl Contender {
    fn new(name: &str) -> Self {
        Self { name: name.into(), tokens_per_second: Vec::new(), peak_bytes: 0, first_loss: 0.0, last_loss: 0.0 }
    }

    fn add(&mut self, seq_len: usize, turn: Turn) {
        self.tokens_per_second.extend(turn.step_seconds.iter().map(|seconds| seq_len as f64 / seconds));
        self.peak_bytes = self.peak_bytes.max(turn.peak_bytes);
        self.first_loss = turn.losses.first().copied().unwrap_or(f64::NAN);
        self.last_loss = turn.losses.last().copied().unwrap_or(f64::NAN);
    }
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "TRL f32",
            Self::Bf16 => "TRL bf16",
        }
    }
}

/// Random ids that make one row for every step.
fn write_rows(args: &SftArgs, seq_len: usize, model: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let vocab_size = Qwen2Config::from_dir(model)?.vocab_size;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let steps = args.steps + usize::from(args.warmup);
    // Best-fit decreasing packs such lengths without a gap, so that each step has `seq_len` tokens on both sides.
    let parts: &[usize] = if args.packing { &[2, 4, 8, 8] } else { &[1] };
    ensure!(seq_len.is_multiple_of(parts[parts.len() - 1]), "packing takes a seq-len that 8 divides");
    let mut text = String::new();
    for part in parts.iter().cycle().take(parts.len() * steps) {
        let ids: Vec<usize> = (0..seq_len / part).map(|_| rng.random_range(0..vocab_size)).collect();
        text.push_str(&json!({ "input_ids": ids }).to_string());
        text.push('\n');
    }
    let packed = if args.packing { "-packed" } else { "" };
    let path = dir.join(format!("rows-{steps}x{seq_len}{packed}.jsonl"));
    fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path)
}

/// A turn of `reheat sft`, the command that a user types.
fn reheat(args: &SftArgs, seq_len: usize, model: &Path, rows: &Path, dir: &Path) -> anyhow::Result<Turn> {
    let run_dir = dir.join("reheat-run");
    if run_dir.exists() {
        fs::remove_dir_all(&run_dir).with_context(|| format!("cannot remove `{}`", run_dir.display()))?;
    }
    let mut command = Command::new(workspace::target_dir().join("release/reheat"));
    command.arg("sft").arg("--model").arg(model).arg("--dataset").arg(rows).arg("--output-dir").arg(&run_dir);
    for (flag, value) in [
        ("--max-length", seq_len.to_string()),
        ("--max-steps", (args.steps + usize::from(args.warmup)).to_string()),
        ("--learning-rate", args.learning_rate.to_string()),
        ("--per-device-train-batch-size", "1".to_owned()),
        ("--train-sampling-strategy", "sequential".to_owned()),
        ("--logging-steps", "1".to_owned()),
        ("--save-strategy", "no".to_owned()),
        ("--dtype", args.dtype.name().to_owned()),
        ("--optim-dtype", args.dtype.name().to_owned()),
        ("--gradient-checkpointing", args.gradient_checkpointing.to_string()),
    ] {
        command.args([flag, &value]);
    }
    if let Some(rank) = args.lora_r {
        command.args(["--use-peft", "--lora-target-modules", "all-linear", "--lora-r", &rank.to_string()]);
    }
    if args.load_in_4bit {
        command.args(["--load-in-4bit", "--use-bnb-nested-quant"]);
    }
    if args.packing {
        command.arg("--packing");
    }
    command.args(&args.reheat_args);
    let measured = measured::run(&mut command)?;

    let path = run_dir.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<MetricsRow>, _>>()?;
    let steps: Vec<_> = rows.iter().filter(|row| row.loss.is_some()).collect();
    let speeds: Vec<f64> = steps.iter().filter_map(|row| row.tokens_per_second).skip(args.warmup.into()).collect();
    ensure!(speeds.len() == args.steps, "`{}` has {} timed steps", path.display(), speeds.len());
    fs::remove_dir_all(&run_dir).with_context(|| format!("cannot remove `{}`", run_dir.display()))?;
    Ok(Turn {
        step_seconds: speeds.iter().map(|speed| seq_len as f64 / speed).collect(),
        losses: steps.iter().filter_map(|row| row.loss).collect(),
        peak_bytes: measured.peak_bytes,
    })
}

/// A turn of TRL.
fn trl(args: &SftArgs, rival: Rival, seq_len: usize, model: &Path, rows: &Path) -> anyhow::Result<(Turn, Value)> {
    let mut command = python::script("xtask/python/trl_sft.py")?;
    command.arg("--model").arg(model).arg("--rows").arg(rows);
    command.args(["--dtype", if rival == Rival::Bf16 { "bfloat16" } else { "float32" }]);
    for (flag, value) in [
        ("--seq-len", seq_len.to_string()),
        ("--steps", args.steps.to_string()),
        ("--warmup", args.warmup.to_string()),
        ("--learning-rate", args.learning_rate.to_string()),
    ] {
        command.args([flag, &value]);
    }
    if args.gradient_checkpointing {
        command.arg("--gradient-checkpointing");
    }
    if let Some(rank) = args.lora_r {
        command.args(["--lora-r", &rank.to_string()]);
    }
    if args.packing {
        command.arg("--packing");
    }
    let measured = measured::run(&mut command)?;
    let last = measured.stdout.lines().last().unwrap_or_default();
    let output: TrlOutput = serde_json::from_str(last).context("TRL's side did not print its numbers")?;
    ensure!(output.step_seconds.len() == args.steps, "TRL timed {} steps", output.step_seconds.len());
    let turn = Turn { step_seconds: output.step_seconds, losses: output.losses, peak_bytes: measured.peak_bytes };
    Ok((turn, output.versions))
}
