//! One row of logits in host memory, as a sampler sees it.

use crate::vector;

/// What turns the logits of one position into log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitStats {
    /// Largest logit; NaN where the row holds one.
    pub max: f32,
    /// `ln Σ e^logit`, the shift from a logit to its log-probability in nats.
    pub logsumexp: f32,
    /// Entropy of the distribution in nats.
    pub entropy: f32,
}

impl LogitStats {
    /// Reads the row twice: for its largest element and for the sums.
    ///
    /// The numbers are those of [`token_logprobs`](crate::token_logprobs), bit for bit.
    pub fn of(logits: &[f32]) -> Self {
        let max = vector::max(logits);
        let sums = vector::row_sums(logits, max);
        let log_sum = sums.exp.ln();
        Self { max, logsumexp: max + log_sum, entropy: log_sum - sums.weighted / sums.exp }
    }
}

/// Replaces each logit by `e^((logit - max) / temperature)` and returns the sum, at least 1 where `max` is the largest.
pub fn softmax_weights(logits: &mut [f32], max: f32, temperature: f32) -> f32 {
    let scale = 1.0 / temperature;
    vector::exp_in_place(logits, scale, max * scale)
}

/// Logits that one step of [`kth_largest_bound`] looks at.
const BLOCK: usize = 64;

/// A bound that at least `k` logits reach, close to the `k`-th largest: the `k`-th largest of the maxima of blocks.
///
/// It leaves a few times `k` candidates of a whole vocabulary, at the price of reading it once.
pub fn kth_largest_bound(logits: &[f32], k: usize) -> f32 {
    let mut maxima: Vec<f32> = logits.chunks(BLOCK).map(vector::max).collect();
    if k == 0 || k > maxima.len() {
        return f32::NEG_INFINITY;
    }
    let (_, bound, _) = maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_a_softmax_and_the_bound_is_reached_often_enough() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.1).collect();
        let stats = LogitStats::of(&logits);
        let mut weights = logits.clone();
        let sum = softmax_weights(&mut weights, stats.max, 1.0);
        assert!(((stats.logsumexp - stats.max).exp() / sum - 1.0).abs() < 1e-5);
        for k in [1, 2, 10, 16] {
            let bound = kth_largest_bound(&logits, k);
            assert!(logits.iter().filter(|logit| **logit >= bound).count() >= k);
        }
        assert_eq!(kth_largest_bound(&logits, 17), f32::NEG_INFINITY);
    }

    #[test]
    fn two_equal_logits_have_the_entropy_of_a_coin() {
        let stats = LogitStats::of(&[3.0, 3.0, f32::NEG_INFINITY]);
        assert!((stats.entropy - std::f32::consts::LN_2).abs() < 1e-6);
        assert!((3.0 - stats.logsumexp + std::f32::consts::LN_2).abs() < 1e-6);
    }
}
