//! What every training command does around the loop: the output folder, an earlier run, loggers, plots, the model card.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;
use reheat_train::{
    Checkpoint, JsonLines, Method, ModelCard, RunDir, TensorBoard, TrainError, TrainSummary, Trainer, TrainingConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    curves::{self, Curves},
    fault::Fault,
    interrupt::Interrupt,
    output, plot,
    progress::{self, TrainingProgress, Watch},
    samples::Samples,
    settings::{Origin, Resolved, write_yaml},
};

/// Where results go, and whether an earlier run is continued.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OutputSettings {
    /// Folder for the model, checkpoints, metrics and plots.
    pub(crate) output_dir: Option<String>,
    /// Go on with an earlier run: a checkpoint's folder, or `true` for the newest intact one of the output folder.
    #[schemars(extend("x-bare" = "true"))]
    pub(crate) resume_from_checkpoint: Option<String>,
    /// Remove the checkpoints that an earlier run left in the output folder.
    pub(crate) overwrite_output_dir: bool,
    /// Prompts that the model answers at each evaluation; shown, and kept in `samples.jsonl`.
    pub(crate) sample_prompts: Vec<String>,
    /// Longest of those answers in tokens.
    pub(crate) sample_max_new_tokens: usize,
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self {
            output_dir: None,
            resume_from_checkpoint: None,
            overwrite_output_dir: false,
            sample_prompts: Vec::new(),
            sample_max_new_tokens: 64,
        }
    }
}

impl OutputSettings {
    /// The folder; `runs/METHOD` where none is given.
    pub(crate) fn dir(&self, method: &str) -> PathBuf {
        self.output_dir.as_ref().map_or_else(|| Path::new("runs").join(method), PathBuf::from)
    }

    fn resumes(&self) -> Option<&str> {
        self.resume_from_checkpoint.as_deref().filter(|choice| !matches!(*choice, "false" | "False"))
    }

    /// A new run must not be mixed up with an old one when it is resumed.
    pub(crate) fn check_dir(&self, dir: &Path) -> anyhow::Result<()> {
        match Checkpoint::dirs(dir)?.last() {
            Some(newest) if self.resumes().is_none() && !self.overwrite_output_dir => {
                Err(Fault::input(format!("`{}` is of an earlier run", newest.display()))
                    .hint("--resume-from-checkpoint goes on with it, --overwrite-output-dir removes it, or choose another --output-dir")
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Goes on with an earlier run, or clears its remains away.
    pub(crate) fn resume_or_clear<M: Method>(&self, trainer: &mut Trainer<M>, dir: &Path) -> anyhow::Result<()> {
        let Some(choice) = self.resumes() else { return remove_checkpoints(dir) };
        let checkpoint = match choice {
            "true" | "True" => {
                let (checkpoint, damaged) = Checkpoint::newest(dir)?;
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
}

fn remove_checkpoints(dir: &Path) -> anyhow::Result<()> {
    for old in Checkpoint::dirs(dir)? {
        fs::remove_dir_all(&old)
            .map_err(|error| Fault::failed(format!("cannot remove `{}`", old.display())).because(error))?;
    }
    Ok(())
}

/// Faults of settings that concern evaluation, which the loop alone cannot see.
pub(crate) fn evaluation_faults(config: &TrainingConfig, has_rows: bool) -> Vec<String> {
    let evaluates = config.eval_strategy != reheat_train::IntervalStrategy::No || config.eval_on_start;
    match (evaluates, has_rows) {
        (true, false) => vec!["--eval-strategy needs --eval-dataset: rows that are not trained on".into()],
        (false, true) => vec!["--eval-dataset needs --eval-strategy steps or epoch, or its rows are never used".into()],
        _ => Vec::new(),
    }
}

/// Faults of settings that concern evaluation, for a command that takes no rows for it.
pub(crate) fn no_evaluation_faults(config: &TrainingConfig) -> Vec<String> {
    let evaluates = config.eval_strategy != reheat_train::IntervalStrategy::No || config.eval_on_start;
    if evaluates { vec!["eval_strategy: this command has no rows to evaluate with".into()] } else { Vec::new() }
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

/// A run that is about to begin.
pub(crate) struct Run<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) companions: Companions,
    pub(crate) resolved: &'a Resolved,
    pub(crate) settings: &'a OutputSettings,
    /// What the model card says before training.
    pub(crate) card: ModelCard,
    /// Share of the sequences that were cut, for advice.
    pub(crate) truncated: f64,
    /// Looks at every step and gives what there is to tell.
    pub(crate) watch: Option<Watch>,
}

impl Run<'_> {
    /// Trains, and leaves the model, metrics, plots and a model card.
    pub(crate) fn train<M: Method>(self, trainer: Trainer<M>) -> anyhow::Result<TrainSummary> {
        let dir = self.dir;
        fs::create_dir_all(dir)
            .map_err(|error| Fault::failed(format!("cannot make `{}`", dir.display())).because(error))?;
        write_yaml(self.resolved, &dir.join("config.yaml"))?;
        let files = self.companions.save(dir)?;
        let mut trainer = trainer
            .with_run_dir(RunDir::create(dir, files)?)
            .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
            .with_logger(TensorBoard::new(dir.join("tensorboard")));

        let mut shown = TrainingProgress::new(Interrupt::install()?).with_plots(dir.join("plots"));
        if let Some(watch) = self.watch {
            shown = shown.watched(watch);
        }
        shown.curves.rows = trainer.log_history().to_vec();
        shown.curves.evaluations = trainer.evaluations().to_vec();
        shown.advise_before(trainer.model(), trainer.config(), self.truncated);
        if !self.settings.sample_prompts.is_empty() {
            let Companions { tokenizer, template } = self.companions;
            let (prompts, longest) = (self.settings.sample_prompts.clone(), self.settings.sample_max_new_tokens);
            shown = shown.with_samples(Samples::new(dir, prompts, longest, tokenizer, template));
        }
        let summary = trainer.train(&mut shown);
        shown.finish();
        curves::draw_one(&shown.curves, &dir.join("plots"))?;
        let summary = summary?;
        tell(&shown.curves, &summary);
        if !summary.interrupted {
            write_card(self.card, self.resolved, &summary, dir)?;
        }
        Ok(summary)
    }
}

fn tell(curves: &Curves, summary: &TrainSummary) {
    if !curves.rows.is_empty() {
        eprintln!("loss by step");
        eprintln!("{}", plot::curve(&curves.training("loss"), "step", output::stderr_width()));
    }
    eprintln!(
        "{} steps in {}, mean loss {:.4}, {} tokens",
        summary.global_step,
        progress::clock(Duration::from_secs_f64(summary.train_runtime)),
        summary.train_loss,
        summary.num_tokens
    );
    if summary.stopped_early {
        eprintln!("stopped early: evaluations were no longer better");
    }
    if let Some(step) = summary.best_step {
        eprintln!("the model is that of step {step}, the best evaluation");
    }
}

fn write_card(card: ModelCard, resolved: &Resolved, summary: &TrainSummary, dir: &Path) -> anyhow::Result<()> {
    // Names of files, and what says nothing about the model.
    const ELSEWHERE: [&str; 10] = [
        "model_name_or_path",
        "base_model_name_or_path",
        "dataset_name",
        "datasets",
        "eval_dataset_name",
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "chat_template_path",
        "sample_prompts",
    ];
    let mut card = card.with_summary(summary);
    for setting in &resolved.settings {
        if setting.origin != Origin::Default && !ELSEWHERE.contains(&setting.key.as_str()) {
            card.settings.push((format!("`{}`", setting.key), format!("`{}`", setting.value)));
        }
    }
    for (file, what) in [("loss", "loss by step"), ("learning_rate", "learning rate by step")] {
        let path = format!("plots/{file}.svg");
        if dir.join(&path).is_file() {
            card.plots.push((path, what.into()));
        }
    }
    let path = dir.join("README.md");
    Ok(fs::write(&path, card.render()).map_err(|source| TrainError::Write { path, source })?)
}
