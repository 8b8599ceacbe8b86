//! The loop: draw a step's rows, forward and backward per micro-batch, clip, update, log, save.

mod evaluation; // rows that are not trained on
mod saving; // checkpoints, and going on from them
mod update; // a step's gradients and what the optimizer makes of them

use std::time::Instant;

use reheat_data::epoch_order;
use reheat_model::Qwen2;
use serde_json::{Map, Value};

pub use self::evaluation::evaluate;
use self::update::{NotFinite, Updated};
use crate::progress::{Progress, Window};
use crate::{
    Callback, Control, EvalRow, IntervalStrategy, LogEntry, LogRow, Logger, LrSchedule, Measures, Method, Optimizer,
    OptimizerConfig, RunDir, SaveStrategy, StepContext, TrainError, TrainStart, TrainSummary, TrainingConfig,
};

/// Training of one model with one method.
#[expect(missing_debug_implementations, reason = "methods and loggers may have nothing to show")]
pub struct Trainer<M> {
    /// Absent only inside a step, while the optimizer owns it.
    model: Option<Qwen2>,
    method: M,
    /// The method on the rows to evaluate with.
    evaluation: Option<M>,
    config: TrainingConfig,
    /// Further settings of the run, by name.
    settings: Map<String, Value>,
    schedule: LrSchedule,
    optimizer: Optimizer,
    run_dir: Option<RunDir>,
    loggers: Vec<Box<dyn Logger>>,
    progress: Progress,
    /// The epoch that is under way and the order of its rows.
    order: (u64, Vec<usize>),
    /// Whether it was said that gradients are gathered in spite of `optimizer_in_backward`.
    said_gathered: bool,
}

/// What one optimizer step came to.
struct StepOutcome {
    measures: Measures,
    grad_norm: f64,
    learning_rate: f64,
    num_tokens: u64,
}

impl<M: Method> Trainer<M> {
    /// Checks settings and rows; nothing is computed yet.
    ///
    /// # Errors
    /// If a setting is out of range (all faults in one error), or the rows do not suit the model.
    pub fn new(mut model: Qwen2, method: M, config: TrainingConfig) -> Result<Self, TrainError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(TrainError::Config(faults));
        }
        method.check(model.config())?;
        let total_steps = config.total_steps(method.num_rows());
        let schedule = LrSchedule {
            kind: config.lr_scheduler_type,
            learning_rate: config.learning_rate,
            warmup_steps: config.resolved_warmup_steps(total_steps),
            total_steps,
            kwargs: config.lr_scheduler_kwargs.unwrap_or_default(),
        };
        let settings = OptimizerConfig {
            name: config.optim,
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            momentum: config.optim_momentum,
            sgd: config.sgd_args().unwrap_or_default(),
            groups: config.parameter_groups.clone().unwrap_or_default(),
            moments: config.optim_dtype,
            seed: config.seed,
        };
        let optimizer = Optimizer::new(settings, &model);
        let unused = optimizer.unused_groups().into_iter();
        let mut faults: Vec<String> =
            unused.map(|group| format!("parameter_groups: no parameter is called `{}`", group.parameters)).collect();
        if config.optimizer_in_backward && model.lora_config().is_some() {
            faults.push(
                "optimizer_in_backward is for full fine-tuning; gradients of adapters take hardly any memory".into(),
            );
        }
        if !faults.is_empty() {
            return Err(TrainError::Config(faults));
        }
        model.set_compute(config.dtype.compute());
        let order = (0, epoch_order(method.num_rows(), config.seed, 0, config.train_sampling_strategy));
        Ok(Self {
            model: Some(model),
            method,
            evaluation: None,
            config,
            settings: Map::new(),
            schedule,
            optimizer,
            run_dir: None,
            loggers: Vec::new(),
            progress: Progress::default(),
            order,
            said_gathered: false,
        })
    }

    /// Evaluates with these rows, as `eval_strategy` says.
    ///
    /// # Errors
    /// If the rows do not suit the model.
    pub fn with_evaluation(mut self, method: M) -> Result<Self, TrainError> {
        method.check(self.model().config())?;
        self.evaluation = Some(method);
        Ok(self)
    }

    /// Further settings that the result depends on, such as how a frozen model is held: checkpoints keep them beside the
    /// loop's, and [`resume`](Self::resume) compares them.
    pub fn with_settings(mut self, settings: Map<String, Value>) -> Self {
        self.settings = settings;
        self
    }

    /// Writes checkpoints and the final model into a directory.
    pub fn with_run_dir(mut self, run_dir: RunDir) -> Self {
        self.run_dir = Some(run_dir);
        self
    }

    /// Stores logged rows also there.
    pub fn with_logger(mut self, logger: impl Logger + 'static) -> Self {
        self.loggers.push(Box::new(logger));
        self
    }

    /// The settings.
    pub fn config(&self) -> &TrainingConfig {
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

    /// Every evaluation so far.
    pub fn evaluations(&self) -> &[EvalRow] {
        &self.progress.evaluations
    }

    /// Every row of training logged so far.
    pub fn log_history(&self) -> &[LogRow] {
        &self.progress.log_history
    }

    /// Trains to the end, or until the callback stops it; then a checkpoint is saved and the summary says so.
    ///
    /// # Errors
    /// If the loss or the gradient stops being finite, before the update that would spoil the weights (after it, where
    /// `optimizer_in_backward` updates without knowing the norm); or a file of the run cannot be written. What was saved
    /// before stays.
    pub fn train(&mut self, callback: &mut dyn Callback) -> Result<TrainSummary, TrainError> {
        let started = Instant::now();
        let (first_step, first_rows) = (self.progress.step, self.progress.num_rows);
        let total_steps = self.schedule.total_steps;
        if let Some(run_dir) = &self.run_dir {
            run_dir.tidy(self.config.save_total_limit, self.kept())?;
        }
        for logger in &mut self.loggers {
            logger.start(&self.progress.entries())?;
        }
        callback.on_start(&TrainStart::new(total_steps, first_step, self.method.num_rows()));

        let mut logged = Instant::now();
        let mut interrupted = false;
        if self.config.eval_on_start && self.progress.step == 0 {
            self.log_evaluation(callback)?;
        }
        while self.progress.step < total_steps && !interrupted && !self.stops_early() {
            let step_started = Instant::now();
            let indices = self.draw();
            let outcome = match self.step(&indices) {
                Ok(outcome) => outcome,
                Err(error) => return Err(self.keep_what_there_is(error, callback)?),
            };
            let window = Window::of_step(outcome.measures.clone(), outcome.num_tokens);
            self.progress.window.add(&window);
            interrupted = callback.on_step(&self.row(&outcome, &window, step_started)) == Control::Stop;

            // A stopped run logs its unfinished window when it is taken up again, at the step where it ends.
            if self.logs_now() {
                self.log(&outcome, logged, callback)?;
                logged = Instant::now();
            }
            let is_best = self.evaluate_when_due(callback)?;
            if interrupted || self.saves_now(is_best) {
                self.save_checkpoint(callback)?;
            }
        }
        let best_step = if interrupted { None } else { self.load_best()? };
        if !interrupted && let Some(run_dir) = &self.run_dir {
            run_dir.save_final(|dir| self.write_model(dir))?;
        }
        let train_runtime = started.elapsed().as_secs_f64();
        let progress = &self.progress;
        Ok(TrainSummary {
            global_step: progress.step,
            train_loss: progress.loss / progress.step.max(1) as f64,
            train_runtime,
            train_samples_per_second: (progress.num_rows - first_rows) as f64 / train_runtime,
            train_steps_per_second: (progress.step - first_step) as f64 / train_runtime,
            num_tokens: progress.num_tokens,
            best_step,
            stopped_early: self.stops_early(),
            interrupted,
        })
    }

    /// Saves the run as it was before the step that failed, where the fault is not in the run itself: then the same step
    /// may well succeed once it is mended. Gives the error back.
    fn keep_what_there_is(&self, error: TrainError, callback: &mut dyn Callback) -> Result<TrainError, TrainError> {
        let from_outside = matches!(error, TrainError::Reward(_) | TrainError::Rollout(_));
        if from_outside && self.progress.step > 0 {
            self.save_checkpoint(callback)?;
        }
        Ok(error)
    }

    /// The rows of the next step: they follow from the seed and the number of steps taken.
    fn draw(&mut self) -> Vec<usize> {
        let num_rows = self.method.num_rows();
        let steps_per_epoch = self.config.steps_per_epoch(num_rows);
        let (epoch, position) = (self.progress.step / steps_per_epoch, self.progress.step % steps_per_epoch);
        if self.order.0 != epoch {
            let order = epoch_order(num_rows, self.config.seed, epoch, self.config.train_sampling_strategy);
            self.order = (epoch, order);
        }
        let per_step = self.config.rows_per_step();
        self.order.1.iter().skip(position as usize * per_step).take(per_step).copied().collect()
    }

    /// One optimizer step over the rows at `indices`.
    fn step(&mut self, indices: &[usize]) -> Result<StepOutcome, TrainError> {
        let model = self.model.as_ref().expect("the model is absent only inside a step");
        let (config, progress) = (&self.config, &self.progress);
        let context = StepContext::new(model, config.per_device_train_batch_size, progress.step, config.seed);
        let batches = self.method.batches(indices, &context)?;
        let num_items_in_batch = batches.iter().map(|batch| self.method.num_items(batch)).sum();

        let rates = (config.learning_rate, self.schedule.factor(progress.step));
        let learning_rate = self.schedule.at(progress.step);
        if config.optimizer_in_backward && batches.len() > 1 {
            self.say_gathered(batches.len());
        }
        let updated = match batches.as_slice() {
            [batch] if self.config.optimizer_in_backward => self.update_in_backward(batch, num_items_in_batch, rates),
            batches => self.update_after_backward(batches, num_items_in_batch, rates),
        };
        let Updated { measures, grad_norm } = updated.map_err(|NotFinite { what, value }| TrainError::NotFinite {
            what,
            value,
            step: self.progress.step + 1,
            rows: self.method.dataset_rows(&batches, indices),
        })?;

        let progress = &mut self.progress;
        let num_tokens = batches.iter().map(|batch| self.method.sequences(batch).num_tokens() as u64).sum();
        progress.step += 1;
        progress.num_tokens += num_tokens;
        progress.num_rows += indices.len() as u64;
        progress.micro_steps += indices.len().div_ceil(self.config.per_device_train_batch_size) as u64;
        progress.loss += measures.loss;
        Ok(StepOutcome { measures, grad_norm, learning_rate, num_tokens })
    }

    /// Says once that `optimizer_in_backward` has no effect on a step of several micro-batches.
    fn say_gathered(&mut self, micro_batches: usize) {
        if !std::mem::replace(&mut self.said_gathered, true) {
            tracing::warn!(
                "optimizer_in_backward: the method makes {micro_batches} micro-batches of a step, so that their gradients \
                 are gathered, and all of them held, before the update"
            );
        }
    }

    /// What the steps of a window come to; `outcome` is of the last of them.
    fn row(&self, outcome: &StepOutcome, window: &Window, since: Instant) -> LogRow {
        LogRow {
            step: self.progress.step,
            loss: window.measures.loss / window.steps as f64,
            grad_norm: outcome.grad_norm,
            learning_rate: outcome.learning_rate,
            metrics: window.measures.metrics(),
            num_tokens: self.progress.num_tokens,
            epoch: self.epoch(),
            tokens_per_second: window.num_tokens as f64 / since.elapsed().as_secs_f64(),
        }
    }

    fn log(&mut self, outcome: &StepOutcome, since: Instant, callback: &mut dyn Callback) -> Result<(), TrainError> {
        let window = std::mem::take(&mut self.progress.window);
        let row = self.row(outcome, &window, since);
        let entry = LogEntry::Train(row.clone());
        for logger in &mut self.loggers {
            logger.log(&entry)?;
        }
        callback.on_log(&row)?;
        self.progress.log_history.push(row);
        Ok(())
    }

    /// Counted in micro-batches, of which the last of an epoch may be smaller, as transformers does.
    fn epoch(&self) -> f64 {
        let micro_steps_per_epoch = self.method.num_rows().div_ceil(self.config.per_device_train_batch_size);
        self.progress.micro_steps as f64 / micro_steps_per_epoch as f64
    }

    fn ends_epoch(&self) -> bool {
        self.progress.step.is_multiple_of(self.config.steps_per_epoch(self.method.num_rows()))
    }

    fn logs_now(&self) -> bool {
        let step = self.progress.step;
        let due = match self.config.logging_strategy {
            IntervalStrategy::No => return false,
            IntervalStrategy::Steps => step.is_multiple_of(self.config.logging_steps),
            IntervalStrategy::Epoch => self.ends_epoch(),
        };
        due || step == self.schedule.total_steps || (step == 1 && self.config.logging_first_step)
    }

    fn saves_now(&self, is_best: bool) -> bool {
        match self.config.save_strategy {
            SaveStrategy::No => false,
            SaveStrategy::Steps => self.progress.step.is_multiple_of(self.config.save_steps),
            SaveStrategy::Epoch => self.ends_epoch(),
            SaveStrategy::Best => is_best,
        }
    }
}
