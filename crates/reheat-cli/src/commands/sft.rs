//! `reheat sft`: supervised fine-tuning.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use reheat_chat::ChatTemplate;
use reheat_data::{Dataset, Prepared, Report, prepare_sft};
use reheat_tokenizer::Tokenizer;
use reheat_train::{ModelCard, Sft, SftConfig, TrainSummary, Trainer, TrainingConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    peft::{self, PeftSettings},
    source::{ModelArg, ModelSource, choose_eos},
};
use crate::{
    device::{ChosenDevice, DeviceChoice},
    fault::Fault,
    output::{self, Format},
    progress, report,
    settings::{DatasetSettings, Fact, Flags, HasTable, Plan, PrepareSettings, Table, resolve},
    training::{Companions, OutputSettings, Run, evaluation_faults},
};

/// Fine-tune a model on conversations, prompts with completions, or plain text.
///
/// Keys of the config file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --output-dir runs/sft
  reheat sft --model Qwen/Qwen2.5-0.5B --dataset trl-lib/Capybara
  reheat sft --config sft.yaml --learning-rate 1e-5 --dry-run
  reheat sft --model ./Qwen2.5-0.5B --dataset 'my-data:train[:10%]' --filter \"score >= 4\"
  reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --use-peft --learning-rate 2e-4
  reheat sft --model ./Qwen2.5-0.5B --dataset a.jsonl b.parquet --assistant-only-loss --num-train-epochs 1")]
pub(crate) struct SftArgs {
    /// YAML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print what would be done, with the origin of every setting, and stop.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    flags: Flags<SftSettings>,

    #[command(flatten)]
    format: Format,
}

/// What goes in and out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunSettings {
    /// Model folder in Hugging Face format, or a name on the Hub.
    #[schemars(extend("x-flag" = "model"))]
    model_name_or_path: Option<String>,
    /// Folder of the model that an adapter given as --model belongs to, where it is not the one that the adapter names.
    #[schemars(extend("x-flag" = "base-model"))]
    pub(super) base_model_name_or_path: Option<String>,
    /// File with a chat template to use instead of the model's.
    #[schemars(extend("x-flag" = "chat-template"))]
    pub(super) chat_template_path: Option<String>,
    /// Token that ends a turn; told from the template when absent.
    pub(super) eos_token: Option<String>,
    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    pub(super) device: DeviceChoice,
}

/// The settings of `reheat sft`.
#[derive(Debug)]
pub(crate) struct SftSettings;

static RUN: LazyLock<Table> = LazyLock::new(|| Table::default().with::<RunSettings>("Run"));
static DATASET: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset"));
static EVALUATION: LazyLock<Table> = LazyLock::new(|| Table::default().with::<EvaluationSettings>("Evaluation"));
static OUTPUT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<OutputSettings>("Output"));
static DATA: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PrepareSettings>("Data"));
static METHOD: LazyLock<Table> = LazyLock::new(|| Table::default().with::<SftConfig>("Loss"));
static TRAINING: LazyLock<Table> = LazyLock::new(|| Table::default().with::<TrainingConfig>("Training"));
static PEFT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PeftSettings>("Adapters"));
static ALL: LazyLock<Table> = LazyLock::new(|| {
    Table::default()
        .with::<RunSettings>("Run")
        .with::<DatasetSettings>("Dataset")
        .with::<PrepareSettings>("Data")
        .with::<EvaluationSettings>("Evaluation")
        .with::<SftConfig>("Loss")
        .with::<PeftSettings>("Adapters")
        .with::<TrainingConfig>("Training")
        .with::<OutputSettings>("Output")
});

impl HasTable for SftSettings {
    fn table() -> &'static Table {
        &ALL
    }
}

pub(super) fn run(args: &SftArgs) -> anyhow::Result<()> {
    let resolved = resolve(&args.flags, args.config.as_deref())?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let settings: RunSettings = resolved.extract(&RUN)?;
    let dataset: DatasetSettings = resolved.extract(&DATASET)?;
    let data: PrepareSettings = resolved.extract(&DATA)?;
    let evaluation: EvaluationSettings = resolved.extract(&EVALUATION)?;
    let output: OutputSettings = resolved.extract(&OUTPUT)?;
    let method: SftConfig = resolved.extract(&METHOD)?;
    let config: TrainingConfig = resolved.extract(&TRAINING)?;
    let peft: PeftSettings = resolved.extract(&PEFT)?;
    for note in peft.notes(&resolved) {
        eprintln!("note: {note}");
    }
    let eval_dataset = evaluation.dataset(&dataset);
    let mut faults = config.faults();
    faults.extend(peft.faults());
    faults.extend(dataset.faults());
    faults.extend(evaluation_faults(&config, eval_dataset.is_some()));
    let model_dir = settings.model_dir(faults)?;
    let output_dir = output.dir("sft");
    output.check_dir(&output_dir)?;

    let base_model = model_dir.to_string_lossy().into_owned();
    let source = settings.open(model_dir, &peft)?;
    let mut tokenizer = source.tokenizer()?;
    let template = source.training_template(settings.chat_template_path.as_deref().map(Path::new), &tokenizer)?;
    let eos_note = choose_eos(settings.eos_token.as_deref(), template.as_ref(), &mut tokenizer)?;
    // A dry run writes nothing.
    let rejected = (!args.dry_run).then(|| output_dir.join("rejected.jsonl"));
    let prepared = prepare(&dataset.open()?, &tokenizer, template.as_ref(), &data, rejected.clone())?;
    let eval_prepared = match eval_dataset {
        Some(rows) => {
            Some(prepare(&rows.open()?, &tokenizer, template.as_ref(), &evaluation.preparation(&data), None)?)
        }
        None => None,
    };
    let device = settings.device.resolve()?;

    let plan = Plan { command: "sft", resolved: &resolved, facts: facts(&prepared, &config, &device, eos_note) };
    if args.dry_run {
        if args.format.json {
            return output::print_json(&plan.to_json());
        }
        return Ok(plan.print(&mut output::stdout())?);
    }
    report::print(&prepared.report, rejected.as_deref());
    if let Some(prepared) = &eval_prepared {
        eprintln!("rows to evaluate with:");
        report::print(&prepared.report, None);
    }

    let model = source.model_with(&peft.load_options(config.dtype), &device.device)?;
    let mut model = peft.apply(model, &source, &base_model, config.seed)?;
    peft::report(&model);
    if let Some(eos) = tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    let card = card(ModelCard::new("sft", "supervised fine-tuning", &base_model), &dataset, &prepared.report);
    let truncated = prepared.report.truncated as f64 / prepared.report.examples.max(1) as f64;
    let mut trainer = Trainer::new(model, Sft::new(prepared.examples, method.clone()), config)?;
    if let Some(prepared) = eval_prepared {
        trainer = trainer.with_evaluation(Sft::new(prepared.examples, method))?;
    }
    output.resume_or_clear(&mut trainer, &output_dir)?;
    let companions = Companions { tokenizer, template };
    let run =
        Run { dir: &output_dir, companions, resolved: &resolved, settings: &output, card, truncated, watch: None };
    finish(&run.train(trainer)?, &output_dir, args.format)
}

/// Says where the result is, and how it ended.
pub(super) fn finish(summary: &TrainSummary, output_dir: &Path, format: Format) -> anyhow::Result<()> {
    if format.json {
        output::print_json(&json!({ "output_dir": output_dir, "summary": summary }))?;
    } else {
        println!("{}", output_dir.display());
    }
    if summary.interrupted {
        let stopped = format!("stopped at step {}; the checkpoint is saved", summary.global_step);
        return Err(Fault::interrupted(stopped).hint("the same command with --resume-from-checkpoint goes on").into());
    }
    eprintln!("talk with it: reheat chat --model {}", output_dir.display());
    Ok(())
}

/// Rows that are measured and not trained on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct EvaluationSettings {
    /// Files, patterns and folders of rows to evaluate with.
    #[schemars(extend("x-flag" = "eval-dataset", "x-commas" = false))]
    eval_dataset_name: Vec<String>,
    /// Split to evaluate with: of --eval-dataset, or else of --dataset.
    #[schemars(extend("x-flag" = "eval-split"))]
    dataset_test_split: Option<String>,
    /// Pack the rows to evaluate with; as the others when absent.
    eval_packing: Option<bool>,
}

impl EvaluationSettings {
    /// The rows, prepared as the others; `None` where there are none.
    fn dataset(&self, training: &DatasetSettings) -> Option<DatasetSettings> {
        if self.eval_dataset_name.is_empty() && self.dataset_test_split.is_none() {
            return None;
        }
        let mut rows = DatasetSettings { sample: None, shuffle_dataset: false, ..training.clone() };
        if !self.eval_dataset_name.is_empty() {
            rows.dataset_name.clone_from(&self.eval_dataset_name);
            rows.datasets = None;
            rows.dataset_train_split = DatasetSettings::default().dataset_train_split;
        }
        if let Some(split) = &self.dataset_test_split {
            rows.dataset_train_split.clone_from(split);
        }
        Some(rows)
    }

    fn preparation(&self, training: &PrepareSettings) -> PrepareSettings {
        PrepareSettings { packing: self.eval_packing.unwrap_or(training.packing), ..training.clone() }
    }
}

/// What the model card says before training.
pub(super) fn card(mut card: ModelCard, dataset: &DatasetSettings, report: &Report) -> ModelCard {
    card.datasets.clone_from(&dataset.dataset_name);
    let fact = |name: &str, value: u64| (name.to_owned(), value.to_string());
    card.facts = vec![
        fact("examples", report.examples),
        fact("tokens", report.tokens),
        fact("trained tokens", report.trained_tokens),
        fact("examples cut", report.truncated),
    ];
    card
}

impl RunSettings {
    /// The folder of the model, if nothing is wrong that can be known before files are read.
    pub(super) fn model_dir(&self, mut faults: Vec<String>) -> Result<PathBuf, Fault> {
        if self.model_name_or_path.is_none() {
            faults.push("--model is missing".into());
        }
        match (&self.model_name_or_path, faults.as_slice()) {
            (Some(model), []) => Ok(model.into()),
            (_, [fault]) => Err(Fault::input(fault.clone())),
            (_, faults) => {
                Err(Fault::input(format!("{} settings are wrong:\n  {}", faults.len(), faults.join("\n  "))))
            }
        }
    }

    /// The model to train, fit for the adapters that are asked for.
    pub(super) fn open(&self, model_dir: PathBuf, peft: &PeftSettings) -> anyhow::Result<ModelSource> {
        let base_model = self.base_model_name_or_path.as_ref().map(PathBuf::from);
        let source = ModelArg { model: Some(model_dir), base_model }.open()?;
        peft.check(&source)?;
        Ok(source)
    }
}

fn prepare(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    data: &PrepareSettings,
    rejected: Option<PathBuf>,
) -> anyhow::Result<Prepared> {
    let options = data.options(rejected)?;
    let bar = progress::rows_bar("tokenising");
    let prepared = prepare_sft(dataset, tokenizer, template, &options, &mut |rows| bar.set_position(rows));
    bar.finish_and_clear();
    Ok(prepared?)
}

pub(super) fn facts<T>(
    prepared: &Prepared<T>,
    config: &TrainingConfig,
    device: &ChosenDevice,
    eos_note: Option<String>,
) -> Vec<Fact> {
    let report = &prepared.report;
    let formats =
        report.files.iter().map(|(file, detection)| format!("{file}: {} ({})", detection.format, detection.reason));
    let fact = |name, value: serde_json::Value| Fact { name, value, reason: None };
    let mut facts = vec![
        Fact { name: "device", value: device.name.clone().into(), reason: Some(device.reason.clone()) },
        fact("formats", formats.collect::<Vec<_>>().into()),
        fact("examples", prepared.examples.len().into()),
        fact("tokens", report.tokens.into()),
        fact("trained tokens", report.trained_tokens.into()),
        fact("truncated", report.truncated.into()),
        fact("steps", config.total_steps(prepared.examples.len()).into()),
    ];
    if let Some(note) = eos_note {
        facts.push(Fact { name: "end of turn", value: "changed".into(), reason: Some(note) });
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Foreign, foreign};

    /// `docs/reference/trl-options.md` against the settings, row by row.
    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-options.md");
        let rows: Vec<[&str; 3]> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                cells.try_into().unwrap_or_else(|cells| panic!("three columns expected: {cells:?}"))
            })
            .collect();
        // Options of TRL 1.16's ScriptArguments, ModelConfig and SFTConfig.
        assert_eq!(rows.len(), 6 + 19 + 135);
        for [option, state, note] in rows {
            let key = option.trim_matches('`');
            let known = SftSettings::table().field(key).is_some();
            let told = match (known, foreign(key)) {
                (true, _) => ("works", note.to_owned()),
                (false, Some(Foreign::Renamed(name))) => ("other name", format!("`{name}`")),
                (false, Some(Foreign::Ignored(reason))) => ("no effect", reason.to_owned()),
                (false, Some(Foreign::Refused(reason))) => ("refused", reason.to_owned()),
                (false, None) => ("unknown", String::new()),
            };
            assert_eq!((state, note.to_owned()), told, "{key}");
        }
    }
}
