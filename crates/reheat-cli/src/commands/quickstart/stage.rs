//! One training of a quickstart: settings that fit a model this small, and what it leaves.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use reheat_data::{Dataset, DatasetSpec, PrepareOptions, prepare_preference, prepare_prompts, prepare_sft};
use reheat_model::Qwen2;
use reheat_train::{
    Dpo, DpoConfig, DpoLossType, Grpo, GrpoConfig, JsonLines, Method, Reference, RewardContext, RewardSpec,
    RolloutSetup, RunDir, SaveStrategy, Sft, SftConfig, Trainer, TrainingConfig, build_rewards, precompute_reference,
};

use crate::{
    curves, fault::Fault, interrupt::Interrupt, output, plot, progress::TrainingProgress, training::Companions,
};

/// Rows of a forward pass.
pub(super) const BATCH_SIZE: usize = 16;
/// Of fine-tuning.
pub(super) const SFT_LEARNING_RATE: f64 = 3e-4;
pub(super) const SFT_EPOCHS: f64 = 6.0;
/// Of preference training.
pub(super) const DPO_LEARNING_RATE: f64 = 3e-4;
pub(super) const DPO_EPOCHS: f64 = 3.0;
/// Of the loss types `sigmoid` and `sft`. A model this small forgets what it knows if the worse answers alone push it.
pub(super) const DPO_WEIGHTS: [f64; 2] = [0.2, 1.0];

/// Of training on the model's own answers.
pub(super) const GRPO_LEARNING_RATE: f64 = 1e-4;
pub(super) const GRPO_STEPS: i64 = 150;
/// Answers to each question.
pub(super) const NUM_GENERATIONS: usize = 16;
/// Answers of a step.
pub(super) const COMPLETIONS: usize = 128;
/// Longest answer in tokens.
pub(super) const MAX_COMPLETION_LENGTH: usize = 40;
/// The right word, and no more than one sentence.
pub(super) const REWARDS: [&str; 2] = ["contains:expected", r"regex:^[^.]*\.$"];

/// What every training of a quickstart has in common.
pub(super) struct Stage<'a> {
    pub(super) companions: &'a Companions,
    pub(super) seed: u64,
    /// Whether there is a bar.
    pub(super) quiet: bool,
}

impl Stage<'_> {
    /// Fine-tunes the base model on conversations.
    pub(super) fn sft(&self, base: &Path, rows: &Path, dir: &Path) -> anyhow::Result<Qwen2> {
        let model = self.load(base)?;
        let options = PrepareOptions { assistant_only_loss: true, ..PrepareOptions::default() };
        let Companions { tokenizer, template } = self.companions;
        let prepared = prepare_sft(&dataset(rows)?, tokenizer, template.as_ref(), &options, &mut |_| {})?;
        let config = self.config(SFT_LEARNING_RATE, SFT_EPOCHS);
        self.train(model, Sft::new(prepared.examples, SftConfig::default()), config, dir, "loss")
    }

    /// Lets a model prefer the better answers of pairs.
    pub(super) fn dpo(&self, model: Qwen2, rows: &Path, dir: &Path) -> anyhow::Result<Qwen2> {
        let Companions { tokenizer, template } = self.companions;
        let options = PrepareOptions::default();
        let pairs = prepare_preference(&dataset(rows)?, tokenizer, template.as_ref(), &options, &mut |_| {})?.examples;
        let known = precompute_reference(&model, &pairs, None, BATCH_SIZE, None, &mut |_| {})?;
        let mut settings = DpoConfig::default();
        settings.loss_type = vec![DpoLossType::Sigmoid, DpoLossType::Sft];
        settings.loss_weights = Some(DPO_WEIGHTS.into());
        let method = Dpo::new(pairs, settings, Reference::Precomputed(known))?;
        let config = self.config(DPO_LEARNING_RATE, DPO_EPOCHS);
        self.train(model, method, config, dir, "loss")
    }

    /// Lets a model answer, and learn from the rewards of its answers.
    pub(super) fn grpo(&self, model: Qwen2, rows: &Path, dir: &Path) -> anyhow::Result<Qwen2> {
        let Companions { tokenizer, template } = self.companions;
        let options = PrepareOptions::default();
        let prompts = prepare_prompts(&dataset(rows)?, tokenizer, template.as_ref(), &options, &mut |_| {})?.examples;
        let specs = REWARDS.iter().map(|text| text.parse()).collect::<Result<Vec<RewardSpec>, _>>()?;
        let rewards = build_rewards(&specs, &RewardContext::new(|_| {}))?;
        let mut rollouts = RolloutSetup::new(prompts, tokenizer.clone(), rewards);
        rollouts.config.num_generations = NUM_GENERATIONS;
        rollouts.config.max_completion_length = MAX_COMPLETION_LENGTH;
        let mut config = self.config(GRPO_LEARNING_RATE, 1.0);
        config.per_device_train_batch_size = COMPLETIONS;
        config.max_steps = GRPO_STEPS;
        let method = Grpo::new(rollouts, GrpoConfig::default(), &config)?;
        self.train(model, method, config, dir, "reward")
    }

    fn load(&self, dir: &Path) -> anyhow::Result<Qwen2> {
        let mut model = Qwen2::load(dir, &Device::flex())?;
        if let Some(eos) = self.companions.tokenizer.special_tokens().eos() {
            model.config_mut().set("eos_token_id", eos.id.into());
        }
        Ok(model)
    }

    fn config(&self, learning_rate: f64, epochs: f64) -> TrainingConfig {
        let mut config = TrainingConfig::default();
        config.learning_rate = learning_rate;
        config.num_train_epochs = epochs;
        config.per_device_train_batch_size = BATCH_SIZE;
        config.gradient_checkpointing = false;
        config.logging_steps = 5;
        config.save_strategy = SaveStrategy::No;
        config.seed = self.seed;
        config
    }

    /// Trains, and shows the curve of one metric.
    fn train<M: Method>(
        &self,
        model: Qwen2,
        method: M,
        config: TrainingConfig,
        dir: &Path,
        metric: &str,
    ) -> anyhow::Result<Qwen2> {
        let interrupt = Interrupt::install()?;
        let mut shown = if self.quiet { TrainingProgress::silent(interrupt) } else { TrainingProgress::new(interrupt) };
        fs::create_dir_all(dir)
            .map_err(|error| Fault::failed(format!("cannot make `{}`", dir.display())).because(error))?;
        let mut trainer = Trainer::new(model, method, config)?
            .with_run_dir(RunDir::create(dir, self.companions.save(dir)?)?)
            .with_logger(JsonLines::new(dir.join("metrics.jsonl")));
        let summary = trainer.train(&mut shown);
        shown.finish();
        if summary?.interrupted {
            return Err(Fault::interrupted("the quickstart ends here").into());
        }
        curves::draw_one(&shown.curves, &dir.join("plots"))?;
        eprintln!("{metric} by step");
        eprintln!("{}", plot::curve(&shown.curves.training(metric), "step", output::stderr_width()));
        Ok(trainer.into_model())
    }
}

fn dataset(rows: &Path) -> anyhow::Result<Dataset> {
    Ok(Dataset::open(&DatasetSpec::new(rows.to_string_lossy()).into())?)
}
