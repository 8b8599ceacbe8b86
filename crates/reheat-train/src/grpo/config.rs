//! Settings of group relative policy optimisation, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised per token, and what the sum is divided by. The functions in `loss.rs` name the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrpoLossType {
    /// The clipped surrogate, a mean over completions of means over their tokens, as GRPO has it.
    Grpo,
    /// The clipped surrogate, a mean over the tokens of the micro-batch (BNPO).
    Bnpo,
    /// The clipped surrogate, its sum over tokens divided by a constant: no completion weighs less for being long
    /// (Dr. GRPO).
    DrGrpo,
    /// The clipped surrogate, a mean over all tokens of a step (DAPO).
    #[default]
    Dapo,
    /// The log-likelihood with clipped ratios as its weights, `epsilon_high` the largest (CISPO). TRL's default of 0.2
    /// for it weighs every token 0.2; the paper uses 5.
    Cispo,
    /// A smooth gate instead of the clipping (SAPO).
    Sapo,
    /// The log-likelihood weighted by how far the completion is from the policy that wrote it (VESPO).
    Vespo,
    /// The clipped surrogate, a mean over completions of sums over their tokens (LUSPO).
    Luspo,
}

impl GrpoLossType {
    /// Whether the ratio is clipped to a region around 1.
    pub fn is_clipped(self) -> bool {
        use GrpoLossType::{Bnpo, Dapo, DrGrpo, Grpo, Luspo};
        matches!(self, Grpo | Bnpo | DrGrpo | Dapo | Luspo)
    }
}

/// What a ratio of the policy to the one that wrote a completion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    /// Each token.
    #[default]
    Token,
    /// The completion: the geometric mean over its tokens (GSPO; Zheng et al. 2025, arXiv:2507.18071, equation 7).
    Sequence,
}

/// What rewards are divided by once the mean of their group is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the generation batch.
    Batch,
    /// Nothing.
    None,
}

/// How several rewards become one advantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MultiObjectiveAggregation {
    /// Their weighted sum is normalised.
    #[default]
    SumThenNormalize,
    /// Each is normalised in its group, then their weighted sum in the batch (GDPO).
    NormalizeThenSum,
}

/// Settings of group relative policy optimisation beside those of every training run and of
/// [`RolloutConfig`](crate::RolloutConfig).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GrpoConfig {
    /// What is minimised.
    pub loss_type: GrpoLossType,
    /// Weight of the KL divergence from the reference; 0 needs no reference.
    pub beta: f64,
    /// Weigh the KL divergence by the ratio, which makes it unbiased for completions of an older policy.
    pub use_bias_correction_kl: bool,
    /// How far below 1 a ratio may fall before it is clipped.
    pub epsilon: f64,
    /// How far above 1 a ratio may rise before it is clipped; as `epsilon` when absent.
    pub epsilon_high: Option<f64>,
    /// Largest ratio whatever the sign of the advantage; no limit when absent.
    pub delta: Option<f64>,
    /// What a ratio is about.
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// What rewards are divided by once the mean of their group is taken away.
    pub scale_rewards: ScaleRewards,
    /// How several rewards become one.
    pub multi_objective_aggregation: MultiObjectiveAggregation,
    /// SAPO's temperature for advantages above 0.
    pub sapo_temperature_pos: f64,
    /// SAPO's temperature for others.
    pub sapo_temperature_neg: f64,
    /// VESPO's exponent for advantages of 0 and more.
    pub vespo_k_pos: f64,
    /// VESPO's decay for advantages of 0 and more.
    pub vespo_lambda_pos: f64,
    /// VESPO's exponent for others.
    pub vespo_k_neg: f64,
    /// VESPO's decay for others.
    pub vespo_lambda_neg: f64,
    /// Share of the tokens with the highest entropy that are trained on (Wang et al. 2025, Beyond the 80/20 Rule).
    pub top_entropy_quantile: f64,
    /// Weight of the entropy bonus.
    pub entropy_coef: f64,
    /// Let the weight of the bonus rise while the entropy is at or below `entropy_target`, and fall while it is above.
    pub use_adaptive_entropy: bool,
    /// Smallest weight of an adaptive bonus.
    pub entropy_coef_min: f64,
    /// Largest weight of an adaptive bonus.
    pub entropy_coef_max: f64,
    /// Change of an adaptive weight with each step.
    pub entropy_coef_delta: f64,
    /// Entropy in nats per token above which an adaptive bonus is off.
    pub entropy_target: f64,
    /// Leave completions with a negative advantage out whose mean log-ratio of the policy that wrote them to the present
    /// one is above this.
    pub off_policy_mask_threshold: Option<f64>,
}

impl Default for GrpoConfig {
    /// TRL 1.16's defaults.
    fn default() -> Self {
        Self {
            loss_type: GrpoLossType::Dapo,
            beta: 0.0,
            use_bias_correction_kl: true,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            scale_rewards: ScaleRewards::Group,
            multi_objective_aggregation: MultiObjectiveAggregation::SumThenNormalize,
            sapo_temperature_pos: 1.0,
            sapo_temperature_neg: 1.05,
            vespo_k_pos: 2.0,
            vespo_lambda_pos: 3.0,
            vespo_k_neg: 3.0,
            vespo_lambda_neg: 2.0,
            top_entropy_quantile: 1.0,
            entropy_coef: 0.0,
            use_adaptive_entropy: false,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
            entropy_coef_delta: 0.005,
            entropy_target: 0.2,
            off_policy_mask_threshold: None,
        }
    }
}

impl GrpoConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, key: &str, value: f64, expected: &str| {
            if !holds {
                faults.push(format!("{key} is {value}, expected {expected}"));
            }
        };
        let at_least_0 = |value: f64| value.is_finite() && value >= 0.0;
        let above_0 = |value: f64| value.is_finite() && value > 0.0;
        for (key, value) in [
            ("beta", Some(self.beta)),
            ("epsilon", Some(self.epsilon)),
            ("epsilon_high", self.epsilon_high),
            ("entropy_coef_min", Some(self.entropy_coef_min)),
            ("entropy_coef_delta", Some(self.entropy_coef_delta)),
        ] {
            require(value.is_none_or(at_least_0), key, value.unwrap_or_default(), "0 or more");
        }
        for (key, value) in [
            ("delta", self.delta.unwrap_or(1.0)),
            ("sapo_temperature_pos", self.sapo_temperature_pos),
            ("sapo_temperature_neg", self.sapo_temperature_neg),
        ] {
            require(above_0(value), key, value, "more than 0");
        }
        for (key, value) in [
            ("vespo_k_pos", self.vespo_k_pos),
            ("vespo_lambda_pos", self.vespo_lambda_pos),
            ("vespo_k_neg", self.vespo_k_neg),
            ("vespo_lambda_neg", self.vespo_lambda_neg),
        ] {
            require(at_least_0(value), key, value, "0 or more");
        }
        let share = self.top_entropy_quantile;
        require((0.0..=1.0).contains(&share), "top_entropy_quantile", share, "0 to 1");
        require(self.entropy_coef.is_finite(), "entropy_coef", self.entropy_coef, "a number");
        require(
            self.entropy_coef_max.is_finite() && self.entropy_coef_max >= self.entropy_coef_min,
            "entropy_coef_max",
            self.entropy_coef_max,
            "entropy_coef_min or more",
        );
        require(self.entropy_target.is_finite(), "entropy_target", self.entropy_target, "a number");
        if let Some(threshold) = self.off_policy_mask_threshold {
            require(threshold.is_finite(), "off_policy_mask_threshold", threshold, "a number");
        }
        faults
    }

    /// Settings that change nothing as the others are, and which those are.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        use GrpoLossType::{Cispo, Sapo, Vespo};
        let loss_type = self.loss_type;
        let clips = "with loss_type sapo or vespo, which clip no ratio";
        let adapts = "without use_adaptive_entropy";
        // CISPO's bound is `epsilon` where there is no other.
        let has_epsilon = loss_type.is_clipped() || (loss_type == Cispo && self.epsilon_high.is_none());
        let sums = self.multi_objective_aggregation == MultiObjectiveAggregation::SumThenNormalize;
        let settings = [
            ("use_bias_correction_kl", self.beta != 0.0, "where beta is 0"),
            ("epsilon", has_epsilon, if loss_type == Cispo { "with loss_type cispo and epsilon_high" } else { clips }),
            ("epsilon_high", loss_type.is_clipped() || loss_type == Cispo, clips),
            ("delta", loss_type.is_clipped(), "with loss_type cispo, sapo or vespo"),
            (
                "importance_sampling_level",
                loss_type != Vespo || self.beta != 0.0,
                "with loss_type vespo, whose ratios are of completions",
            ),
            ("scale_rewards", sums, "with multi_objective_aggregation normalize_then_sum"),
            ("sapo_temperature_pos", loss_type == Sapo, "but with loss_type sapo"),
            ("sapo_temperature_neg", loss_type == Sapo, "but with loss_type sapo"),
            ("vespo_k_pos", loss_type == Vespo, "but with loss_type vespo"),
            ("vespo_lambda_pos", loss_type == Vespo, "but with loss_type vespo"),
            ("vespo_k_neg", loss_type == Vespo, "but with loss_type vespo"),
            ("vespo_lambda_neg", loss_type == Vespo, "but with loss_type vespo"),
            ("entropy_coef_min", self.use_adaptive_entropy, adapts),
            ("entropy_coef_max", self.use_adaptive_entropy, adapts),
            ("entropy_coef_delta", self.use_adaptive_entropy, adapts),
            ("entropy_target", self.use_adaptive_entropy, adapts),
        ];
        settings.into_iter().filter(|(_, has_effect, _)| !has_effect).map(|(key, _, why)| (key, why)).collect()
    }

    /// How far above 1 a ratio may rise; for CISPO, how large it may be.
    pub fn upper_epsilon(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }

    /// Whether the loss has an entropy bonus, also one whose weight is 0 for now.
    pub fn has_entropy_bonus(&self) -> bool {
        self.use_adaptive_entropy || self.entropy_coef != 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(GrpoConfig::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn what_changes_nothing_is_known() {
        let keys = |config: GrpoConfig| config.without_effect().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let clipped = keys(GrpoConfig::default());
        assert!(clipped.contains(&"vespo_k_pos") && clipped.contains(&"entropy_target") && !clipped.contains(&"delta"));
        let vespo = GrpoConfig {
            loss_type: GrpoLossType::Vespo,
            beta: 0.1,
            use_adaptive_entropy: true,
            ..GrpoConfig::default()
        };
        let expected = ["epsilon", "epsilon_high", "delta", "sapo_temperature_pos", "sapo_temperature_neg"];
        assert_eq!(keys(vespo), expected);
        let cispo = GrpoConfig { loss_type: GrpoLossType::Cispo, epsilon_high: Some(5.0), ..GrpoConfig::default() };
        assert!(keys(cispo.clone()).contains(&"epsilon") && !keys(cispo).contains(&"epsilon_high"));
    }

    #[test]
    fn every_fault_is_named() {
        let config = GrpoConfig {
            beta: -1.0,
            delta: Some(0.0),
            top_entropy_quantile: 1.5,
            entropy_coef_min: 2.0,
            ..GrpoConfig::default()
        };
        assert_eq!(
            config.faults(),
            [
                "beta is -1, expected 0 or more",
                "delta is 0, expected more than 0",
                "top_entropy_quantile is 1.5, expected 0 to 1",
                "entropy_coef_max is 1, expected entropy_coef_min or more",
            ]
        );
    }
}
