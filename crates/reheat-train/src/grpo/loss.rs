//! The losses of group relative policy optimisation, as functions of log-probabilities.
//!
//! Names as in Shao et al. 2024, DeepSeekMath (arXiv:2402.03300): the *ratio* of a token is `π(y_t)/π_old(y_t)`, π_old
//! being the policy that wrote it. A loss is minimised, so that objectives of papers have a minus here.
//! Formulas are those of TRL 1.16 (`grpo_trainer.py`, `_compute_loss`), which cites the papers named here.

use burn::tensor::{Device, Tensor, TensorData, activation::sigmoid};

use super::{GrpoConfig, GrpoLossType, ImportanceSamplingLevel};

/// Largest log-ratio of a token that VESPO counts, either way (TRL 1.16).
const LARGEST_LOG_RATIO: f64 = 20.0;
/// Smallest ratio of a completion that VESPO tells from 0 (TRL 1.16).
const SMALLEST_RATIO: f64 = 1e-8;
/// Smallest decay of VESPO's weights (TRL 1.16).
const SMALLEST_LAMBDA: f64 = 1e-4;

/// The completions of a micro-batch, side by side: what a loss is a function of. Log-probabilities are in nats; where
/// there is no token, every number is 0.
#[derive(Debug, Clone)]
pub struct GrpoTokens {
    /// Under the policy, `[batch, seq]`.
    pub logprobs: Tensor<2>,
    /// Under the policy that wrote the completions, `[batch, seq]`; the policy itself where it is `None`.
    pub old_logprobs: Option<Tensor<2>>,
    /// Under the reference, `[batch, seq]`; needed where `beta` is not 0.
    pub ref_logprobs: Option<Tensor<2>>,
    /// Of the policy's distribution at each token in nats, `[batch, seq]`.
    pub entropy: Tensor<2>,
    /// 1 where a token counts, `[batch, seq]`.
    pub completion_mask: Tensor<2>,
    /// Of each completion, `[batch, 1]`.
    pub advantages: Tensor<2>,
}

/// What sums over tokens and completions are divided by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalizer {
    /// Micro-batches of the optimizer step.
    pub accumulation_steps: f64,
    /// Tokens that count in an optimizer step.
    pub num_items_in_batch: f64,
    /// Longest completion in tokens.
    pub max_completion_length: f64,
}

/// Loss of a micro-batch, and what its metrics come of.
#[derive(Debug, Clone)]
pub struct GrpoLoss {
    /// The micro-batch's part of the step's loss, `[1]`.
    pub loss: Tensor<1>,
    /// The loss without the entropy bonus, of the micro-batch alone, `[1]`.
    pub policy_loss: Tensor<1>,
    /// KL divergence from the reference, `[batch, seq]`.
    pub kl: Option<Tensor<2>>,
    /// What became of the ratios.
    pub ratios: Ratios,
    /// 1 where a token counts for the entropy bonus, `[batch, seq]`.
    pub entropy_mask: Tensor<2>,
}

/// What became of the ratios, `[batch, seq]`, or `[batch, 1]` where they are of whole completions.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each micro-batch")]
pub enum Ratios {
    /// 1 where a ratio was clipped.
    Clipped {
        /// From below, with a negative advantage.
        low: Tensor<2>,
        /// From above, with a positive advantage.
        high: Tensor<2>,
    },
    /// CISPO: 1 where a weight was clipped, with a positive advantage.
    Capped(Tensor<2>),
    /// VESPO: the weight of each completion.
    Weighed(Tensor<2>),
    /// SAPO clips nothing.
    Gated,
}

/// Loss of the completions of a micro-batch. `entropy_coef` is the weight of the entropy bonus at this step.
///
/// # Panics
/// If `beta` is not 0 and there is no reference.
pub fn grpo_loss(tokens: &GrpoTokens, config: &GrpoConfig, entropy_coef: f64, normalizer: &Normalizer) -> GrpoLoss {
    let GrpoTokens { logprobs, completion_mask: mask, advantages, entropy, .. } = tokens;
    let old_logprobs = tokens.old_logprobs.clone().unwrap_or_else(|| logprobs.clone().detach());
    let log_ratio = logprobs.clone() - old_logprobs; // [batch, seq]
    let ratio = match config.importance_sampling_level {
        ImportanceSamplingLevel::Token => log_ratio.clone(),
        ImportanceSamplingLevel::Sequence => means(log_ratio.clone(), mask), // [batch, 1]
    }
    .exp();

    let (mut losses, ratios) = match config.loss_type {
        GrpoLossType::Cispo => cispo(ratio.clone(), tokens, config),
        GrpoLossType::Sapo => sapo(ratio.clone(), tokens, config),
        GrpoLossType::Vespo => vespo(log_ratio.clone(), tokens, config),
        _ => clipped_surrogate(ratio.clone(), advantages, config),
    };
    if let Some(threshold) = config.off_policy_mask_threshold {
        losses = losses * on_policy_mask(log_ratio, mask, advantages, threshold);
    }
    let entropy_mask = match config.top_entropy_quantile {
        share if share < 1.0 => mask.clone() * high_entropy_mask(entropy, mask, 1.0 - share),
        _ => mask.clone(),
    };
    if config.top_entropy_quantile < 1.0 {
        losses = losses * entropy_mask.clone();
    }
    let kl = (config.beta != 0.0).then(|| {
        let reference = tokens.ref_logprobs.clone().expect("a reference is there where beta is not 0");
        let kl = kl_divergence(logprobs.clone(), reference);
        if config.use_bias_correction_kl { kl * ratio } else { kl }
    });
    if let Some(kl) = &kl {
        losses = losses + kl.clone() * config.beta;
    }

    let (policy_loss, divisor) = aggregate(losses, mask, config.loss_type, normalizer);
    let mut loss = policy_loss.clone() / divisor;
    if config.has_entropy_bonus() {
        let count = entropy_mask.clone().sum().clamp_min(1.0);
        let bonus = (entropy.clone() * entropy_mask.clone()).sum() / count;
        loss = loss - bonus * (entropy_coef / normalizer.accumulation_steps);
    }
    GrpoLoss { loss, policy_loss, kl, ratios, entropy_mask }
}

/// `-min(min(ρ, δ)·A, clip(ρ, 1-ε, 1+ε_high)·A)`: DeepSeekMath, equation 3; a higher upper bound from Yu et al. 2025,
/// DAPO, arXiv:2503.14476, equation 10; δ from Prime Intellect 2025, INTELLECT-2, arXiv:2505.07291.
fn clipped_surrogate(ratio: Tensor<2>, advantages: &Tensor<2>, config: &GrpoConfig) -> (Tensor<2>, Ratios) {
    let (low, high) = (1.0 - config.epsilon, 1.0 + config.upper_epsilon());
    let clipped = ratio.clone().clamp(low, high);
    let ratio = match config.delta {
        Some(delta) => ratio.clamp_max(delta),
        None => ratio,
    };
    let is_low = ratio.clone().lower_elem(low).float() * advantages.clone().lower_elem(0.0).float();
    let is_high = ratio.clone().greater_elem(high).float() * advantages.clone().greater_elem(0.0).float();
    let (free, bounded) = (ratio * advantages.clone(), clipped * advantages.clone());
    (-free.min_pair(bounded), Ratios::Clipped { low: is_low, high: is_high })
}

/// MiniMax 2025, MiniMax-M1, arXiv:2506.13585, equations 4 and 5, without a lower bound.
fn cispo(ratio: Tensor<2>, tokens: &GrpoTokens, config: &GrpoConfig) -> (Tensor<2>, Ratios) {
    let (largest, advantages) = (config.upper_epsilon(), &tokens.advantages);
    let is_capped = ratio.clone().greater_elem(largest).float() * advantages.clone().greater_elem(0.0).float();
    let weights = ratio.clamp_max(largest).detach();
    (-(weights * advantages.clone()) * tokens.logprobs.clone(), Ratios::Capped(is_capped))
}

/// Gao et al. 2025, Soft Adaptive Policy Optimization, arXiv:2511.20347.
fn sapo(ratio: Tensor<2>, tokens: &GrpoTokens, config: &GrpoConfig) -> (Tensor<2>, Ratios) {
    let is_positive = tokens.advantages.clone().greater_elem(0.0);
    let temperatures = by_sign(is_positive, config.sapo_temperature_pos, config.sapo_temperature_neg); // [batch, 1]
    let gates = sigmoid((ratio - 1.0) * temperatures.clone()) * 4.0 / temperatures;
    (-(gates * tokens.advantages.clone()), Ratios::Gated)
}

/// Variational Sequence-Level Soft Policy Optimization, arXiv:2602.10693: the log-likelihood weighted by
/// `φ(w) = w^k·e^(λ(1-w))`, with `w` the ratio of the completion.
fn vespo(log_ratio: Tensor<2>, tokens: &GrpoTokens, config: &GrpoConfig) -> (Tensor<2>, Ratios) {
    let clamped = log_ratio.detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO);
    let log_w = (clamped * tokens.completion_mask.clone()).sum_dim(1).clamp(SMALLEST_RATIO.ln(), LARGEST_LOG_RATIO);
    let is_positive = tokens.advantages.clone().greater_equal_elem(0.0);
    let k = by_sign(is_positive.clone(), config.vespo_k_pos, config.vespo_k_neg);
    let lambda = |value: f64| value.max(SMALLEST_LAMBDA);
    let lambda = by_sign(is_positive, lambda(config.vespo_lambda_pos), lambda(config.vespo_lambda_neg));
    // In logarithms: w alone may be as large as e^20.
    let phi = (lambda.clone() + k * log_w.clone() - lambda * log_w.exp()).exp(); // [batch, 1]
    (-(phi.clone() * tokens.advantages.clone()) * tokens.logprobs.clone(), Ratios::Weighed(phi))
}

/// One number where the condition holds, another where it does not, `[batch, 1]`.
fn by_sign(is_positive: Tensor<2, burn::tensor::Bool>, positive: f64, other: f64) -> Tensor<2> {
    is_positive.float() * (positive - other) + other
}

/// Schulman's estimator of the KL divergence, `e^d - d - 1` with `d = log π_ref - log π` (DeepSeekMath, equation 4); its
/// correction by the ratio is DeepSeek-V3.2's (arXiv:2512.02556).
fn kl_divergence(logprobs: Tensor<2>, ref_logprobs: Tensor<2>) -> Tensor<2> {
    let difference = ref_logprobs - logprobs;
    difference.clone().exp() - difference - 1.0
}

/// 0 for completions with a negative advantage that have become unlikely, 1 for others, `[batch, 1]` (DeepSeek-V3.2,
/// arXiv:2512.02556, equation 9).
fn on_policy_mask(log_ratio: Tensor<2>, mask: &Tensor<2>, advantages: &Tensor<2>, threshold: f64) -> Tensor<2> {
    let divergence = -means(log_ratio.detach(), mask);
    let is_far = divergence.greater_elem(threshold).float();
    -(is_far * advantages.clone().lower_elem(0.0).float()) + 1.0
}

/// 1 for the tokens whose entropy reaches the `quantile` of all that count, `[batch, seq]` (Wang et al. 2025, Beyond the
/// 80/20 Rule, arXiv:2506.01939). The quantile is interpolated as PyTorch does, in f32.
fn high_entropy_mask(entropy: &Tensor<2>, mask: &Tensor<2>, quantile: f64) -> Tensor<2> {
    let [batch, seq] = entropy.dims();
    let read = |values: &Tensor<2>| -> Vec<f32> {
        let values = if values.is_autodiff() { values.clone().inner() } else { values.clone() };
        values.into_data().try_to_vec().expect("entropies and masks are f32")
    };
    let (entropies, counted) = (read(entropy), read(mask));
    let mut sorted: Vec<f32> =
        entropies.iter().zip(&counted).filter(|(_, counts)| **counts > 0.0).map(|(entropy, _)| *entropy).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let threshold = quantile_of(&sorted, quantile as f32);
    let is_high = |entropy: f32| if entropy >= threshold { 1.0f32 } else { 0.0 };
    let values: Vec<f32> = entropies.into_iter().map(is_high).collect();
    Tensor::from_data(TensorData::new(values, [batch, seq]), &plain_device(entropy))
}

/// A quantile of ascending numbers, between two of them linearly; infinite where there is none.
fn quantile_of(sorted: &[f32], quantile: f32) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return f32::INFINITY };
    let rank = quantile * last as f32;
    let (below, above) = (sorted[rank.floor() as usize], sorted[(rank.ceil() as usize).min(last)]);
    let weight = rank - rank.floor();
    // Written from the nearer end, so that a weight of 1 gives `above` exactly.
    if weight < 0.5 { below + weight * (above - below) } else { above - (above - below) * (1.0 - weight) }
}

/// Mean over the tokens of each completion that count, `[batch, 1]`; 0 where none does.
fn means(values: Tensor<2>, mask: &Tensor<2>) -> Tensor<2> {
    (values * mask.clone()).sum_dim(1) / mask.clone().sum_dim(1).clamp_min(1.0)
}

/// The loss of the micro-batch, `[1]`, and what it is to be divided by to be its part of the step's.
fn aggregate(
    losses: Tensor<2>,
    mask: &Tensor<2>,
    loss_type: GrpoLossType,
    normalizer: &Normalizer,
) -> (Tensor<1>, f64) {
    let [batch, _seq] = mask.dims();
    let masked = losses * mask.clone(); // [batch, seq], whatever shape the losses have
    let accumulation_steps = normalizer.accumulation_steps;
    match loss_type {
        GrpoLossType::Grpo | GrpoLossType::Sapo => {
            let lens = mask.clone().sum_dim(1).clamp_min(1.0);
            ((masked.sum_dim(1) / lens).sum() / batch as f64, accumulation_steps)
        }
        GrpoLossType::Bnpo => (masked.sum() / mask.clone().sum().clamp_min(1.0), accumulation_steps),
        GrpoLossType::DrGrpo => (masked.sum() / (batch as f64 * normalizer.max_completion_length), accumulation_steps),
        // No completion counts less for being short: LUSPO, arXiv:2602.05261.
        GrpoLossType::Luspo => (masked.sum() / batch as f64, accumulation_steps),
        // Divided by all tokens of the step at once.
        GrpoLossType::Dapo | GrpoLossType::Cispo | GrpoLossType::Vespo => {
            (masked.sum() / normalizer.num_items_in_batch.max(f64::MIN_POSITIVE), 1.0)
        }
    }
}

fn plain_device(tensor: &Tensor<2>) -> Device {
    tensor.device().inner()
}
