//! From a typed training command to the loop: the way that `sft`, `dpo`, `kto` and their kin have in common.
//!
//! [`run`] is all of it. A command's file says what it has of its own, as a [`TrainingCommand`].

mod settings; // that every training command has
mod peft; // adapters
mod output; // the output folder, and an earlier run in it
mod changes; // what a changed setting means for a run that goes on
mod companions; // what is saved beside the weights
mod results; // what a run leaves
pub(crate) mod rollouts; // what commands share that learn from completions
mod completions; // those completions for a person

use std::path::PathBuf;

use reheat_data::{Dataset, Prepared, Report};
use reheat_model::Qwen2;
use reheat_train::{Method, ModelCard, RowShares, Trainer};
use serde_json::Value;

pub(crate) use self::{
    companions::Companions,
    settings::{EvaluationSettings, SharedSettings, table},
};
use self::{
    results::{Run, finish},
    settings::{RunSettings, evaluation_faults, no_evaluation_faults},
};
use crate::{
    device::ChosenDevice,
    fault::Fault,
    output::{self as stdout, Format},
    progress::{self, Watch},
    report,
    settings::{DatasetSettings, Fact, Flags, HasTable, Plan, Resolved, resolve},
};

/// What every training command is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainingArgs<C: HasTable> {
    /// YAML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print what would be done, with the origin of every setting, and stop.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    flags: Flags<C>,

    #[command(flatten)]
    format: Format,
}

/// What a training command has of its own: its settings, what rows become, and the method.
///
/// Its [table](HasTable::table) is made by [`table`].
pub(crate) trait TrainingCommand: HasTable + Sized {
    /// Such as `sft`.
    const NAME: &'static str;
    /// The name in full, for the model card.
    const TITLE: &'static str;
    /// What to do with the result.
    const NEXT: Next = Next::Chat;
    /// What a row of the dataset becomes.
    type Example;
    /// What is minimised.
    type Method: Method;

    /// The settings of its own.
    fn extract(resolved: &Resolved) -> Result<Self, Fault>;

    /// Everything that is wrong with them that can be known before a file is read.
    fn faults(&self, shared: &SharedSettings) -> Vec<String>;

    /// Settings of its own that change nothing as the others are, and which those are.
    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    /// Which rows it evaluates with; `None` for a command that has no such rows.
    fn evaluation(&self) -> Option<&EvaluationSettings> {
        None
    }

    /// Makes examples of rows.
    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<Self::Example>>;

    /// What the loop counts as rows, for so many examples.
    ///
    /// # Errors
    /// If there are too few for the settings.
    fn num_rows(&self, examples: usize, _shared: &SharedSettings) -> anyhow::Result<usize> {
        Ok(examples)
    }

    /// What a plan for so many examples should say beside what it says of every command.
    fn facts(&self, _examples: usize, _shared: &SharedSettings) -> Vec<Fact> {
        Vec::new()
    }

    /// The model that was loaded, with the head that is to be trained.
    fn with_head(&self, model: Qwen2, _shared: &SharedSettings, _companions: &Companions) -> anyhow::Result<Qwen2> {
        Ok(model)
    }

    /// The method on the examples to train on; `model` is as training begins with it.
    fn method(&self, examples: Vec<Self::Example>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Self::Method>;

    /// The method on the examples to evaluate with, which is made after the other.
    fn evaluation_method(
        &self,
        examples: Vec<Self::Example>,
        model: &Qwen2,
        setup: &Setup,
    ) -> anyhow::Result<Self::Method> {
        self.method(examples, model, setup)
    }

    /// Looks at every step and gives what there is to tell.
    fn watch(&self, _shared: &SharedSettings) -> Option<Watch> {
        None
    }
}

/// What the model that a command leaves is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Talking with it.
    Chat,
    /// Judging what others say.
    Judge,
}

/// Rows on their way to examples.
pub(crate) struct Rows<'a> {
    pub(crate) dataset: Dataset,
    pub(crate) purpose: Purpose,
    pub(crate) companions: &'a Companions,
    /// Where rows are written that are left out.
    pub(crate) rejected: Option<PathBuf>,
    /// Is told the number of rows done.
    pub(crate) progress: &'a mut dyn FnMut(u64),
}

/// What rows are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Training,
    Evaluation,
}

/// What is known of a run when its method is made.
pub(crate) struct Setup {
    pub(crate) settings: SharedSettings,
    pub(crate) companions: Companions,
    pub(crate) output_dir: PathBuf,
}

/// Settings, then rows, then the plan; unless it is a dry run, the model and the loop.
pub(crate) fn run<C: TrainingCommand>(args: &TrainingArgs<C>) -> anyhow::Result<()> {
    let mut resolved = resolve(&args.flags, args.config.as_deref())?;
    let device = resolved.extract::<RunSettings>()?.device.resolve()?;
    let (dtype, reason) = device.training_dtype();
    let dtype_reason = resolved.decide("dtype", dtype).then_some(reason);
    let settings = SharedSettings::extract(&resolved)?;
    settings.run.kernels.apply();
    let command = C::extract(&resolved)?;
    for note in &resolved.notes {
        eprintln!("note: {note}");
    }
    let without_effect = [settings.peft.without_effect(C::table()), command.without_effect()].concat();
    for setting in resolved.given() {
        if let Some((key, why)) = without_effect.iter().find(|(key, _)| *key == setting.key) {
            eprintln!("note: {}: `{key}` has no effect {why}", setting.origin);
        }
    }
    let eval_dataset = command.evaluation().and_then(|evaluation| evaluation.dataset(&settings.dataset));
    let model_dir = settings.model_dir(faults(&command, &settings, eval_dataset.is_some()))?;
    let output_dir = settings.output.dir(C::NAME);
    settings.output.check_dir(&output_dir)?;

    let base_model = model_dir.to_string_lossy().into_owned();
    let source = settings.open(model_dir)?;
    let (companions, eos_note) = settings.companions(&source)?;
    // A dry run writes nothing.
    let rejected = (!args.dry_run).then(|| output_dir.join("rejected.jsonl"));
    let prepared = prepare(&command, Purpose::Training, &settings.dataset, &companions, rejected.clone())?;
    let eval_prepared = match eval_dataset {
        Some(rows) => Some(prepare(&command, Purpose::Evaluation, &rows, &companions, None)?),
        None => None,
    };
    let num_rows = command.num_rows(prepared.examples.len(), &settings)?;
    let mut facts = facts(&prepared, settings.training.total_steps(num_rows), &device, eos_note);
    if let Some(reason) = dtype_reason {
        let value = settings.training.dtype.to_string().into();
        facts.insert(1, Fact { name: "dtype", value, reason: Some(reason.to_owned()) });
    }
    facts.extend(command.facts(prepared.examples.len(), &settings));
    if args.dry_run {
        return show(&Plan { command: C::NAME, resolved: &resolved, facts }, args.format);
    }
    if let Some(reason) = dtype_reason {
        eprintln!("{dtype} ({reason}) on {} ({})", device.name, device.reason);
    }
    report::print(&prepared.report, rejected.as_deref());
    if let Some(prepared) = &eval_prepared {
        eprintln!("rows to evaluate with:");
        report::print(&prepared.report, None);
    }

    let with_head = |model| command.with_head(model, &settings, &companions);
    let model = settings.load(&source, &base_model, &device, &companions.tokenizer, with_head)?;
    if C::NEXT == Next::Chat {
        source.check_speaks(&model)?;
    }
    let card = ModelCard::new(C::NAME, C::TITLE, &base_model).with_license_of(source.base_dir());
    let card = self::card(card, &settings.dataset, &prepared.report);
    let share = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    let shares = RowShares {
        truncated: share(prepared.report.truncated, prepared.report.examples),
        not_learned: share(prepared.report.without_trained_token, prepared.report.rows),
    };
    let setup = Setup { settings, companions, output_dir };
    let method = command.method(prepared.examples, &model, &setup)?;
    let evaluation = match eval_prepared {
        Some(prepared) => Some(command.evaluation_method(prepared.examples, &model, &setup)?),
        None => None,
    };
    let mut trainer = Trainer::new(model, method, setup.settings.training.clone())?
        .with_settings(changes::compared(&resolved, C::table()));
    if let Some(method) = evaluation {
        trainer = trainer.with_evaluation(method)?;
    }
    setup.settings.output.resume_or_clear(&mut trainer, &setup.output_dir, C::table())?;
    let watch = command.watch(&setup.settings);
    let run = Run { name: C::NAME, setup: &setup, resolved: &resolved, card, shares, watch };
    finish(&run.train(trainer)?, C::NEXT, &setup.output_dir, args.format)
}

/// Everything that is wrong before a file is read.
fn faults<C: TrainingCommand>(command: &C, settings: &SharedSettings, has_eval_rows: bool) -> Vec<String> {
    let mut faults = settings.training.faults();
    faults.extend(command.faults(settings));
    faults.extend(settings.peft.faults());
    faults.extend(settings.dataset.faults());
    faults.extend(match command.evaluation() {
        Some(_) => evaluation_faults(&settings.training, has_eval_rows),
        None => no_evaluation_faults(&settings.training),
    });
    faults
}

fn prepare<C: TrainingCommand>(
    command: &C,
    purpose: Purpose,
    dataset: &DatasetSettings,
    companions: &Companions,
    rejected: Option<PathBuf>,
) -> anyhow::Result<Prepared<C::Example>> {
    let dataset = dataset.open()?;
    let bar = progress::rows_bar("tokenising");
    let progress = &mut |rows| bar.set_position(rows);
    let prepared = command.prepare(Rows { dataset, purpose, companions, rejected, progress });
    bar.finish_and_clear();
    prepared
}

fn show(plan: &Plan, format: Format) -> anyhow::Result<()> {
    if format.json {
        return stdout::print_json(&plan.to_json());
    }
    Ok(plan.print(&mut stdout::stdout())?)
}

/// What follows from the settings and the rows.
fn facts<T>(prepared: &Prepared<T>, steps: u64, device: &ChosenDevice, eos_note: Option<String>) -> Vec<Fact> {
    let report = &prepared.report;
    let formats =
        report.files.iter().map(|(file, detection)| format!("{file}: {} ({})", detection.format, detection.reason));
    let fact = |name, value: Value| Fact { name, value, reason: None };
    let mut facts = vec![
        Fact { name: "device", value: device.name.clone().into(), reason: Some(device.reason.clone()) },
        fact("formats", formats.collect::<Vec<_>>().into()),
        fact("examples", prepared.examples.len().into()),
        fact("tokens", report.tokens.into()),
        fact("trained tokens", report.trained_tokens.into()),
        fact("truncated", report.truncated.into()),
        fact("steps", steps.into()),
    ];
    if let Some(note) = eos_note {
        facts.push(Fact { name: "end of turn", value: "changed".into(), reason: Some(note) });
    }
    facts
}

/// What the model card says before training.
fn card(mut card: ModelCard, dataset: &DatasetSettings, report: &Report) -> ModelCard {
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
