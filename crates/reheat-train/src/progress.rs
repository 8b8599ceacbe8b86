//! Where a run is: everything that changes from step to step beside weights and moments.

use serde::{Deserialize, Serialize};

use crate::{EvalRow, LogEntry, LogRow, Measures};

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
    /// Every row of training so far.
    pub(crate) log_history: Vec<LogRow>,
    /// Every evaluation so far.
    pub(crate) evaluations: Vec<EvalRow>,
    /// The best of them.
    pub(crate) best: Option<Best>,
    /// Evaluations in a row that were not better than the best.
    pub(crate) stale_evaluations: u64,
}

/// An evaluation that is better than all before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) step: u64,
    /// Value of `metric_for_best_model`.
    pub(crate) value: f64,
}

impl Progress {
    /// Rows and evaluations in the order in which they were logged.
    pub(crate) fn entries(&self) -> Vec<LogEntry> {
        let rows = self.log_history.iter().cloned().map(LogEntry::Train);
        let mut entries: Vec<LogEntry> =
            rows.chain(self.evaluations.iter().cloned().map(LogEntry::Evaluation)).collect();
        // A step is logged before it is evaluated, and the sort keeps that order.
        entries.sort_by_key(LogEntry::step);
        entries
    }
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
