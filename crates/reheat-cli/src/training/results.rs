//! What a run leaves: the model, metrics, plots, a model card, and the last words on the terminal.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reheat_train::{JsonLines, Method, ModelCard, RowShares, RunDir, TensorBoard, TrainError, TrainSummary, Trainer};
use serde_json::json;

use super::{Companions, Next, Setup};
use crate::{
    curves::{self, Curves},
    fault::Fault,
    interrupt::Interrupt,
    output::{self, Format},
    plot,
    progress::{self, TrainingProgress, Watch},
    report,
    samples::Samples,
    settings::{Origin, Resolved, write_yaml},
};

/// A run that is about to begin.
pub(super) struct Run<'a> {
    /// Such as `sft`.
    pub(super) name: &'static str,
    pub(super) setup: &'a Setup,
    pub(super) resolved: &'a Resolved,
    /// What the model card says before training.
    pub(super) card: ModelCard,
    /// What became of the rows, for advice.
    pub(super) shares: RowShares,
    /// Looks at every step and gives what there is to tell.
    pub(super) watch: Option<Watch>,
}

impl Run<'_> {
    /// Trains, and leaves the model, metrics, plots and a model card.
    pub(super) fn train<M: Method>(self, trainer: Trainer<M>) -> anyhow::Result<TrainSummary> {
        let Setup { settings, companions, output_dir: dir } = self.setup;
        fs::create_dir_all(dir)
            .map_err(|error| Fault::failed(format!("cannot make `{}`", dir.display())).because(error))?;
        write_yaml(self.resolved, &dir.join("config.yaml"))?;
        let files = companions.save(dir)?;
        let mut trainer = trainer
            .with_run_dir(RunDir::create(dir, files)?)
            .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
            .with_logger(TensorBoard::new(dir.join("tensorboard")));

        let mut shown = TrainingProgress::new(Interrupt::install()?).with_plots(dir.join("plots"));
        if settings.output.tui {
            shown = shown.with_dashboard(self.name, trainer.config());
        }
        if let Some(watch) = self.watch {
            shown = shown.watched(watch);
        }
        shown.curves.rows = trainer.log_history().to_vec();
        shown.curves.evaluations = trainer.evaluations().to_vec();
        shown.advise_before(trainer.model(), trainer.config(), self.shares);
        if !settings.output.sample_prompts.is_empty() {
            let Companions { tokenizer, template } = companions.clone();
            let (prompts, longest) = (settings.output.sample_prompts.clone(), settings.output.sample_max_new_tokens);
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

/// Says where the result is, and how it ended.
pub(super) fn finish(summary: &TrainSummary, next: Next, output_dir: &Path, format: Format) -> anyhow::Result<()> {
    if format.json {
        output::print_json(&json!({ "output_dir": output_dir, "summary": summary }))?;
    } else {
        println!("{}", output_dir.display());
    }
    if summary.interrupted {
        let stopped = format!("stopped at step {}; the checkpoint is saved", summary.global_step);
        return Err(Fault::interrupted(stopped).hint("the same command with --resume-from-checkpoint goes on").into());
    }
    match next {
        Next::Chat => eprintln!("talk with it: reheat chat --model {}", output_dir.display()),
        Next::Judge => eprintln!("let it judge: reheat grpo --reward model:{}", output_dir.display()),
    }
    Ok(())
}

fn tell(curves: &Curves, summary: &TrainSummary) {
    // Where there are rewards, the loss says nothing about what was learned.
    let reward = Some(curves.training("reward")).filter(|reward| !reward.points.is_empty());
    let (what, curve) = reward.map_or_else(|| ("loss", curves.training("loss")), |reward| ("reward", reward));
    if !curve.points.is_empty() {
        eprintln!("{what} by step");
        eprintln!("{}", plot::curve(&curve, "step", output::stderr_width()));
    }
    eprintln!(
        "{} in {}, mean loss {:.4}, {}",
        report::counted(summary.global_step, "step"),
        progress::clock(Duration::from_secs_f64(summary.train_runtime)),
        summary.train_loss,
        report::counted(summary.num_tokens, "token")
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
    const ELSEWHERE: [&str; 11] = [
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
        "tui",
    ];
    let mut card = card.with_summary(summary).with_kind_of(dir);
    for setting in &resolved.settings {
        if setting.origin != Origin::Default && !ELSEWHERE.contains(&setting.key.as_str()) {
            card.settings.push((format!("`{}`", setting.key), format!("`{}`", setting.value)));
        }
    }
    for (file, what) in
        [("reward", "reward by step"), ("loss", "loss by step"), ("learning_rate", "learning rate by step")]
    {
        let path = format!("plots/{file}.svg");
        if dir.join(&path).is_file() {
            card.plots.push((path, what.into()));
        }
    }
    let path = dir.join("README.md");
    Ok(fs::write(&path, card.render(&dir.to_string_lossy())).map_err(|source| TrainError::Write { path, source })?)
}
