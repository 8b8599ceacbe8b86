//! Noise on the embeddings while training (Jain et al. 2023, NEFTune, arXiv:2310.05914).

use burn::tensor::{Tensor, TensorData};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Uniform noise in `±alpha / √(length · hidden_size)` on every number of the embeddings of a sequence.
///
/// Departs from transformers 5.23, where the length is that of the padded micro-batch: here it is the sequence's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingNoise {
    /// Strength of the noise.
    pub alpha: f64,
    /// Decides the noise. The numbers are not PyTorch's: there a global stream decides.
    pub seed: u64,
}

impl EmbeddingNoise {
    /// Largest amount of noise on a sequence of `seq_len` tokens.
    fn bound(self, seq_len: usize, hidden_size: usize) -> f32 {
        (self.alpha / ((seq_len * hidden_size) as f64).sqrt()) as f32
    }

    /// The embeddings with noise.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`, of sequences that lie end to end; one that `continues` another is as long as both
    pub(crate) fn add_to(self, x: Tensor<2>, seq_lens: &[usize], continues: &[Option<usize>]) -> Tensor<2> {
        let [tokens, hidden_size] = x.dims();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut noise = Vec::with_capacity(tokens * hidden_size);
        for (index, &seq_len) in seq_lens.iter().enumerate().filter(|(_, len)| **len > 0) {
            let before = continues.get(index).copied().flatten().map_or(0, |earlier| seq_lens[earlier]);
            let bound = self.bound(before + seq_len, hidden_size);
            noise.extend((0..seq_len * hidden_size).map(|_| rng.random_range(-bound..=bound)));
        }
        let device = x.device();
        x + Tensor::from_data(TensorData::new(noise, [tokens, hidden_size]), &device)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn noise(alpha: f64, seed: u64, seq_lens: &[usize]) -> Vec<f32> {
        let x = Tensor::<2>::zeros([seq_lens.iter().sum(), 100], &Device::flex());
        EmbeddingNoise { alpha, seed }.add_to(x, seq_lens, &[]).into_data().try_to_vec().unwrap()
    }

    /// alpha 10 on 4 and on 25 tokens of 100 numbers: at most 10 / √400 and 10 / √2500, and uniform up to there.
    #[test]
    fn the_bound_follows_from_the_length_of_each_sequence() {
        let values = noise(10.0, 7, &[4, 25]);
        let (short, long) = values.split_at(400);
        for (values, bound) in [(short, 0.5), (long, 0.2f32)] {
            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert!(largest <= bound && largest > 0.98 * bound, "{largest} of {bound}");
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
            assert!(mean.abs() < 0.1 * bound, "{mean}");
            assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.15, "{variance}");
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(noise(5.0, 1, &[3]), noise(5.0, 1, &[3]));
        assert_ne!(noise(5.0, 1, &[3]), noise(5.0, 2, &[3]));
    }
}
