//! `reheat eval`: how well a model predicts a dataset, or answers it.

mod answers; // the answers that it writes, judged

use std::path::PathBuf;
use std::sync::LazyLock;

use reheat_data::prepare_sft;
use reheat_train::{Sft, SftConfig, evaluate};

use self::answers::AnswerArgs;
use super::source::ModelArg;
use crate::{
    device::DeviceChoice,
    fault::Fault,
    output::{self, Format},
    progress, report,
    settings::{DatasetSettings, Flags, HasTable, PrepareSettings, Table, resolve},
};

/// Measure how well a model predicts a dataset: loss, perplexity, entropy, accuracy of the next token.
///
/// Means are over all tokens that `reheat sft` would train with the same settings, exact whatever the batch size.
/// With --judge the model answers the prompts instead, always with the most likely token, and its answers are judged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat eval --model runs/sft --dataset held-out.jsonl
  reheat eval --model ./Qwen2.5-0.5B --dataset held-out.jsonl --assistant-only-loss --json
  reheat eval --model runs/grpo --dataset gsm8k/test.jsonl --judge accuracy:answer --answers answers.jsonl")]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    model: ModelArg,

    /// File with a chat template to use instead of the model's.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,

    /// Sequences per forward pass, or answers at a time. Changes memory and speed, never the numbers.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    #[command(flatten)]
    answers: AnswerArgs,

    #[command(flatten)]
    flags: Flags<EvalSettings>,

    #[command(flatten)]
    format: Format,
}

/// The settings of `reheat eval`.
#[derive(Debug)]
pub(crate) struct EvalSettings;

impl HasTable for EvalSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> =
            LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset").with::<PrepareSettings>("Data"));
        &TABLE
    }
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let resolved = resolve(&args.flags, None)?;
    let dataset: DatasetSettings = resolved.extract()?;
    let data: PrepareSettings = resolved.extract()?;
    if let Some(fault) = dataset.faults().into_iter().next() {
        return Err(Fault::input(fault).into());
    }
    if args.answers.is_asked_for() {
        return answers::run(args, &dataset, &data);
    }
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let template = source.training_template(args.chat_template.as_deref(), &tokenizer)?;
    let options = data.options(None)?;
    let bar = progress::rows_bar("tokenising");
    let rows = dataset.open()?;
    let prepared = prepare_sft(&rows, &tokenizer, template.as_ref(), &options, &mut |rows| bar.set_position(rows));
    bar.finish_and_clear();
    let prepared = prepared?;
    report::print(&prepared.report, None);

    let model = source.model(&args.device.resolve()?.device)?;
    let mut method = Sft::new(prepared.examples, SftConfig::default());
    let row = evaluate(&model, &mut method, args.batch_size as usize)?;
    if args.format.json {
        let mut metrics: serde_json::Map<_, _> =
            row.metrics.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
        metrics.insert("loss".into(), row.loss.into());
        metrics.insert("trained_tokens".into(), prepared.report.trained_tokens.into());
        return output::print_json(&metrics);
    }
    println!("loss  {:.6} nats per token", row.loss);
    for (name, value) in &row.metrics {
        println!("{name}  {value:.6}");
    }
    Ok(())
}
