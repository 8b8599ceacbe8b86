//! Where a run is: everything that changes from step to step beside weights and moments.

use serde::{Deserialize, Serialize};

use crate::{LogRow, Measures};

/// Counters of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Optimizer steps taken. The rows of each step follow from its number and the seed.
    pub(crate) step: u64,
    /// Tokens seen.
    pub(crate) num_tokens: u64,
    /// Rows seen.
    pub(crate) num_rows: u64,
    /// Micro-batches, as rows are cut into them.
    pub(crate) micro_steps: u64,
    /// Sum of the steps' losses.
    pub(crate) loss: f64,
    /// Since the last logged row.
    pub(crate) window: Window,
    /// Every row so far.
    pub(crate) log_history: Vec<LogRow>,
}

/// Steps that the next row sums up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) steps: u64,
    /// Sums over the steps.
    pub(crate) measures: Measures,
    pub(crate) num_tokens: u64,
}

impl Window {
    /// A window of one step.
    pub(crate) fn of_step(measures: Measures, num_tokens: u64) -> Self {
        Self { steps: 1, measures, num_tokens }
    }

    pub(crate) fn add(&mut self, step: &Self) {
        self.steps += step.steps;
        self.measures.add(&step.measures);
        self.num_tokens += step.num_tokens;
    }
}
