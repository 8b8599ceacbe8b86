//! Settings of REINFORCE leave-one-out, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of REINFORCE leave-one-out beside those of every training run and of
/// [`RolloutConfig`](crate::RolloutConfig).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RlooConfig {
    /// Weight of the KL divergence from the reference, which is taken from the reward; 0 needs no reference.
    pub beta: f64,
    /// How far below 1 the ratio of a completion may fall before it is clipped.
    pub epsilon: f64,
    /// How far above 1 it may rise before it is clipped; as `epsilon` when absent.
    pub epsilon_high: Option<f64>,
    /// Bring the advantages of a generation batch to mean 0 and deviation 1.
    pub normalize_advantages: bool,
    /// Smallest and largest reward, before the KL divergence is taken from it.
    pub reward_clip_range: Option<Vec<f64>>,
}

impl Default for RlooConfig {
    /// TRL 1.16's defaults.
    fn default() -> Self {
        Self { beta: 0.05, epsilon: 0.2, epsilon_high: None, normalize_advantages: false, reward_clip_range: None }
    }
}

impl RlooConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let values = [("beta", Some(self.beta)), ("epsilon", Some(self.epsilon)), ("epsilon_high", self.epsilon_high)];
        let wrong = values.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let wrong = wrong.filter(|(_, value)| !(value.is_finite() && *value >= 0.0));
        let mut faults: Vec<String> =
            wrong.map(|(key, value)| format!("{key} is {value}, expected 0 or more")).collect();
        match self.reward_clip_range.as_deref() {
            None => {}
            Some([low, high]) if low <= high => {}
            Some(other) => {
                faults.push(format!("reward_clip_range is {other:?}, expected the smallest and the largest"))
            }
        }
        faults
    }

    /// The rewards that are told apart.
    pub(super) fn clipped(&self, reward: f64) -> f64 {
        match self.reward_clip_range.as_deref() {
            Some([low, high]) => reward.clamp(*low, *high),
            _ => reward,
        }
    }

    /// How far above 1 a ratio may rise.
    pub fn upper_epsilon(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        assert_eq!(RlooConfig::default().faults(), Vec::<String>::new());
        let config = RlooConfig { epsilon: -0.1, reward_clip_range: Some(vec![1.0, 0.0]), ..RlooConfig::default() };
        assert_eq!(
            config.faults(),
            [
                "epsilon is -0.1, expected 0 or more",
                "reward_clip_range is [1.0, 0.0], expected the smallest and the largest"
            ]
        );
    }
}
