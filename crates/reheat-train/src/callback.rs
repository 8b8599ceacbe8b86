//! Who is told what while training runs.

use std::path::Path;

use reheat_model::Qwen2;

use crate::{EvalRow, LogRow, TrainError};

/// What is known before the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TrainStart {
    /// Optimizer steps that the run has when it is done.
    pub total_steps: u64,
    /// Optimizer steps that were taken before, by a run that this one continues.
    pub step: u64,
    /// Rows in the dataset.
    pub num_rows: usize,
}

impl TrainStart {
    pub(crate) fn new(total_steps: u64, step: u64, num_rows: usize) -> Self {
        Self { total_steps, step, num_rows }
    }
}

/// Whether to go on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Control {
    /// On to the next step.
    #[default]
    Continue,
    /// Save a checkpoint and stop.
    Stop,
}

/// Observes a run, and may stop it. Every method does nothing unless it is overridden.
pub trait Callback {
    /// Before the first step.
    fn on_start(&mut self, _start: &TrainStart) {}

    /// After every optimizer step, with that step's own numbers.
    fn on_step(&mut self, _row: &LogRow) -> Control {
        Control::Continue
    }

    /// Every `logging_steps` steps and after the last.
    ///
    /// # Errors
    /// An error stops the run.
    fn on_log(&mut self, _row: &LogRow) -> Result<(), TrainError> {
        Ok(())
    }

    /// After every evaluation, with the model that was measured.
    ///
    /// # Errors
    /// An error stops the run.
    fn on_evaluate(&mut self, _row: &EvalRow, _model: &Qwen2) -> Result<(), TrainError> {
        Ok(())
    }

    /// After a checkpoint is complete.
    fn on_save(&mut self, _dir: &Path) {}
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCallback;

impl Callback for NoCallback {}
