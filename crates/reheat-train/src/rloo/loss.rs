//! The loss of REINFORCE leave-one-out, as a function of log-probabilities of completions.

use burn::tensor::Tensor;

use super::RlooConfig;

/// Losses of a micro-batch, and which ratios were clipped.
#[derive(Debug, Clone)]
pub struct RlooLoss {
    /// Of each completion, `[batch]`.
    pub losses: Tensor<1>,
    /// 1 where a ratio was clipped from below, with a negative advantage, `[batch]`.
    pub low_clipped: Tensor<1>,
    /// 1 where a ratio was clipped from above, with a positive advantage, `[batch]`.
    pub high_clipped: Tensor<1>,
}

/// `-min(ρ·A, clip(ρ, 1-ε, 1+ε_high)·A)` of each completion, with `ρ` the ratio of its probability under the policy to
/// that under the policy that wrote it (TRL 1.16, `rloo_trainer.py`, `_compute_loss`). Everything is `[batch]`;
/// log-probabilities are sums over tokens, in nats.
pub fn rloo_loss(
    sequence_logprobs: Tensor<1>,
    old_sequence_logprobs: Tensor<1>,
    advantages: Tensor<1>,
    config: &RlooConfig,
) -> RlooLoss {
    let (low, high) = (1.0 - config.epsilon, 1.0 + config.upper_epsilon());
    let ratio = (sequence_logprobs - old_sequence_logprobs).exp();
    let clipped = ratio.clone().clamp(low, high);
    RlooLoss {
        losses: -(ratio.clone() * advantages.clone()).min_pair(clipped * advantages.clone()),
        low_clipped: ratio.clone().lower_elem(low).float() * advantages.clone().lower_elem(0.0).float(),
        high_clipped: ratio.greater_elem(high).float() * advantages.greater_elem(0.0).float(),
    }
}
