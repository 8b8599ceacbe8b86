//! Settings of Kahneman-Tversky optimisation, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised per answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KtoLossType {
    /// Distance to the mean log-ratio of answers to other prompts.
    #[default]
    Kto,
    /// Distance to the reference alone (APO-zero for single answers, arXiv:2408.06266).
    ApoZeroUnpaired,
}

/// Settings of Kahneman-Tversky optimisation beside those of every training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KtoConfig {
    /// Strength of the pull towards the reference model.
    pub beta: f64,
    /// What is minimised per answer.
    pub loss_type: KtoLossType,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
}

impl Default for KtoConfig {
    /// TRL 1.16's defaults.
    fn default() -> Self {
        Self { beta: 0.1, loss_type: KtoLossType::Kto, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

impl KtoConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(self.beta.is_finite() && self.beta > 0.0) {
            faults.push(format!("beta is {}, expected more than 0", self.beta));
        }
        for (key, weight) in
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)]
        {
            if !(weight.is_finite() && weight >= 0.0) {
                faults.push(format!("{key} is {weight}, expected 0 or more"));
            }
        }
        faults
    }

    /// As [`faults`](Self::faults), with those of training on so many rows at a time.
    pub fn faults_with(&self, micro_batch_size: usize) -> Vec<String> {
        let mut faults = self.faults();
        if self.loss_type == KtoLossType::Kto && micro_batch_size == 1 {
            faults.push(
                "per_device_train_batch_size is 1, expected 2 or more with loss_type kto: an answer is compared with \
                 answers to other prompts"
                    .into(),
            );
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_value() {
        assert_eq!(KtoConfig::default().faults(), Vec::<String>::new());
        let config = KtoConfig { beta: -1.0, undesirable_weight: f64::NAN, ..KtoConfig::default() };
        assert_eq!(
            config.faults(),
            ["beta is -1, expected more than 0", "undesirable_weight is NaN, expected 0 or more"]
        );
        assert_eq!(KtoConfig::default().faults_with(2), Vec::<String>::new());
        assert!(
            KtoConfig::default().faults_with(1)[0].starts_with("per_device_train_batch_size is 1, expected 2 or more")
        );
        let alone = KtoConfig { loss_type: KtoLossType::ApoZeroUnpaired, ..KtoConfig::default() };
        assert_eq!(alone.faults_with(1), Vec::<String>::new());
    }
}
