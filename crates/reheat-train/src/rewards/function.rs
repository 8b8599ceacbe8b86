//! A closure as a reward.

use std::fmt;

use super::{Reward, RewardError, RewardInput};

/// A closure that judges one completion at a time, with a name.
pub struct RewardFn<F> {
    name: String,
    function: F,
}

impl<F: FnMut(&RewardInput<'_>) -> Option<f64> + Send> RewardFn<F> {
    /// Calls `function` for each completion; `None` where the reward does not apply to the row.
    pub fn new(name: impl Into<String>, function: F) -> Self {
        Self { name: name.into(), function }
    }
}

impl<F> fmt::Debug for RewardFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RewardFn").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: FnMut(&RewardInput<'_>) -> Option<f64> + Send> Reward for RewardFn<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        Ok(completions.iter().map(&mut self.function).collect())
    }
}
