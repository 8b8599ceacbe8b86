//! The loss, as a function of the scores of both answers (TRL 1.16, `reward_trainer.py`, `compute_loss`).

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

/// Loss of each pair, `[pairs]`, all arguments `[pairs]`: the better answer is to score higher by more than the margin.
///
/// `centering` is how strongly the sum of both scores is pulled towards 0.
pub fn ranking_losses(chosen: Tensor<1>, rejected: Tensor<1>, margins: Tensor<1>, centering: f64) -> Tensor<1> {
    let ranking = -log_sigmoid(chosen.clone() - rejected.clone() - margins);
    if centering == 0.0 { ranking } else { ranking + (chosen + rejected).square() * centering }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// `-log σ(0) = ln 2`, and `-log σ(ln 3) = ln 4/3`; scores that sum to 3 cost 9 times the coefficient.
    #[test]
    fn losses_worked_by_hand() {
        let tensor = |values: [f32; 2]| Tensor::<1>::from_data(values, &Device::flex());
        let ln3 = 3f32.ln();
        let (chosen, rejected) = (tensor([2.0, (3.0 + ln3) / 2.0]), tensor([1.0, (3.0 - ln3) / 2.0]));
        let losses = ranking_losses(chosen, rejected, tensor([1.0, 0.0]), 0.1).into_data().try_to_vec::<f32>().unwrap();
        for (loss, expected) in losses.iter().zip([2f32.ln() + 0.9, (4f32 / 3.0).ln() + 0.9]) {
            assert!((loss - expected).abs() < 1e-6, "{losses:?}");
        }
    }
}
