//! `reheat generate`: continue texts.

mod many; // prompts in a batch
mod prompts; // what is continued, and where it comes from

use std::io::Write as _;
use std::path::{Path, PathBuf};

use reheat_generate::{EngineStats, Flow, GenerateConfig, Generation, generate};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::json;

use self::prompts::{Prompt, read_prompts};
use super::{
    sampling::SamplingArgs,
    source::{ModelArg, ModelSource, PrecisionArg},
};
use crate::{
    device::DeviceChoice,
    fault::Fault,
    interrupt::Interrupt,
    kernels::KernelChoice,
    output::{self, Format},
    text::TextStream,
};

/// Continue texts, token by token.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat generate \"Octopuses have three\"
  reheat generate --model ./Qwen2.5-0.5B --max-new-tokens 50 --temperature 0.8 --top-p 0.9 --seed 7 \"Once upon a time\"
  reheat generate --model runs/sft --compare ./Qwen2.5-0.5B --chat \"Why is the sky blue?\"
  reheat generate --model runs/sft --prompts questions.jsonl --num-samples 4 --temperature 1 --json > answers.jsonl
  echo \"Octopuses have three\" | reheat generate --json -

A file of prompts has one on each line; in .jsonl files a line is an object with `prompt` (a text or messages), `messages`,
`text` or `input_ids`. Messages become text by the model's chat template.

With --json: {\"text\", \"ids\", \"finish_reason\", \"logprobs\"}; log-probabilities in nats under the model itself. For several
completions such a line for each, with the index of its `prompt`, its `sample`, and its `model` where two are compared.")]
pub(crate) struct GenerateArgs {
    /// The text to continue; `-` reads it from stdin.
    #[arg(required_unless_present = "prompts", conflicts_with = "prompts")]
    prompt: Option<String>,

    /// Continue every prompt of a file.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    /// Take a prompt of plain text for a question: it becomes a conversation by the model's chat template.
    #[arg(long)]
    chat: bool,

    #[command(flatten)]
    model: ModelArg,

    /// Let another model continue the same prompts; may be given several times.
    #[arg(long, value_name = "DIR")]
    compare: Vec<PathBuf>,

    /// Completions of each prompt.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    num_samples: u32,

    /// Completions that are computed at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Go on after end tokens.
    #[arg(long)]
    ignore_eos: bool,

    /// Write how many tokens were computed in which time, as JSON.
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// Fused kernels, or the plain definitions that they are compared with.
    #[arg(long, value_enum, default_value_t)]
    kernels: KernelChoice,

    #[command(flatten)]
    format: Format,
}

/// A model with what it takes to speak.
struct Speaker {
    source: ModelSource,
    tokenizer: Tokenizer,
    model: Qwen2,
}

impl Speaker {
    fn open(args: &GenerateArgs, model: &ModelArg) -> anyhow::Result<Self> {
        let source = model.open()?;
        let tokenizer = source.tokenizer()?;
        let device = args.device.resolve()?;
        let model = source.model_in(&device.device, args.precision.resolve(&source, &device)?)?;
        Ok(Self { source, tokenizer, model })
    }

    fn config(&self, args: &GenerateArgs) -> GenerateConfig {
        let eos_token_ids = if args.ignore_eos { &[] } else { self.tokenizer.eos_ids() };
        GenerateConfig { num_return_sequences: args.num_samples as usize, ..args.sampling.config(eos_token_ids) }
    }
}

/// A completion as it is told.
#[derive(Debug, Serialize)]
struct Told<'a> {
    /// Index of the prompt, where there are several completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    text: &'a str,
    #[serde(flatten)]
    generation: &'a Generation,
}

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    args.kernels.apply();
    let prompts = read_prompts(&args)?;
    let interrupt = Interrupt::install()?;
    let speaker = Speaker::open(&args, &args.model)?;
    let is_one = prompts.len() == 1 && args.num_samples == 1 && args.compare.is_empty();
    if is_one {
        return one(&args, &speaker, &prompts[0], &interrupt);
    }
    let mut stats = many::run(&args, &speaker, &prompts, &interrupt)?;
    for other in &args.compare {
        let speaker = Speaker::open(&args, &ModelArg::of(other))?;
        stats.extend(many::run(&args, &speaker, &prompts, &interrupt)?);
    }
    match &args.stats {
        Some(path) => write_stats(path, &stats),
        None => Ok(()),
    }
}

/// A single completion, shown as it comes.
fn one(args: &GenerateArgs, speaker: &Speaker, prompt: &Prompt, interrupt: &Interrupt) -> anyhow::Result<()> {
    let Speaker { tokenizer, model, .. } = speaker;
    let ids = prompt.ids(speaker)?;
    let config = speaker.config(args);
    reheat_generate::check(model, &ids, &config)?;
    let mut out = output::stdout();
    if !args.format.json {
        out.write_all(prompt.shown(&ids, speaker)?.as_bytes())?;
        out.flush()?;
    }
    let mut written = Ok(());
    let (text, generation, stats) = stream_text(model, tokenizer, &ids, &config, args.sampling.stop(), &mut |piece| {
        if !args.format.json {
            written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
        if written.is_err() || interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    })?;
    written?;
    if args.format.json {
        drop(out);
        output::print_json(&Told { prompt: None, sample: None, model: None, text: &text, generation: &generation })?;
    } else {
        writeln!(out)?;
        out.flush()?;
    }
    tell_speed(&stats, 1);
    if let Some(path) = &args.stats {
        write_stats(path, &[(speaker.source.name(), stats)])?;
    }
    if interrupt.is_raised() { Err(Fault::interrupted("the text ends here").into()) } else { Ok(()) }
}

/// Tokens and times on stderr.
fn tell_speed(stats: &EngineStats, num_completions: usize) {
    let EngineStats { prompt_tokens, decoded_tokens, .. } = stats;
    let tokens = decoded_tokens + num_completions;
    let line = format!(
        "{tokens} new tokens at {:.0} tokens/s, {prompt_tokens} prompt tokens at {:.0} tokens/s",
        stats.decode_tokens_per_second(),
        stats.prefill_tokens_per_second()
    );
    eprintln!("{}", console::style(line).dim().for_stderr());
}

fn write_stats(path: &Path, stats: &[(String, EngineStats)]) -> anyhow::Result<()> {
    let all: Vec<_> = stats.iter().map(|(model, stats)| json!({ "model": model, "stats": stats })).collect();
    let text = serde_json::to_string_pretty(&all)? + "\n";
    std::fs::write(path, text)
        .map_err(|error| Fault::failed(format!("cannot write `{}`", path.display())).because(error).into())
}

/// Generates and hands the text to `on_piece` as it comes: whole characters, up to the first of the strings `stop`.
pub(crate) fn stream_text(
    model: &Qwen2,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerateConfig,
    stop: &[String],
    on_piece: &mut dyn FnMut(&str) -> Flow,
) -> anyhow::Result<(String, Generation, EngineStats)> {
    let mut stream = TextStream::new(tokenizer, stop);
    let mut failed = None;
    let (generation, stats) = generate(model, prompt, config, &mut |token| match stream.push(token.id) {
        Ok(piece) => match on_piece(&piece) {
            Flow::Continue if !stream.has_stopped() => Flow::Continue,
            _ => Flow::Stop,
        },
        Err(error) => {
            failed = Some(error);
            Flow::Stop
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let rest = stream.finish()?;
    if !rest.is_empty() {
        on_piece(&rest);
    }
    Ok((stream.into_text(), generation, stats))
}
