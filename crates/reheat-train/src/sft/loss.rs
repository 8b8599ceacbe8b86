//! The losses, as functions of the log-probabilities of the trained tokens.

use burn::tensor::Tensor;

use super::LossType;

/// Loss of each token, not yet divided by the number of tokens.
///
/// # Shapes
/// - `logprobs`: `[tokens]`, log-probabilities of the labels, 0 where there is none
/// - returns: `[tokens]`; 0 where there is no label
///
/// With label smoothing ε, `logprobs` are `(1 - ε) log p(label) + ε mean log p` ([`smoothed`]).
pub(super) fn token_losses(loss_type: LossType, logprobs: Tensor<1>) -> Tensor<1> {
    match loss_type {
        LossType::Nll => logprobs.neg(),
        LossType::Dft => logprobs.clone().exp() * logprobs.neg(),
    }
}

/// Log-probabilities of labels of which a share is spread over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
///
/// # Shapes
/// - `logprobs`: `[tokens]`, of the labels
/// - `mean_logprob`: `[tokens]`, means over the vocabulary
pub(super) fn smoothed(logprobs: Tensor<1>, mean_logprob: Tensor<1>, label_smoothing: f64) -> Tensor<1> {
    logprobs * (1.0 - label_smoothing) + mean_logprob * label_smoothing
}

/// Derivative of the step's loss with respect to each log-probability.
///
/// # Shapes
/// - `logprobs`: `[tokens]`, of trained tokens alone
/// - returns: `[tokens]`
pub(super) fn gradient(loss_type: LossType, logprobs: Tensor<1>, num_items_in_batch: u64) -> Tensor<1> {
    let scale = -1.0 / num_items_in_batch.max(1) as f64;
    match loss_type {
        LossType::Nll => logprobs.ones_like() * scale,
        // The factor p carries no gradient (equation 7).
        LossType::Dft => logprobs.exp() * scale,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// Two tokens of probability 1/2 and 1/4: losses ln 2 and 2 ln 2, and times p for DFT.
    #[test]
    fn losses_worked_by_hand() {
        let ln2 = std::f32::consts::LN_2;
        let logprobs = || Tensor::<1>::from_data([-ln2, -2.0 * ln2], &Device::flex());
        assert_eq!(values(token_losses(LossType::Nll, logprobs())), [ln2, 2.0 * ln2]);
        let dft = values(token_losses(LossType::Dft, logprobs()));
        assert!((dft[0] - ln2 / 2.0).abs() < 1e-6 && (dft[1] - ln2 / 2.0).abs() < 1e-6);
        assert_eq!(values(gradient(LossType::Nll, logprobs(), 2)), [-0.5, -0.5]);
        let dft = values(gradient(LossType::Dft, logprobs(), 2));
        assert!((dft[0] + 0.25).abs() < 1e-6 && (dft[1] + 0.125).abs() < 1e-6);
    }
}
