//! The loop: draw a step's sequences, forward and backward per micro-batch, clip, update, log, save.

use std::time::Instant;

use burn::tensor::Tensor;
use reheat_data::{Batch, Sequence, epoch_order};
use reheat_kernels::TokenLogprobs;
use reheat_model::{Qwen2, SaveOptions};

use super::{LossType, SaveStrategy, SftConfig, loss};
use crate::metrics::TokenSums;
use crate::{
    AdamW, AdamWConfig, Callback, Checkpointing, Control, Gradients, LogRow, LrSchedule, ModelPass, RunDir, TrainError,
    TrainStart, TrainSummary, TrainerState,
};

/// Supervised fine-tuning of one model on one set of sequences.
#[derive(Debug)]
pub struct SftTrainer {
    /// Absent only inside a step, while the optimizer owns it.
    model: Option<Qwen2>,
    sequences: Vec<Sequence>,
    config: SftConfig,
    schedule: LrSchedule,
    optimizer: AdamW,
    run_dir: Option<RunDir>,
    progress: Progress,
}

/// Where the run is.
#[derive(Debug, Default)]
struct Progress {
    step: u64,
    num_tokens: u64,
    num_sequences: u64,
    /// Forward and backward passes.
    micro_steps: u64,
    /// Sum of the steps' losses.
    loss: f64,
    log_history: Vec<LogRow>,
}

/// Since the last logged row.
struct Window {
    steps: u64,
    loss: f64,
    tokens: TokenSums,
    num_tokens: u64,
    start: Instant,
}

impl Window {
    fn new() -> Self {
        Self { steps: 0, loss: 0.0, tokens: TokenSums::default(), num_tokens: 0, start: Instant::now() }
    }
}

/// What one optimizer step came to.
struct StepOutcome {
    /// Sums over the trained tokens of the step.
    tokens: TokenSums,
    grad_norm: f64,
    learning_rate: f64,
    num_tokens: u64,
}

/// Added to the norm when the gradient is scaled down (`torch.nn.utils.clip_grad_norm_`).
const CLIP_EPSILON: f64 = 1e-6;

impl SftTrainer {
    /// Checks settings and data; nothing is computed yet.
    ///
    /// Sequences without a trained token are part of the order but weigh nothing.
    ///
    /// # Errors
    /// If a setting is out of range (all faults in one error), no sequence has a trained token, or an id is outside
    /// the model's vocabulary.
    pub fn new(model: Qwen2, sequences: Vec<Sequence>, config: SftConfig) -> Result<Self, TrainError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(TrainError::Config(faults));
        }
        if sequences.iter().all(|sequence| sequence.num_items() == 0) {
            return Err(TrainError::EmptyDataset);
        }
        let vocab_size = model.config().vocab_size;
        for (index, sequence) in sequences.iter().enumerate() {
            if let Some(&id) = sequence.input_ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
            }
        }
        let total_steps = config.total_steps(sequences.len());
        let schedule = LrSchedule {
            kind: config.lr_scheduler_type,
            learning_rate: config.learning_rate,
            warmup_steps: config.resolved_warmup_steps(total_steps),
            total_steps,
        };
        let optimizer = AdamW::new(AdamWConfig {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
        });
        Ok(Self {
            model: Some(model),
            sequences,
            config,
            schedule,
            optimizer,
            run_dir: None,
            progress: Progress::default(),
        })
    }

    /// Writes metrics, checkpoints and the final model into a directory.
    pub fn with_run_dir(mut self, run_dir: RunDir) -> Self {
        self.run_dir = Some(run_dir);
        self
    }

    /// The settings.
    pub fn config(&self) -> &SftConfig {
        &self.config
    }

    /// The model as it is now.
    pub fn model(&self) -> &Qwen2 {
        self.model.as_ref().expect("the model is absent only inside a step")
    }

    /// The model, when training is done.
    pub fn into_model(self) -> Qwen2 {
        self.model.expect("the model is absent only inside a step")
    }

    /// Every row logged so far.
    pub fn log_history(&self) -> &[LogRow] {
        &self.progress.log_history
    }

    /// Trains to the end, or until the callback stops it; then a checkpoint is saved and the summary says so.
    ///
    /// # Errors
    /// If the loss or the gradient stops being finite, before the update that would spoil the weights; or a file of the
    /// run cannot be written. What was saved before stays.
    pub fn train(&mut self, callback: &mut dyn Callback) -> Result<TrainSummary, TrainError> {
        let started = Instant::now();
        let total_steps = self.schedule.total_steps;
        let num_tokens = self.sequences.iter().map(|sequence| sequence.input_ids.len() as u64).sum();
        callback.on_start(&TrainStart::new(total_steps, self.sequences.len(), num_tokens));

        let mut window = Window::new();
        let mut interrupted = false;
        let mut epoch = 0;
        while self.progress.step < total_steps && !interrupted {
            let order = epoch_order(self.sequences.len(), self.config.seed, epoch, self.config.train_sampling_strategy);
            let steps_per_epoch = self.config.steps_per_epoch(self.sequences.len());
            for indices in order.chunks(self.config.sequences_per_step()) {
                let step_started = Instant::now();
                let outcome = self.step(indices)?;
                let row = self.row(&outcome, outcome.tokens.mean(outcome.tokens.loss), outcome.tokens, &step_started);
                window.steps += 1;
                window.loss += row.loss;
                window.tokens.add(outcome.tokens);
                window.num_tokens += outcome.num_tokens;

                interrupted = callback.on_step(&row) == Control::Stop;
                let last = self.progress.step == total_steps || interrupted;
                if last || self.progress.step.is_multiple_of(self.config.logging_steps) {
                    self.log(&mut window, &outcome, callback)?;
                }
                let epoch_end = self.progress.step.is_multiple_of(steps_per_epoch);
                if interrupted || self.saves_now(epoch_end) {
                    self.save_checkpoint(callback)?;
                }
                if last {
                    break;
                }
            }
            epoch += 1;
        }
        if let Some(run_dir) = &self.run_dir
            && !interrupted
        {
            run_dir.save_final(self.model(), &self.state(), &self.save_options())?;
        }
        let train_runtime = started.elapsed().as_secs_f64();
        Ok(TrainSummary {
            global_step: self.progress.step,
            train_loss: self.progress.loss / self.progress.step.max(1) as f64,
            train_runtime,
            train_samples_per_second: self.progress.num_sequences as f64 / train_runtime,
            train_steps_per_second: self.progress.step as f64 / train_runtime,
            num_tokens: self.progress.num_tokens,
            interrupted,
        })
    }

    /// One optimizer step over the sequences at `indices`.
    fn step(&mut self, indices: &[usize]) -> Result<StepOutcome, TrainError> {
        let micro_batches: Vec<Batch> = indices
            .chunks(self.config.per_device_train_batch_size)
            .map(|chunk| Batch::from_sequences(chunk.iter().map(|index| &self.sequences[*index])))
            .collect();
        let num_items_in_batch = micro_batches.iter().map(|batch| batch.num_items() as u64).sum();
        let learning_rate = self.schedule.at(self.progress.step);

        let checkpointing =
            if self.config.gradient_checkpointing { Checkpointing::Recompute } else { Checkpointing::Keep };
        let loss_type = self.config.loss_type;
        let objective =
            |_positions: &[usize], logprobs: Tensor<1>| loss::gradient(loss_type, logprobs, num_items_in_batch);
        let mut gradients = Gradients::default();
        let mut tokens = TokenSums::default();
        for batch in &micro_batches {
            let pass = ModelPass::new(self.model(), checkpointing);
            let logprobs = pass.forward_backward(batch, &objective, &mut gradients);
            tokens.add(token_sums(batch, logprobs, loss_type));
        }
        let grad_norm = gradients.norm();
        for (what, value) in [("loss", tokens.mean(tokens.loss)), ("grad_norm", grad_norm)] {
            if !value.is_finite() {
                let (step, sequences) = (self.progress.step + 1, indices.to_vec());
                return Err(TrainError::NotFinite { what, value, step, sequences });
            }
        }
        let max_norm = self.config.max_grad_norm;
        let scale = if max_norm > 0.0 { (max_norm / (grad_norm + CLIP_EPSILON)).min(1.0) } else { 1.0 };
        let model = self.model.take().expect("the model is absent only inside a step");
        self.model = Some(self.optimizer.step(model, gradients, learning_rate, scale));

        let num_tokens = micro_batches.iter().map(|batch| batch.num_tokens() as u64).sum();
        self.progress.step += 1;
        self.progress.num_tokens += num_tokens;
        self.progress.num_sequences += indices.len() as u64;
        self.progress.micro_steps += micro_batches.len() as u64;
        self.progress.loss += tokens.mean(tokens.loss);
        Ok(StepOutcome { tokens, grad_norm, learning_rate, num_tokens })
    }

    fn row(&self, outcome: &StepOutcome, loss: f64, tokens: TokenSums, since: &Instant) -> LogRow {
        LogRow {
            step: self.progress.step,
            loss,
            grad_norm: outcome.grad_norm,
            learning_rate: outcome.learning_rate,
            entropy: tokens.mean(tokens.entropy),
            mean_token_accuracy: tokens.mean(tokens.hits),
            num_tokens: self.progress.num_tokens,
            epoch: self.epoch(),
            tokens_per_second: outcome.num_tokens as f64 / since.elapsed().as_secs_f64(),
        }
    }

    fn log(
        &mut self,
        window: &mut Window,
        outcome: &StepOutcome,
        callback: &mut dyn Callback,
    ) -> Result<(), TrainError> {
        let window = std::mem::replace(window, Window::new());
        let outcome = StepOutcome { num_tokens: window.num_tokens, ..*outcome };
        let row = self.row(&outcome, window.loss / window.steps as f64, window.tokens, &window.start);
        if let Some(run_dir) = &mut self.run_dir {
            run_dir.log(&row)?;
        }
        callback.on_log(&row)?;
        self.progress.log_history.push(row);
        Ok(())
    }

    /// Counted in micro-batches, of which the last of an epoch may be smaller, as transformers does.
    fn epoch(&self) -> f64 {
        let micro_steps_per_epoch = self.sequences.len().div_ceil(self.config.per_device_train_batch_size);
        self.progress.micro_steps as f64 / micro_steps_per_epoch as f64
    }

    fn saves_now(&self, epoch_end: bool) -> bool {
        match self.config.save_strategy {
            SaveStrategy::No => false,
            SaveStrategy::Steps => self.progress.step.is_multiple_of(self.config.save_steps),
            SaveStrategy::Epoch => epoch_end,
        }
    }

    fn save_checkpoint(&self, callback: &mut dyn Callback) -> Result<(), TrainError> {
        let Some(run_dir) = &self.run_dir else { return Ok(()) };
        let (state, options) = (self.state(), self.save_options());
        let dir = run_dir.save_checkpoint(self.model(), &state, &options, self.config.save_total_limit)?;
        callback.on_save(&dir);
        Ok(())
    }

    fn save_options(&self) -> SaveOptions {
        SaveOptions { dtype: self.config.save_dtype, ..SaveOptions::default() }
    }

    fn state(&self) -> TrainerState {
        TrainerState {
            global_step: self.progress.step,
            max_steps: self.schedule.total_steps,
            epoch: self.epoch(),
            num_train_epochs: self.config.num_train_epochs,
            logging_steps: self.config.logging_steps,
            train_batch_size: self.config.per_device_train_batch_size,
            log_history: self.progress.log_history.clone(),
        }
    }
}

/// Sums of a micro-batch over its trained tokens, read back from the device once.
fn token_sums(batch: &Batch, tokens: TokenLogprobs, loss_type: LossType) -> TokenSums {
    let sums = [loss::token_losses(loss_type, tokens.logprobs).sum(), tokens.entropy.sum(), tokens.is_top1.sum()];
    let sums = Tensor::cat(sums.to_vec(), 0).into_data().try_to_vec::<f32>().expect("sums are f32");
    TokenSums {
        items: batch.num_items() as u64,
        loss: f64::from(sums[0]),
        entropy: f64::from(sums[1]),
        hits: f64::from(sums[2]),
    }
}
