//! `reheat sft`: supervised fine-tuning.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use reheat_chat::ChatTemplate;
use reheat_data::{Dataset, Prepared, prepare_sft};
use reheat_tokenizer::Tokenizer;
use reheat_train::{Checkpoint, JsonLines, LogRow, RunDir, Sft, SftConfig, TrainSummary, Trainer, TrainingConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    peft::{self, PeftSettings},
    source::ModelArg,
};
use crate::{
    device::{ChosenDevice, DeviceChoice},
    fault::Fault,
    interrupt::Interrupt,
    output::{self, Format},
    plot::{self, Panel, Series},
    progress::{self, TrainingProgress},
    report,
    settings::{DatasetSettings, Fact, Flags, HasTable, Plan, PrepareSettings, Resolved, Table, resolve, write_yaml},
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
struct RunSettings {
    /// Model folder in Hugging Face format, or a name on the Hub.
    #[schemars(extend("x-flag" = "model"))]
    model_name_or_path: Option<String>,
    /// Folder of the model that an adapter given as --model belongs to, where it is not the one that the adapter names.
    #[schemars(extend("x-flag" = "base-model"))]
    base_model_name_or_path: Option<String>,
    /// Folder for the model, checkpoints, metrics and plots.
    output_dir: Option<String>,
    /// File with a chat template to use instead of the model's.
    #[schemars(extend("x-flag" = "chat-template"))]
    chat_template_path: Option<String>,
    /// Token that ends a turn; told from the template when absent.
    eos_token: Option<String>,
    /// Go on with an earlier run: a checkpoint's folder, or `true` for the newest intact one of the output folder.
    #[schemars(extend("x-bare" = "true"))]
    resume_from_checkpoint: Option<String>,
    /// Remove the checkpoints that an earlier run left in the output folder.
    overwrite_output_dir: bool,
    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    device: DeviceChoice,
}

/// The settings of `reheat sft`.
#[derive(Debug)]
pub(crate) struct SftSettings;

static RUN: LazyLock<Table> = LazyLock::new(|| Table::default().with::<RunSettings>("Run"));
static DATASET: LazyLock<Table> = LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset"));
static DATA: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PrepareSettings>("Data"));
static METHOD: LazyLock<Table> = LazyLock::new(|| Table::default().with::<SftConfig>("Loss"));
static TRAINING: LazyLock<Table> = LazyLock::new(|| Table::default().with::<TrainingConfig>("Training"));
static PEFT: LazyLock<Table> = LazyLock::new(|| Table::default().with::<PeftSettings>("Adapters"));
static ALL: LazyLock<Table> = LazyLock::new(|| {
    Table::default()
        .with::<RunSettings>("Run")
        .with::<DatasetSettings>("Dataset")
        .with::<PrepareSettings>("Data")
        .with::<SftConfig>("Loss")
        .with::<PeftSettings>("Adapters")
        .with::<TrainingConfig>("Training")
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
    let method: SftConfig = resolved.extract(&METHOD)?;
    let config: TrainingConfig = resolved.extract(&TRAINING)?;
    let peft: PeftSettings = resolved.extract(&PEFT)?;
    for note in peft.notes(&resolved) {
        eprintln!("note: {note}");
    }
    let (model_dir, output_dir) = check(&settings, &dataset, &peft, &config)?;
    settings.check_output_dir(&output_dir)?;

    let base_model = model_dir.to_string_lossy().into_owned();
    let other_base = settings.base_model_name_or_path.as_ref().map(PathBuf::from);
    let source = ModelArg { model: Some(model_dir), base_model: other_base }.open()?;
    peft.check(&source)?;
    let mut tokenizer = source.tokenizer()?;
    let template = source.training_template(settings.chat_template_path.as_deref().map(Path::new), &tokenizer)?;
    let eos_note = choose_eos(&settings, template.as_ref(), &mut tokenizer)?;
    // A dry run writes nothing.
    let rejected = (!args.dry_run).then(|| output_dir.join("rejected.jsonl"));
    let prepared = prepare(&dataset.open()?, &tokenizer, template.as_ref(), &data, rejected.clone())?;
    let device = settings.device.resolve()?;

    let plan = Plan { command: "sft", resolved: &resolved, facts: facts(&prepared, &config, &device, eos_note) };
    if args.dry_run {
        if args.format.json {
            return output::print_json(&plan.to_json());
        }
        return Ok(plan.print(&mut output::stdout())?);
    }
    report::print(&prepared.report, rejected.as_deref());

    let model = source.model(&device.device)?;
    let mut model = peft.apply(model, &source, &base_model, config.seed)?;
    peft::report(&model);
    if let Some(eos) = tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    let mut trainer = Trainer::new(model, Sft::new(prepared.examples, method), config)?;
    match settings.resumes() {
        Some(choice) => resume(&mut trainer, choice, &output_dir)?,
        None => remove_checkpoints(&output_dir)?,
    }
    let summary = train(trainer, &output_dir, Companions { tokenizer, template }, &resolved)?;
    if args.format.json {
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

impl RunSettings {
    fn resumes(&self) -> Option<&str> {
        self.resume_from_checkpoint.as_deref().filter(|choice| !matches!(*choice, "false" | "False"))
    }

    /// A new run must not be mixed up with an old one when it is resumed.
    fn check_output_dir(&self, output_dir: &Path) -> anyhow::Result<()> {
        match Checkpoint::dirs(output_dir)?.last() {
            Some(newest) if self.resumes().is_none() && !self.overwrite_output_dir => {
                Err(Fault::input(format!("`{}` is of an earlier run", newest.display()))
                    .hint("--resume-from-checkpoint goes on with it, --overwrite-output-dir removes it, or choose another --output-dir")
                    .into())
            }
            _ => Ok(()),
        }
    }
}

/// Goes on with the run that a checkpoint is of, and says what is not as it was.
fn resume(trainer: &mut Trainer<Sft>, choice: &str, output_dir: &Path) -> anyhow::Result<()> {
    let checkpoint = match choice {
        "true" | "True" => {
            let (checkpoint, damaged) = Checkpoint::newest(output_dir)?;
            for error in damaged {
                eprintln!("warning: {error}; falling back to `{}`", checkpoint.dir().display());
            }
            checkpoint
        }
        dir => Checkpoint::open(Path::new(dir))?,
    };
    for change in trainer.resume(&checkpoint)? {
        let effect = if change.has_effect {
            "the run ends in other weights than without the change"
        } else {
            "no effect on the weights"
        };
        eprintln!("note: {change}: {effect}");
    }
    eprintln!("resuming from `{}`", checkpoint.dir().display());
    Ok(())
}

fn remove_checkpoints(output_dir: &Path) -> anyhow::Result<()> {
    for dir in Checkpoint::dirs(output_dir)? {
        std::fs::remove_dir_all(&dir)
            .map_err(|error| Fault::failed(format!("cannot remove `{}`", dir.display())).because(error))?;
    }
    Ok(())
}

/// Everything that can be known to be wrong before files are read.
fn check(
    settings: &RunSettings,
    dataset: &DatasetSettings,
    peft: &PeftSettings,
    config: &TrainingConfig,
) -> Result<(PathBuf, PathBuf), Fault> {
    let mut faults = config.faults();
    faults.extend(peft.faults());
    if settings.model_name_or_path.is_none() {
        faults.push("--model is missing".into());
    }
    faults.extend(dataset.faults());
    match (&settings.model_name_or_path, faults.as_slice()) {
        (Some(model), []) => {
            let output = settings.output_dir.clone().unwrap_or_else(|| "runs/sft".into());
            Ok((model.into(), output.into()))
        }
        (_, [fault]) => Err(Fault::input(fault.clone())),
        (_, faults) => Err(Fault::input(format!("{} settings are wrong:\n  {}", faults.len(), faults.join("\n  ")))),
    }
}

/// Makes the token that ends a turn the end of text, or the tuned model would never stop. Says so when it changed.
fn choose_eos(
    settings: &RunSettings,
    template: Option<&ChatTemplate>,
    tokenizer: &mut Tokenizer,
) -> anyhow::Result<Option<String>> {
    const CHATML_END: &str = "<|im_end|>";
    let told = template
        .is_some_and(|template| template.source().contains(CHATML_END) && tokenizer.token_to_id(CHATML_END).is_some());
    let wanted = settings.eos_token.as_deref().or(told.then_some(CHATML_END));
    let current = tokenizer.special_tokens().eos().map(|eos| eos.content.clone());
    match wanted {
        Some(wanted) if current.as_deref() != Some(wanted) => {
            tokenizer.set_eos_token(wanted)?;
            let before = current.unwrap_or_else(|| "none".into());
            Ok(Some(format!("ends the template's turns; before: {before}")))
        }
        _ => Ok(None),
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

fn facts(prepared: &Prepared, config: &TrainingConfig, device: &ChosenDevice, eos_note: Option<String>) -> Vec<Fact> {
    let report = &prepared.report;
    let formats =
        report.files.iter().map(|(file, detection)| format!("{file}: {} ({})", detection.format, detection.reason));
    let fact = |name, value: serde_json::Value| Fact { name, value, reason: None };
    let mut facts = vec![
        Fact { name: "device", value: device.name.clone().into(), reason: Some(device.reason.clone()) },
        fact("formats", formats.collect::<Vec<_>>().into()),
        fact("sequences", prepared.examples.len().into()),
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

/// What is saved beside the weights.
pub(crate) struct Companions {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

impl Companions {
    /// Writes the files into `dir` and gives their paths.
    pub(crate) fn save(&self, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        self.tokenizer.save(dir)?;
        if let Some(template) = &self.template {
            template.save(dir)?;
        }
        let names = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "chat_template.jinja",
        ];
        Ok(names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect())
    }
}

fn train(
    trainer: Trainer<Sft>,
    output_dir: &Path,
    companions: Companions,
    resolved: &Resolved,
) -> anyhow::Result<TrainSummary> {
    std::fs::create_dir_all(output_dir)
        .map_err(|error| Fault::failed(format!("cannot make `{}`", output_dir.display())).because(error))?;
    write_yaml(resolved, &output_dir.join("config.yaml"))?;
    let files = companions.save(output_dir)?;
    let metrics = JsonLines::new(output_dir.join("metrics.jsonl"));
    let mut trainer = trainer.with_run_dir(RunDir::create(output_dir, files)?).with_logger(metrics);
    let mut shown = TrainingProgress::new(Interrupt::install()?);
    shown.rows = trainer.log_history().to_vec();
    let summary = trainer.train(&mut shown);
    shown.finish();
    save_plots(&shown.rows, &output_dir.join("plots"))?;
    let summary = summary?;
    eprintln!("loss by step");
    eprintln!("{}", plot::curve(&loss_series(&shown.rows), "step", output::stderr_width()));
    eprintln!(
        "{} steps in {}, mean loss {:.4}, {} tokens",
        summary.global_step,
        progress::clock(std::time::Duration::from_secs_f64(summary.train_runtime)),
        summary.train_loss,
        summary.num_tokens
    );
    Ok(summary)
}

pub(crate) fn loss_series(rows: &[LogRow]) -> Series {
    series("loss", rows, |row| row.loss)
}

fn series(name: &str, rows: &[LogRow], value: fn(&LogRow) -> f64) -> Series {
    Series::new(name, rows.iter().map(|row| (row.step as f64, value(row))).collect())
}

/// One SVG for each curve.
pub(crate) fn save_plots(rows: &[LogRow], dir: &Path) -> anyhow::Result<()> {
    let curves = [
        ("loss (nats per token)", loss_series(rows)),
        ("learning rate", series("learning_rate", rows, |row| row.learning_rate)),
        ("gradient norm before clipping", series("grad_norm", rows, |row| row.grad_norm)),
    ];
    for (y_label, series) in curves {
        let file = dir.join(format!("{}.svg", series.name));
        let panel =
            Panel { title: y_label.to_owned(), x_label: "step".into(), y_label: y_label.into(), series: vec![series] };
        plot::save_svg(&file, &[panel])?;
    }
    Ok(())
}
