//! Learning rate by step, with the semantics of transformers' `optimization.py` (5.23).

use std::f64::consts::PI;

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
    /// `num_cycles` half cosines down to 0, each from the peak.
    CosineWithRestarts,
    /// Half a cosine down to `min_lr`, or to `min_lr_rate` times the peak.
    CosineWithMinLr,
    /// A power (`power`) of the way that is left, down to `lr_end`.
    Polynomial,
    /// No change and no warm-up.
    Constant,
    /// No change after warm-up.
    ConstantWithWarmup,
    /// With the root of the steps, for runs without a known end.
    InverseSqrt,
    /// No change until the last `num_decay_steps`, then down to `min_lr_ratio` times the peak.
    WarmupStableDecay,
}

/// Settings that a schedule has beside its peak, under transformers' names (`lr_scheduler_kwargs`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedulerKwargs {
    /// Half cosines (restarts), or periods of the cosine. Default 1 and 0.5.
    pub num_cycles: Option<f64>,
    /// Lowest rate of `cosine_with_min_lr`.
    pub min_lr: Option<f64>,
    /// The same as a share of the peak.
    pub min_lr_rate: Option<f64>,
    /// Exponent of `polynomial`. Default 1.
    pub power: Option<f64>,
    /// Last rate of `polynomial`. Default 1e-7.
    pub lr_end: Option<f64>,
    /// Steps after which `inverse_sqrt` has fallen to about 0.7. Default the warm-up, or 10000 without one.
    pub timescale: Option<f64>,
    /// Steps of the last phase of `warmup_stable_decay`.
    pub num_decay_steps: Option<u64>,
    /// Steps of its middle phase. Default what warm-up and decay leave.
    pub num_stable_steps: Option<u64>,
    /// Its lowest rate as a share of the peak. Default 0.
    pub min_lr_ratio: Option<f64>,
    /// Shape of its first phase. Default `linear`.
    pub warmup_type: Option<Ramp>,
    /// Shape of its last phase. Default `cosine`.
    pub decay_type: Option<Ramp>,
}

/// Shape of a phase of `warmup_stable_decay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ramp {
    /// Straight.
    #[serde(rename = "linear")]
    Linear,
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus a root.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl LrSchedulerKwargs {
    /// Those that `kind` does not know, and those that it needs and has not.
    pub(crate) fn faults(&self, kind: LrSchedulerType, learning_rate: f64) -> Vec<String> {
        use LrSchedulerType as T;
        let known: &[&str] = match kind {
            T::Linear | T::Constant | T::ConstantWithWarmup => &[],
            T::Cosine | T::CosineWithRestarts => &["num_cycles"],
            T::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
            T::Polynomial => &["power", "lr_end"],
            T::InverseSqrt => &["timescale"],
            T::WarmupStableDecay => {
                &["num_decay_steps", "num_stable_steps", "min_lr_ratio", "warmup_type", "decay_type", "num_cycles"]
            }
        };
        let kind_name = serde_json::to_value(kind).expect("a name");
        let kind_name = kind_name.as_str().unwrap_or_default();
        let set = serde_json::to_value(self).expect("numbers by name");
        let set = set.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let mut faults: Vec<String> = set
            .filter(|(key, _)| !known.contains(&key.as_str()))
            .map(|(key, _)| format!("lr_scheduler_kwargs: `{key}` means nothing to {kind_name}"))
            .collect();
        match (kind, self.min_lr, self.min_lr_rate) {
            (T::CosineWithMinLr, None, None) => {
                faults.push("cosine_with_min_lr needs min_lr or min_lr_rate in lr_scheduler_kwargs".into());
            }
            (T::CosineWithMinLr, Some(_), Some(_)) => {
                faults.push("lr_scheduler_kwargs: min_lr and min_lr_rate exclude each other".into());
            }
            _ => {}
        }
        if kind == T::WarmupStableDecay && self.num_decay_steps.is_none() {
            faults.push("warmup_stable_decay needs num_decay_steps in lr_scheduler_kwargs".into());
        }
        let end = self.lr_end.unwrap_or(POLYNOMIAL_END);
        if kind == T::Polynomial && end >= learning_rate {
            faults.push(format!("lr_end is {end:e}, expected less than learning_rate, {learning_rate:e}"));
        }
        faults
    }
}

/// transformers' default of `lr_end`.
const POLYNOMIAL_END: f64 = 1e-7;
/// transformers' default of `timescale` without a warm-up.
const TIMESCALE: f64 = 10_000.0;

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
    /// What the shape needs beside these.
    pub kwargs: LrSchedulerKwargs,
}

impl LrSchedule {
    /// Learning rate of the optimizer step with this index, from 0.
    ///
    /// ```
    /// use reheat_train::{LrSchedule, LrSchedulerKwargs, LrSchedulerType};
    ///
    /// let schedule = LrSchedule {
    ///     kind: LrSchedulerType::Linear,
    ///     learning_rate: 0.3,
    ///     warmup_steps: 0,
    ///     total_steps: 3,
    ///     kwargs: LrSchedulerKwargs::default(),
    /// };
    /// assert_eq!(schedule.at(0), 0.3);
    /// assert!((schedule.at(2) - 0.1).abs() < 1e-12);
    /// ```
    pub fn at(&self, step_index: u64) -> f64 {
        self.learning_rate * self.factor(step_index)
    }

    /// What the schedule makes of any peak: the rate of a step as a share of it.
    pub fn factor(&self, step_index: u64) -> f64 {
        let (step, warmup, total) = (step_index as f64, self.warmup_steps as f64, self.total_steps as f64);
        let kwargs = &self.kwargs;
        match self.kind {
            LrSchedulerType::Constant => return 1.0,
            LrSchedulerType::WarmupStableDecay => return self.warmup_stable_decay(step),
            _ if step < warmup => return step / warmup,
            _ => {}
        }
        let progress = (step - warmup) / (total - warmup).max(1.0);
        let cosine = |cycles: f64| 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
        match self.kind {
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup | LrSchedulerType::WarmupStableDecay => 1.0,
            LrSchedulerType::Linear => ((total - step) / (total - warmup).max(1.0)).max(0.0),
            LrSchedulerType::Cosine => cosine(kwargs.num_cycles.unwrap_or(0.5)).max(0.0),
            LrSchedulerType::CosineWithRestarts if progress >= 1.0 => 0.0,
            LrSchedulerType::CosineWithRestarts => {
                let cycles = kwargs.num_cycles.unwrap_or(1.0);
                (0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos())).max(0.0)
            }
            LrSchedulerType::CosineWithMinLr => {
                let of_peak = || kwargs.min_lr.map_or(0.0, |rate| rate / self.learning_rate);
                let least = kwargs.min_lr_rate.unwrap_or_else(of_peak);
                (cosine(kwargs.num_cycles.unwrap_or(0.5)) * (1.0 - least) + least).max(0.0)
            }
            LrSchedulerType::Polynomial => {
                let end = kwargs.lr_end.unwrap_or(POLYNOMIAL_END);
                let left = if step > total { 0.0 } else { 1.0 - progress };
                ((self.learning_rate - end) * left.powf(kwargs.power.unwrap_or(1.0)) + end) / self.learning_rate
            }
            LrSchedulerType::InverseSqrt => {
                let timescale = kwargs.timescale.unwrap_or(if warmup > 0.0 { warmup } else { TIMESCALE });
                1.0 / ((step + timescale - warmup) / timescale).sqrt()
            }
        }
    }

    fn warmup_stable_decay(&self, step: f64) -> f64 {
        let (warmup, total) = (self.warmup_steps as f64, self.total_steps as f64);
        let kwargs = &self.kwargs;
        let decay = kwargs.num_decay_steps.unwrap_or(0) as f64;
        let stable = kwargs.num_stable_steps.map_or(total - warmup - decay, |steps| steps as f64);
        let least = kwargs.min_lr_ratio.unwrap_or(0.0);
        let above = |factor: f64| (factor * (1.0 - least) + least).max(0.0);
        if step < warmup {
            let progress = step / warmup;
            return above(match kwargs.warmup_type.unwrap_or(Ramp::Linear) {
                Ramp::Linear => progress,
                Ramp::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            });
        }
        if step < warmup + stable {
            return 1.0;
        }
        if step < warmup + stable + decay {
            let progress = (step - warmup - stable) / decay.max(1.0);
            return above(match kwargs.decay_type.unwrap_or(Ramp::Cosine) {
                Ramp::Linear => 1.0 - progress,
                Ramp::Cosine => 0.5 * (1.0 + (PI * kwargs.num_cycles.unwrap_or(0.5) * 2.0 * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
            });
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: LrSchedulerType, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let kwargs = LrSchedulerKwargs::default();
        let schedule = LrSchedule { kind, learning_rate: 1.0, warmup_steps, total_steps, kwargs };
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

    #[test]
    fn settings_of_other_schedules_are_named() {
        let kwargs = LrSchedulerKwargs { power: Some(2.0), ..LrSchedulerKwargs::default() };
        assert_eq!(
            kwargs.faults(LrSchedulerType::Cosine, 1.0),
            ["lr_scheduler_kwargs: `power` means nothing to cosine"]
        );
        let faults = LrSchedulerKwargs::default().faults(LrSchedulerType::CosineWithMinLr, 1.0);
        assert_eq!(faults, ["cosine_with_min_lr needs min_lr or min_lr_rate in lr_scheduler_kwargs"]);
        assert_eq!(kwargs.faults(LrSchedulerType::Polynomial, 1e-8).len(), 1);
    }
}
