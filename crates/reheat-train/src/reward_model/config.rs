//! Settings of reward models, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of reward models beside those of every training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RewardConfig {
    /// Pull of the rewards of a pair towards a sum of 0; none when absent. The paper takes 0.01.
    pub center_rewards_coefficient: Option<f64>,
}

impl RewardConfig {
    /// Everything that is wrong with the values.
    pub fn faults(&self) -> Vec<String> {
        let coefficient = self.center_rewards_coefficient.unwrap_or_default();
        if coefficient.is_finite() && coefficient >= 0.0 {
            return Vec::new();
        }
        vec![format!("center_rewards_coefficient is {coefficient}, expected 0 or more")]
    }
}
