//! Logits to the next token.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{GenerateConfig, GenerateError};

/// Draws tokens from logits, with transformers' processors in transformers' order: temperature, top-k, top-p
/// (5.23, `generation/logits_process.py`).
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler with its own stream of random numbers.
    ///
    /// # Errors
    /// If a value makes no distribution.
    pub fn new(config: &GenerateConfig) -> Result<Self, GenerateError> {
        let fault = |name, value: f32, expected| GenerateError::Sampling { name, value: value.into(), expected };
        if !(config.temperature.is_finite() && config.temperature >= 0.0) {
            return Err(fault("temperature", config.temperature, "0 (greedy) or more"));
        }
        if !(config.top_p > 0.0 && config.top_p <= 1.0) {
            return Err(fault("top_p", config.top_p, "more than 0 and at most 1"));
        }
        Ok(Self {
            temperature: config.temperature,
            top_k: config.top_k,
            top_p: config.top_p,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
        })
    }

    /// The next token; the most likely one (the first of equals) at temperature 0.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        let best = argmax(logits);
        if self.temperature == 0.0 {
            return best as u32;
        }
        let kept = self.kept(logits, logits[best]);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut rest = self.rng.random::<f64>() * total;
        for (id, weight) in &kept {
            rest -= weight;
            if rest < 0.0 {
                return *id as u32;
            }
        }
        // Rounding can leave a rest above 0 after the last weight.
        kept.last().map_or(best, |(id, _)| *id) as u32
    }

    /// Ids that may be drawn and their weights, the likeliest first.
    fn kept(&self, logits: &[f32], max: f32) -> Vec<(usize, f64)> {
        let weight = |logit: f32| f64::from((logit - max) / self.temperature).exp();
        let mut kept: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .map(|(id, logit)| (id, weight(*logit)))
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        // By id among equals, so that the result does not depend on the sort.
        let order = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, order);
            kept.truncate(self.top_k);
        }
        if self.top_p < 1.0 {
            kept.sort_unstable_by(order);
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut before = 0.0;
            // A token stays while those above it hold less than top_p: the one that reaches it is the last.
            let len = kept.iter().take_while(|(_, weight)| {
                let stays = before < f64::from(self.top_p) * total;
                before += weight;
                stays
            });
            let len = len.count();
            kept.truncate(len.max(1));
        }
        kept
    }
}

/// First of the largest.
pub(crate) fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(config: &GenerateConfig) -> Sampler {
        Sampler::new(config).unwrap()
    }

    fn frequencies(config: &GenerateConfig, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 40_000;
        let mut sampler = sampler(config);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.next(logits) as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    /// Five standard deviations of a share of 0.5 in 40,000 draws; the seed is fixed.
    const FREQUENCY_TOLERANCE: f64 = 5.0 * 0.5 / 200.0;

    #[test]
    fn frequencies_follow_the_softmax() {
        let config = GenerateConfig { temperature: 2.0, ..GenerateConfig::default() };
        // Weights e^0, e^1, e^2 after the temperature.
        let shares = frequencies(&config, &[0.0, 2.0, 4.0, f32::NEG_INFINITY]);
        for (share, expected) in shares.iter().zip([0.0900, 0.2447, 0.6652, 0.0]) {
            assert!((share - expected).abs() < FREQUENCY_TOLERANCE, "{shares:?}");
        }
        assert_eq!(shares[3], 0.0);
    }

    /// Probabilities 0.5, 0.3, 0.15, 0.05.
    const LOGITS: [f32; 4] = [-std::f32::consts::LN_2, -1.203_972_8, -1.897_12, -2.995_732_3];

    #[test]
    fn top_p_keeps_the_token_that_reaches_it() {
        let shares = |top_p| frequencies(&GenerateConfig { top_p, ..GenerateConfig::default() }, &LOGITS);
        let half = shares(0.6);
        assert!((half[0] - 0.625).abs() < FREQUENCY_TOLERANCE && half[2] == 0.0 && half[3] == 0.0, "{half:?}");
        assert_eq!(shares(0.01)[0].round(), 1.0);
    }

    #[test]
    fn top_k_keeps_the_likeliest() {
        let shares = frequencies(&GenerateConfig { top_k: 2, ..GenerateConfig::default() }, &LOGITS);
        assert!((shares[1] - 0.375).abs() < FREQUENCY_TOLERANCE && shares[2] == 0.0, "{shares:?}");
    }

    #[test]
    fn values_that_make_no_distribution_are_refused() {
        let error = Sampler::new(&GenerateConfig { top_p: 1.5, ..GenerateConfig::default() }).unwrap_err();
        assert_eq!(error.to_string(), "top_p is 1.5, expected more than 0 and at most 1");
        assert!(Sampler::new(&GenerateConfig { temperature: -1.0, ..GenerateConfig::default() }).is_err());
        assert!(Sampler::new(&GenerateConfig { temperature: f32::NAN, ..GenerateConfig::default() }).is_err());
    }

    proptest! {
        #[test]
        fn greedy_is_the_first_of_the_largest(logits in prop::collection::vec(-3i8..3, 1..40)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let id = sampler(&GenerateConfig { temperature: 0.0, ..GenerateConfig::default() }).next(&logits) as usize;
            prop_assert!(logits[..id].iter().all(|logit| *logit < logits[id]));
            prop_assert!(logits[id..].iter().all(|logit| *logit <= logits[id]));
        }

        #[test]
        fn one_seed_gives_one_sequence(logits in prop::collection::vec(-3.0f32..3.0, 1..40), seed: u64) {
            let config = GenerateConfig { seed, top_k: 7, top_p: 0.9, ..GenerateConfig::default() };
            let draw = || { let mut sampler = sampler(&config); [(); 5].map(|()| sampler.next(&logits)) };
            prop_assert_eq!(draw(), draw());
        }
    }
}
