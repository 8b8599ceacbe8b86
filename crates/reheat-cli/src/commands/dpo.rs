//! `reheat dpo`: direct preference optimisation.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use reheat_data::{PreferencePair, prepare_preference};
use reheat_model::Qwen2;
use reheat_train::{Dpo, DpoConfig, DpoWatch, ModelCard, Reference, Trainer, TrainingConfig, precompute_reference};
use serde_json::json;

use super::{
    peft::{self, PeftSettings},
    sft::{RunSettings, card, facts, finish},
    source::choose_eos,
};
use crate::{
    output::{self, Format},
    progress::{self, Watch},
    report,
    settings::{AnswerSettings, DatasetSettings, Fact, Flags, HasTable, Plan, Table, resolve},
    training::{Companions, OutputSettings, Run, no_evaluation_faults},
};

/// Train a model to prefer the better of two answers.
///
/// Rows have a prompt, a `chosen` and a `rejected` answer, in any format that tells them. Keys of the config file are
/// TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat dpo --model runs/sft --dataset preferences.jsonl --output-dir runs/dpo
  reheat dpo --model runs/sft --dataset preferences.jsonl --beta 0.05 --loss-type sigmoid sft --loss-weights 1 0.2
  reheat dpo --config dpo.yaml --dry-run")]
pub(crate) struct DpoArgs {
    /// YAML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print what would be done, with the origin of every setting, and stop.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    flags: Flags<DpoSettings>,

    #[command(flatten)]
    format: Format,
}

/// The settings of `reheat dpo`.
#[derive(Debug)]
pub(crate) struct DpoSettings;

static RUN: LazyLock<Table> = LazyLock::new(|| Table::default().with::<RunSettings>("Run"));
static DATASET: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset"));
static DATA: LazyLock<Table> = LazyLock::new(|| Table::default().with::<AnswerSettings>("Data"));
static METHOD: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DpoConfig>("Loss"));
static PEFT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PeftSettings>("Adapters"));
static OUTPUT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<OutputSettings>("Output"));
static TRAINING: LazyLock<Table> = LazyLock::new(|| Table::default().with::<TrainingConfig>("Training"));
static ALL: LazyLock<Table> = LazyLock::new(|| {
    Table::default()
        .with::<RunSettings>("Run")
        .with::<DatasetSettings>("Dataset")
        .with::<AnswerSettings>("Data")
        .with::<DpoConfig>("Loss")
        .with::<PeftSettings>("Adapters")
        .with::<TrainingConfig>("Training")
        .with::<OutputSettings>("Output")
        // TRL turns all dropout off.
        .with_default("lora_dropout", json!(0.0))
        .with_default("learning_rate", json!(1e-6))
});

impl HasTable for DpoSettings {
    fn table() -> &'static Table {
        &ALL
    }
}

pub(super) fn run(args: &DpoArgs) -> anyhow::Result<()> {
    let resolved = resolve(&args.flags, args.config.as_deref())?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let settings: RunSettings = resolved.extract(&RUN)?;
    let dataset: DatasetSettings = resolved.extract(&DATASET)?;
    let data: AnswerSettings = resolved.extract(&DATA)?;
    let method: DpoConfig = resolved.extract(&METHOD)?;
    let config: TrainingConfig = resolved.extract(&TRAINING)?;
    let peft: PeftSettings = resolved.extract(&PEFT)?;
    let output: OutputSettings = resolved.extract(&OUTPUT)?;
    for note in peft.notes(&resolved) {
        eprintln!("note: {note}");
    }
    let own = config.faults().into_iter().chain(method.faults()).chain(peft.faults());
    // A checkpoint holds the model alone: the resumed run would start from another reference.
    let follows = (method.sync_ref_model && output.resume_from_checkpoint.is_some())
        .then(|| "resume_from_checkpoint does not go with sync_ref_model: checkpoints hold no reference".to_owned());
    let faults = own.chain(dataset.faults()).chain(no_evaluation_faults(&config)).chain(follows).collect();
    let model_dir = settings.model_dir(faults)?;
    let output_dir = output.dir("dpo");
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
    let prepared = prepare_preference(&dataset.open()?, &tokenizer, template.as_ref(), &options, rows)?;
    bar.finish_and_clear();
    let device = settings.device.resolve()?;
    let kind = ReferenceKind::of(&method, &peft);

    let mut facts = facts(&prepared, &config, &device, eos_note);
    facts.push(kind.fact());
    let plan = Plan { command: "dpo", resolved: &resolved, facts };
    if args.dry_run {
        if args.format.json {
            return output::print_json(&plan.to_json());
        }
        return Ok(plan.print(&mut output::stdout())?);
    }
    report::print(&prepared.report, rejected.as_deref());

    let model = source.model_with(&peft.load_options(config.dtype), &device.device)?;
    let mut model = peft.apply(model, &source, &base_model, config.seed)?;
    peft::report(&model);
    // The reference computes as the policy will.
    model.set_compute(config.dtype.compute());
    if let Some(eos) = tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    let card = card(ModelCard::new("dpo", "direct preference optimisation", &base_model), &dataset, &prepared.report);
    let truncated = prepared.report.truncated as f64 / prepared.report.examples.max(1) as f64;
    let reference = kind.make(&model, &prepared.examples, &method, &config)?;
    let mut watch = DpoWatch::new(&method);
    let mut trainer = Trainer::new(model, Dpo::new(prepared.examples, method, reference)?, config)?;
    output.resume_or_clear(&mut trainer, &output_dir)?;
    let companions = Companions { tokenizer, template };
    let watch: Option<Watch> = Some(Box::new(move |row| watch.observe(row).map(|notice| notice.to_string())));
    let run = Run { dir: &output_dir, companions, resolved: &resolved, settings: &output, card, truncated, watch };
    finish(&run.train(trainer)?, &output_dir, args.format)
}

/// How the reference is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReferenceKind {
    Precomputed,
    WithoutTraining,
    Copy,
    FollowingCopy,
}

impl ReferenceKind {
    fn of(method: &DpoConfig, peft: &PeftSettings) -> Self {
        match (method.sync_ref_model, method.precompute_ref_log_probs) {
            (true, _) => Self::FollowingCopy,
            (false, Some(false)) if peft.use_peft => Self::WithoutTraining,
            (false, Some(false)) => Self::Copy,
            (false, _) => Self::Precomputed,
        }
    }

    fn fact(self) -> Fact {
        let (value, reason) = match self {
            Self::Precomputed => ("log-probabilities", "computed before training: no second model in memory"),
            Self::WithoutTraining => ("the model with its adapters as they were", "shares the weights of the base"),
            Self::Copy => ("a frozen copy of the model", "precompute_ref_log_probs is false"),
            Self::FollowingCopy => ("a copy of the model that follows it", "sync_ref_model is true"),
        };
        Fact { name: "reference", value: value.into(), reason: Some(reason.into()) }
    }

    fn make(
        self,
        model: &Qwen2,
        pairs: &[PreferencePair],
        method: &DpoConfig,
        config: &TrainingConfig,
    ) -> anyhow::Result<Reference> {
        if self != Self::Precomputed {
            // Tensors are shared until one is changed: of a model with adapters, only those become two.
            return Ok(Reference::Model(Box::new(model.clone())));
        }
        let batch_size = method.precompute_ref_batch_size.unwrap_or(config.per_device_train_batch_size);
        precomputed(model, pairs, method.ld_alpha, batch_size)
    }
}

/// The reference's log-probabilities, from the cache or computed with their number on a bar.
pub(super) fn precomputed(
    model: &Qwen2,
    pairs: &[PreferencePair],
    ld_alpha: Option<f64>,
    batch_size: usize,
) -> anyhow::Result<Reference> {
    let bar = progress::count_bar("reference log-probabilities", pairs.len() as u64);
    let cache = cache_dir().map(|dir| dir.join("reference"));
    let known = precompute_reference(model, pairs, ld_alpha, batch_size, cache.as_deref(), &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(Reference::Precomputed(known?))
}

/// `$REHEAT_CACHE`, or `reheat` in the user's cache folder; `None` where there is no such folder.
fn cache_dir() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("REHEAT_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("reheat")))
        .or_else(|| folder("HOME").map(|dir| dir.join(".cache/reheat")))
}
