//! The losses, as functions of the log-ratios of the answers (TRL 1.16, `kto_trainer.py`, `_compute_loss`).

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::KtoLossType;

/// The constants of the losses, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnpairedLossSettings {
    /// What is minimised.
    pub loss_type: KtoLossType,
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
}

/// Weighted loss of each answer, `[answers]`.
///
/// # Shapes
/// - `logratios`: `[answers]`, log-probability under the policy less that under the reference
/// - `signs`: `[answers]`, 1 for good answers and -1 for bad ones
/// - `kl`: the point that log-ratios are compared with, at least 0; [`KtoLossType::ApoZeroUnpaired`] leaves it out
pub fn unpaired_losses(logratios: Tensor<1>, signs: Tensor<1>, kl: f64, settings: &UnpairedLossSettings) -> Tensor<1> {
    let anchor = match settings.loss_type {
        KtoLossType::Kto => kl,
        KtoLossType::ApoZeroUnpaired => 0.0,
    };
    // Good: 1 - σ(β(x - z)). Bad: 1 - σ(β(z - x)).
    let losses = -sigmoid((logratios - anchor) * signs.clone() * settings.beta) + 1.0;
    let (good, bad) = (settings.desirable_weight, settings.undesirable_weight);
    // The weight of a sign: half the sum at 0, and the difference on top.
    losses * (signs * ((good - bad) / 2.0) + (good + bad) / 2.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// At `β(x - z) = ln 3` a good answer costs `1 - 3/4`, a bad one `3/4`; with weights 2 and 4.
    #[test]
    fn losses_worked_by_hand() {
        let settings =
            |loss_type| UnpairedLossSettings { loss_type, beta: 0.5, desirable_weight: 2.0, undesirable_weight: 4.0 };
        let device = Device::flex();
        let signs = Tensor::<1>::from_data([1.0, -1.0], &device);
        let x = 2.0 * 3f32.ln();
        let losses = |logratio: f32, kl, loss_type| {
            let logratios = Tensor::<1>::from_data([logratio, logratio], &device);
            unpaired_losses(logratios, signs.clone(), kl, &settings(loss_type)).into_data().try_to_vec::<f32>().unwrap()
        };
        for losses in [losses(x + 1.0, 1.0, KtoLossType::Kto), losses(x, 1.0, KtoLossType::ApoZeroUnpaired)] {
            assert!((losses[0] - 0.5).abs() < 1e-6 && (losses[1] - 3.0).abs() < 1e-6, "{losses:?}");
        }
    }
}
