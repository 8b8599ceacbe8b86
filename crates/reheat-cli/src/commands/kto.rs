//! `reheat kto`: Kahneman-Tversky optimisation.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use reheat_data::prepare_unpaired;
use reheat_train::{Kto, KtoConfig, ModelCard, Trainer, TrainingConfig};
use serde_json::json;

use super::{
    dpo::precomputed,
    peft::{self, PeftSettings},
    sft::{RunSettings, card, facts, finish},
    source::choose_eos,
};
use crate::{
    output::{self, Format},
    progress, report,
    settings::{AnswerSettings, DatasetSettings, Flags, HasTable, Plan, Table, resolve},
    training::{Companions, OutputSettings, Run, no_evaluation_faults},
};

/// Train a model on answers that are good or bad on their own.
///
/// Rows have a prompt, a `completion` and a `label`; a row with a better and a worse answer counts as two. Keys of the
/// config file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat kto --model runs/sft --dataset judged.jsonl --output-dir runs/kto
  reheat kto --model runs/sft --dataset preferences.jsonl --undesirable-weight 0.5
  reheat kto --config kto.yaml --dry-run")]
pub(crate) struct KtoArgs {
    /// YAML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print what would be done, with the origin of every setting, and stop.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    flags: Flags<KtoSettings>,

    #[command(flatten)]
    format: Format,
}

/// The settings of `reheat kto`.
#[derive(Debug)]
pub(crate) struct KtoSettings;

static RUN: LazyLock<Table> = LazyLock::new(|| Table::default().with::<RunSettings>("Run"));
static DATASET: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset"));
static DATA: LazyLock<Table> = LazyLock::new(|| Table::default().with::<AnswerSettings>("Data"));
static METHOD: LazyLock<Table> = LazyLock::new(|| Table::default().with::<KtoConfig>("Loss"));
static PEFT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PeftSettings>("Adapters"));
static OUTPUT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<OutputSettings>("Output"));
static TRAINING: LazyLock<Table> = LazyLock::new(|| Table::default().with::<TrainingConfig>("Training"));
static ALL: LazyLock<Table> = LazyLock::new(|| {
    Table::default()
        .with::<RunSettings>("Run")
        .with::<DatasetSettings>("Dataset")
        .with::<AnswerSettings>("Data")
        .with::<KtoConfig>("Loss")
        .with::<PeftSettings>("Adapters")
        .with::<TrainingConfig>("Training")
        .with::<OutputSettings>("Output")
        // TRL turns all dropout off.
        .with_default("lora_dropout", json!(0.0))
        .with_default("learning_rate", json!(1e-6))
        .with_default("train_sampling_strategy", json!("sequential"))
});

impl HasTable for KtoSettings {
    fn table() -> &'static Table {
        &ALL
    }
}

pub(super) fn run(args: &KtoArgs) -> anyhow::Result<()> {
    let resolved = resolve(&args.flags, args.config.as_deref())?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let settings: RunSettings = resolved.extract(&RUN)?;
    let dataset: DatasetSettings = resolved.extract(&DATASET)?;
    let data: AnswerSettings = resolved.extract(&DATA)?;
    let method: KtoConfig = resolved.extract(&METHOD)?;
    let config: TrainingConfig = resolved.extract(&TRAINING)?;
    let peft: PeftSettings = resolved.extract(&PEFT)?;
    let output: OutputSettings = resolved.extract(&OUTPUT)?;
    for note in peft.notes(&resolved) {
        eprintln!("note: {note}");
    }
    let own = config.faults().into_iter().chain(method.faults()).chain(peft.faults());
    let faults = own.chain(dataset.faults()).chain(no_evaluation_faults(&config)).collect();
    let model_dir = settings.model_dir(faults)?;
    let output_dir = output.dir("kto");
    output.check_dir(&output_dir)?;

    let base_model = model_dir.to_string_lossy().into_owned();
    let source = settings.open(model_dir, &peft)?;
    let mut tokenizer = source.tokenizer()?;
    let template = source.training_template(settings.chat_template_path.as_deref().map(Path::new), &tokenizer)?;
    let eos_note = choose_eos(settings.eos_token.as_deref(), template.as_ref(), &mut tokenizer)?;
    // A dry run writes nothing.
    let rejected = (!args.dry_run).then(|| output_dir.join("rejected.jsonl"));
    let options = data.options(rejected.clone())?;
    let bar = progress::rows_bar("tokenising");
    let rows = &mut |rows| bar.set_position(rows);
    let prepared = prepare_unpaired(&dataset.open()?, &tokenizer, template.as_ref(), &options, rows)?;
    bar.finish_and_clear();
    let device = settings.device.resolve()?;

    let plan = Plan { command: "kto", resolved: &resolved, facts: facts(&prepared, &config, &device, eos_note) };
    if args.dry_run {
        if args.format.json {
            return output::print_json(&plan.to_json());
        }
        return Ok(plan.print(&mut output::stdout())?);
    }
    report::print(&prepared.report, rejected.as_deref());
    let good = prepared.examples.iter().filter(|answer| answer.label).count();
    eprintln!("{good} good answers, {} bad", prepared.examples.len() - good);

    let model = source.model_with(&peft.load_options(config.dtype), &device.device)?;
    let mut model = peft.apply(model, &source, &base_model, config.seed)?;
    peft::report(&model);
    // The reference computes as the policy will.
    model.set_compute(config.dtype.compute());
    if let Some(eos) = tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    let batch_size = config.per_device_train_batch_size;
    let card = card(ModelCard::new("kto", "Kahneman-Tversky optimisation", &base_model), &dataset, &prepared.report);
    let truncated = prepared.report.truncated as f64 / prepared.report.examples.max(1) as f64;
    let reference = precomputed(&model, &Kto::pairs(&prepared.examples, batch_size), None, batch_size)?;
    let kto = Kto::new(&prepared.examples, batch_size, method, reference)?;
    let mut trainer = Trainer::new(model, kto, config)?;
    output.resume_or_clear(&mut trainer, &output_dir)?;
    let companions = Companions { tokenizer, template };
    let run =
        Run { dir: &output_dir, companions, resolved: &resolved, settings: &output, card, truncated, watch: None };
    finish(&run.train(trainer)?, &output_dir, args.format)
}
