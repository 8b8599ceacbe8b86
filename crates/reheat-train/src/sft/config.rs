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
}
