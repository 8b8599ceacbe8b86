//! The losses of direct preference optimisation, as functions of the log-probabilities of the answers.
//!
//! Names as in Rafailov et al.: the *log-ratio* of an answer is `log π(y|x) - log π_ref(y|x)`, its *reward* is β times
//! that, its *score* is the log-ratio or what an f-divergence makes of it. All tensors are `[pairs]`, in nats.
//! Formulas are those of TRL 1.16 (`dpo_trainer.py`, `_compute_loss`), which cites the papers named here.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, relu, sigmoid};

use super::{DpoLossType, FDivergence};

/// Largest exponent of the α-divergence before it is cut, so that f32 can hold the result (TRL 1.16).
const LARGEST_EXPONENT: f64 = 80.0;

/// Summed log-probabilities of the answers under the policy and under the reference.
#[derive(Debug, Clone)]
pub struct PairLogprobs {
    /// Of the better answers under the policy, `[pairs]`.
    pub chosen: Tensor<1>,
    /// Of the worse answers under the policy, `[pairs]`.
    pub rejected: Tensor<1>,
    /// Of the better answers under the reference, `[pairs]`.
    pub ref_chosen: Tensor<1>,
    /// Of the worse answers under the reference, `[pairs]`.
    pub ref_rejected: Tensor<1>,
    /// Tokens of the better answers, `[pairs]`, at least 1.
    pub chosen_lens: Tensor<1>,
    /// Tokens of the worse answers, `[pairs]`, at least 1.
    pub rejected_lens: Tensor<1>,
}

impl PairLogprobs {
    /// Log-ratios of the better answers, `[pairs]`.
    pub fn chosen_logratios(&self) -> Tensor<1> {
        self.chosen.clone() - self.ref_chosen.clone()
    }

    /// Log-ratios of the worse answers, `[pairs]`.
    pub fn rejected_logratios(&self) -> Tensor<1> {
        self.rejected.clone() - self.ref_rejected.clone()
    }
}

/// The constants of the losses, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLossSettings {
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// Probability that a pair is labelled the wrong way round.
    pub label_smoothing: f64,
    /// What turns a log-ratio into a score.
    pub f_divergence: FDivergence,
    /// Temperature of DiscoPOP's blend.
    pub discopop_tau: f64,
}

/// Loss of each pair, `[pairs]`.
///
/// [`DpoLossType::Sft`] is the negative log-likelihood of the better answer, summed over its tokens: the caller divides
/// by tokens where it divides the others by pairs.
pub fn pair_losses(loss_type: DpoLossType, pairs: &PairLogprobs, settings: &PairLossSettings) -> Tensor<1> {
    match loss_type {
        DpoLossType::Sigmoid => -log_sigmoid(score_margin(pairs, settings) * settings.beta),
        DpoLossType::Hinge => relu(-(score_margin(pairs, settings) * settings.beta) + 1.0),
        DpoLossType::Ipo => (score_margin_per_token(pairs, settings) - 0.5 / settings.beta).square(),
        DpoLossType::ExoPair => exo_pair(score_margin(pairs, settings) * settings.beta, settings.label_smoothing),
        DpoLossType::NcaPair => nca_pair(pairs, settings.beta),
        DpoLossType::Robust => robust(score_margin(pairs, settings) * settings.beta, settings.label_smoothing),
        DpoLossType::BcoPair => bco_pair(pairs, settings.beta),
        DpoLossType::SppoHard => sppo_hard(pairs, settings.beta),
        DpoLossType::Aot => aot(pairs, settings),
        DpoLossType::AotUnpaired => aot_unpaired(pairs, settings),
        DpoLossType::ApoZero => apo_zero(pairs, settings.beta),
        DpoLossType::ApoDown => apo_down(pairs, settings.beta),
        DpoLossType::Discopop => discopop(score_margin(pairs, settings) * settings.beta, settings.discopop_tau),
        DpoLossType::Sft => -pairs.chosen.clone(),
        DpoLossType::SigmoidNorm => -log_sigmoid(score_margin_per_token(pairs, settings) * settings.beta),
    }
}

/// `f'(π/π_ref)` of a log-ratio (Wang et al. 2024, Beyond Reverse KL, arXiv:2309.16240, table 1).
fn score(logratios: Tensor<1>, f_divergence: FDivergence) -> Tensor<1> {
    match f_divergence {
        FDivergence::ReverseKl => logratios,
        FDivergence::ForwardKl => -(-logratios).exp() + 1.0,
        FDivergence::JsDivergence => log_sigmoid(logratios) + std::f64::consts::LN_2,
        FDivergence::AlphaDivergence(alpha) => {
            let exponent = alpha - 1.0;
            // At α = 1 the limit is the logarithm itself.
            if exponent.abs() < 1e-6 {
                return logratios;
            }
            ((logratios * exponent).clamp_max(LARGEST_EXPONENT).exp() - 1.0) / exponent
        }
    }
}

fn scores(pairs: &PairLogprobs, settings: &PairLossSettings) -> (Tensor<1>, Tensor<1>) {
    let score = |logratios| score(logratios, settings.f_divergence);
    (score(pairs.chosen_logratios()), score(pairs.rejected_logratios()))
}

fn score_margin(pairs: &PairLogprobs, settings: &PairLossSettings) -> Tensor<1> {
    let (chosen, rejected) = scores(pairs, settings);
    chosen - rejected
}

/// Margin of the scores per token, as the authors of IPO compute it (TRL 1.16, comment at `ipo`).
fn score_margin_per_token(pairs: &PairLogprobs, settings: &PairLossSettings) -> Tensor<1> {
    let (chosen, rejected) = scores(pairs, settings);
    chosen / pairs.chosen_lens.clone() - rejected / pairs.rejected_lens.clone()
}

/// Ji et al. 2024, Towards Efficient Exact Optimization, arXiv:2402.00856, equation 16: the reverse KL divergence from
/// `(1-ε, ε)` to the policy's preference.
fn exo_pair(margin: Tensor<1>, epsilon: f64) -> Tensor<1> {
    let won = sigmoid(margin.clone()) * (log_sigmoid(margin.clone()) - (-epsilon).ln_1p());
    let lost = sigmoid(-margin.clone()) * (log_sigmoid(-margin) - epsilon.ln());
    won + lost
}

/// Chen et al. 2024, Noise Contrastive Alignment, arXiv:2402.05369.
fn nca_pair(pairs: &PairLogprobs, beta: f64) -> Tensor<1> {
    let (chosen, rejected) = (pairs.chosen_logratios() * beta, pairs.rejected_logratios() * beta);
    -log_sigmoid(chosen.clone()) - log_sigmoid(-chosen) * 0.5 - log_sigmoid(-rejected) * 0.5
}

/// Chowdhury et al. 2024, Provably Robust DPO, arXiv:2403.00409.
fn robust(margin: Tensor<1>, epsilon: f64) -> Tensor<1> {
    (log_sigmoid(-margin.clone()) * epsilon - log_sigmoid(margin) * (1.0 - epsilon)) / (1.0 - 2.0 * epsilon)
}

/// Jung et al. 2024, Binary Classifier Optimization, arXiv:2404.04656, without the reward shift.
fn bco_pair(pairs: &PairLogprobs, beta: f64) -> Tensor<1> {
    -log_sigmoid(pairs.chosen_logratios() * beta) - log_sigmoid(-(pairs.rejected_logratios() * beta))
}

/// Wu et al. 2024, Self-Play Preference Optimization, arXiv:2405.00675, equation 4.7 with the winner's probability 1.
fn sppo_hard(pairs: &PairLogprobs, beta: f64) -> Tensor<1> {
    (pairs.chosen_logratios() - 0.5 / beta).square() + (pairs.rejected_logratios() + 0.5 / beta).square()
}

/// Melnyk et al. 2024, Distributional Preference Alignment via Optimal Transport, arXiv:2406.05882: the sorted margins
/// of the policy against the sorted margins of the reference.
fn aot(pairs: &PairLogprobs, settings: &PairLossSettings) -> Tensor<1> {
    let policy = (pairs.chosen.clone() - pairs.rejected.clone()).sort(0);
    let reference = (pairs.ref_chosen.clone() - pairs.ref_rejected.clone()).sort(0);
    smoothed_sigmoid((policy - reference) * settings.beta, settings.label_smoothing)
}

/// As [`aot`]: the sorted log-ratios of the better answers against those of the worse.
fn aot_unpaired(pairs: &PairLogprobs, settings: &PairLossSettings) -> Tensor<1> {
    let delta = pairs.chosen_logratios().sort(0) - pairs.rejected_logratios().sort(0);
    smoothed_sigmoid(delta * settings.beta, settings.label_smoothing)
}

fn smoothed_sigmoid(margin: Tensor<1>, epsilon: f64) -> Tensor<1> {
    -log_sigmoid(margin.clone()) * (1.0 - epsilon) - log_sigmoid(-margin) * epsilon
}

/// D'Oosterlinck et al. 2024, Anchored Preference Optimization, arXiv:2408.06266, equation 7.
fn apo_zero(pairs: &PairLogprobs, beta: f64) -> Tensor<1> {
    sigmoid(pairs.rejected_logratios() * beta) - sigmoid(pairs.chosen_logratios() * beta) + 1.0
}

/// As [`apo_zero`], equation 8: for better answers that are worse than the model's own.
fn apo_down(pairs: &PairLogprobs, beta: f64) -> Tensor<1> {
    let (chosen, rejected) = (pairs.chosen_logratios() * beta, pairs.rejected_logratios() * beta);
    sigmoid(chosen.clone()) - sigmoid(chosen - rejected) + 1.0
}

/// Lu et al. 2024, Discovering Preference Optimization Algorithms, arXiv:2406.08414, equation 5.
fn discopop(margin: Tensor<1>, tau: f64) -> Tensor<1> {
    let modulation = sigmoid(margin.clone() / tau);
    let logistic = -log_sigmoid(margin.clone());
    logistic * (-modulation.clone() + 1.0) + (-margin).exp() * modulation
}
