//! Learning rate by step, with the semantics of transformers' `optimization.py` (5.23).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the schedule after warm-up, under transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// Straight down to 0 at the end.
    #[default]
    Linear,
    /// Half a cosine down to 0 at the end.
    Cosine,
    /// No change and no warm-up.
    Constant,
    /// No change after warm-up.
    ConstantWithWarmup,
}

/// The schedule of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    /// Shape after warm-up.
    pub kind: LrSchedulerType,
    /// Peak.
    pub learning_rate: f64,
    /// Steps of linear rise from 0; the first step of a warm-up has rate 0.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl LrSchedule {
    /// Learning rate of the optimizer step with this index, from 0.
    ///
    /// ```
    /// use reheat_train::{LrSchedule, LrSchedulerType};
    ///
    /// let schedule = LrSchedule { kind: LrSchedulerType::Linear, learning_rate: 0.3, warmup_steps: 0, total_steps: 3 };
    /// assert_eq!(schedule.at(0), 0.3);
    /// assert!((schedule.at(2) - 0.1).abs() < 1e-12);
    /// ```
    pub fn at(&self, step_index: u64) -> f64 {
        let (step, warmup) = (step_index as f64, self.warmup_steps as f64);
        if step < warmup && self.kind != LrSchedulerType::Constant {
            return self.learning_rate * step / warmup;
        }
        let decay_steps = (self.total_steps as f64 - warmup).max(1.0);
        let factor = match self.kind {
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
            LrSchedulerType::Linear => ((self.total_steps as f64 - step) / decay_steps).max(0.0),
            LrSchedulerType::Cosine => {
                let progress = (step - warmup) / decay_steps;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: LrSchedulerType, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let schedule = LrSchedule { kind, learning_rate: 1.0, warmup_steps, total_steps };
        (0..total_steps).map(|step| (schedule.at(step) * 1e4).round() / 1e4).collect()
    }

    /// Worked by hand from `lr·k/W` and `lr·(T-k)/(T-W)`.
    #[test]
    fn linear_rises_from_zero_and_falls_to_it() {
        assert_eq!(rates(LrSchedulerType::Linear, 2, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
    }

    /// `½(1 + cos π·(k-1)/2)` for k = 1, 2: the trajectory `clip 0.1, cosine, 1 warm-up step` of the reference.
    #[test]
    fn cosine_after_one_step_of_warmup() {
        assert_eq!(rates(LrSchedulerType::Cosine, 1, 3), [0.0, 1.0, 0.5]);
    }

    #[test]
    fn constant_knows_no_warmup() {
        assert_eq!(rates(LrSchedulerType::Constant, 2, 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates(LrSchedulerType::ConstantWithWarmup, 2, 3), [0.0, 0.5, 1.0]);
    }
}
