//! Measuring rows that are not trained on, and what follows from it.

use std::time::Instant;

use reheat_model::Qwen2;

use super::Trainer;
use crate::progress::Best;
use crate::{
    Callback, Checkpointing, EvalRow, IntervalStrategy, LogEntry, Measures, Method, ModelPass, StepContext, TrainError,
};

impl<M: Method> Trainer<M> {
    /// Measures the evaluation rows with the model as it is; `None` where there are none.
    ///
    /// # Errors
    /// Whatever keeps the method from making batches.
    pub fn evaluate(&mut self) -> Result<Option<EvalRow>, TrainError> {
        let (step, epoch) = (self.progress.step, self.epoch());
        let model = self.model.as_ref().expect("the model is absent only inside a step");
        let Some(method) = &mut self.evaluation else { return Ok(None) };
        method.follow(&self.method);
        let (seed, batch_size) = (self.config.seed, self.config.per_device_eval_batch_size);
        let row = measure(method, StepContext::new(model, batch_size, step, seed))?;
        Ok(Some(EvalRow { epoch, ..row }))
    }

    /// Evaluates when it is time to, and notes whether the model is the best so far. Gives whether it is.
    pub(super) fn evaluate_when_due(&mut self, callback: &mut dyn Callback) -> Result<bool, TrainError> {
        let due = match self.config.eval_strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => self.progress.step.is_multiple_of(self.config.resolved_eval_steps()),
            IntervalStrategy::Epoch => self.ends_epoch(),
        };
        let begun = match self.config.eval_strategy {
            IntervalStrategy::Epoch => self.epoch() >= self.config.eval_delay,
            _ => self.progress.step as f64 >= self.config.eval_delay,
        };
        if due && begun { self.log_evaluation(callback) } else { Ok(false) }
    }

    /// Evaluates, logs, and gives whether the model is the best so far.
    pub(super) fn log_evaluation(&mut self, callback: &mut dyn Callback) -> Result<bool, TrainError> {
        let Some(row) = self.evaluate()? else { return Ok(false) };
        let metric = self.config.metric_for_best_model.as_deref().unwrap_or("loss");
        let value = row.metric(metric).ok_or_else(|| TrainError::UnknownMetric {
            metric: metric.into(),
            known: ["loss".into()].into_iter().chain(row.metrics.keys().cloned()).collect(),
        })?;
        let best = self.progress.best.as_ref().map(|best| best.value);
        let better = |threshold| best.is_none_or(|best| self.config.is_better(metric, value, best, threshold));
        let (is_best, counts) = (better(0.0), better(self.config.early_stopping_threshold));
        self.progress.stale_evaluations = if counts { 0 } else { self.progress.stale_evaluations + 1 };
        if is_best {
            self.progress.best = Some(Best { step: self.progress.step, value });
        }

        let entry = LogEntry::Evaluation(row.clone());
        for logger in &mut self.loggers {
            logger.log(&entry)?;
        }
        self.progress.evaluations.push(row.clone());
        callback.on_evaluate(&row, self.model())?;
        Ok(is_best)
    }

    /// Whether evaluations have not become better for too long.
    pub(super) fn stops_early(&self) -> bool {
        self.config.early_stopping_patience.is_some_and(|patience| self.progress.stale_evaluations >= patience)
    }
}

/// Measures all rows of a method with a model, without training.
///
/// # Errors
/// If the rows do not suit the model.
pub fn evaluate<M: Method>(model: &Qwen2, method: &mut M, batch_size: usize) -> Result<EvalRow, TrainError> {
    method.check(model.config())?;
    measure(method, StepContext::new(model, batch_size.max(1), 0, 0))
}

/// Means over all rows of a method.
fn measure<M: Method>(method: &mut M, context: StepContext) -> Result<EvalRow, TrainError> {
    let started = Instant::now();
    let pass = ModelPass::new(context.model, Checkpointing::Recompute).at_temperature(method.temperature());
    let indices: Vec<usize> = (0..method.num_rows()).collect();
    let (mut sums, mut num_items) = (Measures::default(), 0);
    for chunk in indices.chunks(context.micro_batch_size) {
        for batch in method.batches(chunk, &context)? {
            let tokens = pass.forward(method.sequences(&batch));
            // A sum over what is counted: divided once, at the end, by how much that was.
            sums.add(&method.measure(&batch, &tokens, 1));
            num_items += method.num_items(&batch);
        }
    }
    let loss = sums.loss / num_items.max(1) as f64;
    let mut metrics = sums.metrics();
    metrics.extend(method.perplexity(loss).map(|perplexity| ("perplexity".to_owned(), perplexity)));
    let runtime = started.elapsed().as_secs_f64();
    let samples_per_second = indices.len() as f64 / runtime;
    Ok(EvalRow { step: context.step, epoch: 0.0, loss, metrics, runtime, samples_per_second })
}
