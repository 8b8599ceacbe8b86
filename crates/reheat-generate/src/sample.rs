//! Logits to the next token.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reheat_kernels::{LogitStats, kth_largest_bound, softmax_weights};

use crate::{Candidate, GenerateConfig, GenerateError, Token};

/// Draws the tokens of one completion, with transformers' processors in transformers' order (5.23,
/// `generation/logits_process.py`): bias, penalties, `min_new_tokens`, temperature, top-k, top-p, min-p.
///
/// Presence and frequency penalties, which transformers lacks, follow the repetition penalty, as in vLLM.
/// Everything random comes from a stream of its own, so that a completion does not depend on its neighbours.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: Arc<GenerateConfig>,
    rng: ChaCha8Rng,
    /// Tokens of the prompt and the completion, each with how often the completion has it. Empty without penalties.
    seen: BTreeMap<u32, u32>,
    num_drawn: usize,
    /// A row that is worked on, kept for its memory.
    scratch: Vec<f32>,
}

impl Sampler {
    /// A sampler for the completion of `prompt`; `stream` tells completions of one seed apart.
    ///
    /// The configuration must have passed [`GenerateConfig::validate`].
    pub fn new(config: Arc<GenerateConfig>, prompt: &[u32], stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(stream);
        let seen = if has_penalties(&config) { prompt.iter().map(|id| (*id, 0)).collect() } else { BTreeMap::new() };
        Self { config, rng, seen, num_drawn: 0, scratch: Vec::new() }
    }

    /// Draws a token, which from then on is part of the completion.
    ///
    /// # Errors
    /// If the logits make no distribution.
    pub fn next(&mut self, logits: &[f32]) -> Result<Token, GenerateError> {
        let stats = LogitStats::of(logits);
        if !stats.logsumexp.is_finite() {
            return Err(GenerateError::NotFinite { num_drawn: self.num_drawn });
        }
        let id = self.draw(logits, stats.max);
        self.take(id);
        let top = most_likely(logits, &stats, self.config.num_top_logprobs);
        let logprob = match self.config.temperature {
            temperature if self.config.tempered_logprobs && temperature != 1.0 && temperature != 0.0 => {
                self.tempered_logprob(logits, stats.max, id)
            }
            _ => logits[id as usize] - stats.logsumexp,
        };
        Ok(Token { id, logprob, top })
    }

    /// Log-probability of a token where logits are divided by the temperature.
    fn tempered_logprob(&mut self, logits: &[f32], max: f32, id: u32) -> f32 {
        self.scratch.clear();
        self.scratch.extend_from_slice(logits);
        let temperature = self.config.temperature;
        let sum = softmax_weights(&mut self.scratch, max, temperature);
        (logits[id as usize] - max) / temperature - sum.ln()
    }

    /// Makes a token part of the completion without drawing it.
    pub fn take(&mut self, id: u32) {
        if has_penalties(&self.config) {
            *self.seen.entry(id).or_default() += 1;
        }
        self.num_drawn += 1;
    }

    /// The tokens that may be drawn next and their probabilities, in the order of their ids.
    pub fn distribution(&mut self, logits: &[f32]) -> Vec<(u32, f64)> {
        let scores = self.processed(logits);
        let mut kept = match self.config.temperature {
            0.0 => vec![(argmax(&scores), 1.0)],
            _ => self.kept(&scores),
        };
        self.scratch = scores;
        kept.sort_unstable_by_key(|(id, _)| *id);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        kept.into_iter().map(|(id, weight)| (id, weight / total)).collect()
    }

    fn draw(&mut self, logits: &[f32], max: f32) -> u32 {
        let GenerateConfig { temperature, top_k, top_p, min_p, .. } = *self.config;
        if temperature == 0.0 && !self.changes_logits() {
            return first_of(logits, max);
        }
        let mut scores = self.processed(logits);
        let id = if temperature == 0.0 {
            argmax(&scores)
        } else if top_k > 0 || top_p < 1.0 || min_p > 0.0 {
            let kept = self.kept(&scores);
            kept[pick(kept.iter().map(|(_, weight)| *weight), self.rng.random())].0
        } else {
            let max = largest(&scores);
            softmax_weights(&mut scores, max, temperature);
            pick(scores.iter().map(|weight| f64::from(*weight)), self.rng.random()) as u32
        };
        self.scratch = scores;
        id
    }

    fn changes_logits(&self) -> bool {
        has_penalties(&self.config) || !self.config.logit_bias.is_empty() || self.num_drawn < self.config.min_new_tokens
    }

    /// The logits after bias and penalties.
    fn processed(&mut self, logits: &[f32]) -> Vec<f32> {
        let config = &self.config;
        let mut scores = std::mem::take(&mut self.scratch);
        scores.clear();
        scores.extend_from_slice(logits);
        for (id, bias) in &config.logit_bias {
            scores[*id as usize] += bias;
        }
        for (id, count) in &self.seen {
            let score = &mut scores[*id as usize];
            let penalty = config.repetition_penalty;
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            if *count > 0 {
                *score -= config.presence_penalty + config.frequency_penalty * *count as f32;
            }
        }
        if self.num_drawn < config.min_new_tokens {
            for id in &config.eos_token_ids {
                if let Some(score) = scores.get_mut(*id as usize) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        scores
    }

    /// Ids that may be drawn and their weights, of which the largest is 1.
    fn kept(&mut self, scores: &[f32]) -> Vec<(u32, f64)> {
        let GenerateConfig { temperature, top_k, top_p, min_p, .. } = *self.config;
        let max = largest(scores);
        let top_k = if top_k < scores.len() { top_k } else { 0 };
        // Below `floor` nothing survives the filters; sorting a whole vocabulary would cost more than the model.
        let (floor, total) = if top_k > 0 {
            (kth_largest_bound(scores, top_k), None)
        } else if top_p < 1.0 {
            let mut weights = scores.to_vec();
            let total = f64::from(softmax_weights(&mut weights, max, temperature));
            // Tokens with less than this weight hold less than `1 - top_p` together.
            let least = (1.0 - f64::from(top_p)) / scores.len() as f64 * total;
            (max + temperature * (least.ln() as f32 - FLOOR_SLACK), Some(total))
        } else {
            (max + temperature * (min_p.ln() - FLOOR_SLACK), None)
        };
        let mut kept: Vec<(u32, f32)> =
            (0..).zip(scores).filter(|(_, score)| **score >= floor).map(|(id, score)| (id, *score)).collect();
        if top_k > 0 {
            let (_, (_, least), _) = kept.select_nth_unstable_by(top_k - 1, |a, b| b.1.total_cmp(&a.1));
            let least = *least;
            // Equals of the last one stay too, as in transformers.
            kept.retain(|(_, score)| *score >= least);
        }
        let weight = |score: f32| f64::from((score - max) / temperature).exp();
        let mut kept: Vec<(u32, f64)> = kept.into_iter().map(|(id, score)| (id, weight(score))).collect();
        if top_p < 1.0 {
            let total = total.unwrap_or_else(|| kept.iter().map(|(_, weight)| weight).sum());
            keep_top_p(&mut kept, f64::from(top_p) * total);
        }
        kept.retain(|(_, weight)| *weight > 0.0 && *weight >= f64::from(min_p));
        kept
    }
}

/// What rounding may take from a bound on scores, in units of the temperature.
const FLOOR_SLACK: f32 = 1e-3;

/// Sorts by weight and keeps the largest that together reach `mass`.
fn keep_top_p(kept: &mut Vec<(u32, f64)>, mass: f64) {
    // By id among equals, so that the result does not depend on the sort.
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut before = 0.0;
    // A token stays while those above it hold less: the one that reaches the mass is the last.
    let stay = kept.iter().take_while(|(_, weight)| {
        let stays = before < mass;
        before += weight;
        stays
    });
    let count = stay.count().max(1);
    kept.truncate(count);
}

fn has_penalties(config: &GenerateConfig) -> bool {
    config.repetition_penalty != 1.0 || config.presence_penalty != 0.0 || config.frequency_penalty != 0.0
}

/// The index at which the running sum of `weights` passes `share` of their total.
fn pick(weights: impl Iterator<Item = f64> + Clone, share: f64) -> usize {
    let mut rest = share * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        rest -= weight;
        if weight > 0.0 {
            if rest < 0.0 {
                return index;
            }
            last = index;
        }
    }
    // Rounding can leave a rest above 0 after the last weight.
    last
}

fn largest(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// First of the largest.
fn argmax(scores: &[f32]) -> u32 {
    first_of(scores, largest(scores))
}

fn first_of(scores: &[f32], value: f32) -> u32 {
    scores.iter().position(|score| *score == value).map_or(0, |id| id as u32)
}

/// The `count` most likely tokens, likeliest first, equals by id.
pub(crate) fn most_likely(logits: &[f32], stats: &LogitStats, count: usize) -> Vec<Candidate> {
    if count == 0 {
        return Vec::new();
    }
    let bound = kth_largest_bound(logits, count);
    let mut kept: Vec<(u32, f32)> =
        (0..).zip(logits).filter(|(_, logit)| **logit >= bound).map(|(id, logit)| (id, *logit)).collect();
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    kept.truncate(count);
    kept.into_iter().map(|(id, logit)| Candidate { id, logprob: logit - stats.logsumexp }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(config: &GenerateConfig) -> Sampler {
        Sampler::new(Arc::new(config.clone()), &[], 0)
    }

    fn frequencies(config: &GenerateConfig, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 40_000;
        let mut sampler = sampler(config);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.next(logits).unwrap().id as usize] += 1.0 / DRAWS as f64;
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
    fn min_p_is_a_share_of_the_likeliest() {
        let kept = sampler(&GenerateConfig { min_p: 0.25, ..GenerateConfig::default() }).distribution(&LOGITS);
        assert_eq!(kept.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((kept[0].1 - 0.5 / 0.95).abs() < 1e-6);
    }

    #[test]
    fn the_end_waits_for_min_new_tokens() {
        let config =
            GenerateConfig { temperature: 0.0, min_new_tokens: 2, eos_token_ids: vec![0], ..GenerateConfig::default() };
        let mut sampler = sampler(&config);
        let ids = [(); 3].map(|()| sampler.next(&LOGITS).unwrap().id);
        assert_eq!(ids, [1, 1, 0]);
    }

    #[test]
    fn logprobs_are_the_models_whatever_is_drawn_from() {
        let config = GenerateConfig {
            temperature: 0.1,
            logit_bias: [(3, 100.0)].into(),
            num_top_logprobs: 2,
            ..GenerateConfig::default()
        };
        let token = sampler(&config).next(&LOGITS).unwrap();
        assert_eq!(token.id, 3);
        assert!((token.logprob - LOGITS[3]).abs() < 1e-5);
        assert_eq!(token.top.iter().map(|candidate| candidate.id).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        for logits in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(sampler(&GenerateConfig::default()).next(&logits).is_err());
        }
    }

    proptest! {
        #[test]
        fn greedy_is_the_first_of_the_largest(logits in prop::collection::vec(-3i8..3, 1..40)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let config = GenerateConfig { temperature: 0.0, ..GenerateConfig::default() };
            let id = sampler(&config).next(&logits).unwrap().id as usize;
            prop_assert!(logits[..id].iter().all(|logit| *logit < logits[id]));
            prop_assert!(logits[id..].iter().all(|logit| *logit <= logits[id]));
        }

        #[test]
        fn one_seed_and_stream_give_one_sequence(logits in prop::collection::vec(-3.0f32..3.0, 1..40), seed: u64) {
            let config = GenerateConfig { seed, top_k: 7, top_p: 0.9, ..GenerateConfig::default() };
            let draw = || {
                let mut sampler = sampler(&config);
                [(); 5].map(|()| sampler.next(&logits).unwrap().id)
            };
            prop_assert_eq!(draw(), draw());
        }

        #[test]
        fn shortcuts_of_the_filters_change_nothing(
            logits in prop::collection::vec(-8.0f32..8.0, 200..400), top_k in 0usize..30, top_p in 0.05f32..1.0,
        ) {
            let config = GenerateConfig { top_k, top_p, ..GenerateConfig::default() };
            let ours: Vec<u32> = sampler(&config).distribution(&logits).into_iter().map(|(id, _)| id).collect();
            let mut sorted: Vec<(u32, f64)> = (0..).zip(&logits).map(|(id, l)| (id, f64::from(*l).exp())).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(if top_k == 0 { logits.len() } else { top_k });
            let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
            let mut before = 0.0;
            let mut expected: Vec<u32> = sorted.into_iter().take_while(|(_, weight)| {
                let stays = before < f64::from(top_p) * total;
                before += weight;
                stays
            }).map(|(id, _)| id).collect();
            expected.sort_unstable();
            prop_assert_eq!(ours, expected);
        }
    }
}
