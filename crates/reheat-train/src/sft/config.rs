//! Settings of supervised fine-tuning, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised per trained token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Negative log-likelihood.
    #[default]
    Nll,
    /// Dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629): `-p·log p` with the gradient of `log p` alone.
    Dft,
}

/// Settings of supervised fine-tuning, beside those of the loop ([`TrainingConfig`](crate::TrainingConfig)).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SftConfig {
    /// What is minimised per trained token.
    pub loss_type: LossType,
    /// Share of every label that is spread evenly over the vocabulary.
    pub label_smoothing_factor: f64,
}

impl SftConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let Self { loss_type, label_smoothing_factor: factor } = self;
        let mut faults = Vec::new();
        if !(0.0..1.0).contains(factor) {
            faults.push(format!("label_smoothing_factor is {factor}, expected 0 or more and below 1"));
        }
        if *loss_type == LossType::Dft && *factor != 0.0 {
            faults.push("label_smoothing_factor belongs to loss_type nll".into());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_value() {
        assert_eq!(SftConfig::default().faults(), Vec::<String>::new());
        let config = SftConfig { loss_type: LossType::Dft, label_smoothing_factor: 1.5 };
        assert_eq!(
            config.faults(),
            [
                "label_smoothing_factor is 1.5, expected 0 or more and below 1",
                "label_smoothing_factor belongs to loss_type nll"
            ]
        );
    }
}
