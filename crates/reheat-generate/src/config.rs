//! How a completion is drawn, and what one is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::GenerateError;

/// How a completion is drawn, under transformers' names where it has one and OpenAI's otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateConfig {
    /// Longest completion in tokens. Default 128.
    pub max_new_tokens: usize,
    /// No end token is drawn before this many tokens. Default 0.
    pub min_new_tokens: usize,
    /// Divides the logits; 0 takes the most likely token. Default 1.
    pub temperature: f32,
    /// Draw among this many most likely tokens; 0, the default, for all.
    pub top_k: usize,
    /// Draw among the most likely tokens that together hold this probability. Default 1.
    pub top_p: f32,
    /// Draw among the tokens with at least this share of the most likely one's probability. Default 0.
    pub min_p: f32,
    /// Divides positive logits of tokens that the prompt or the completion has, and multiplies negative ones.
    /// Default 1 (Keskar et al. 2019, CTRL, arXiv:1909.05858, section 4.1).
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that the completion has. Default 0.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens once for each time the completion has them. Default 0.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Completions of one prompt, which is computed once. Default 1.
    pub num_return_sequences: usize,
    /// Whether the log-probabilities of drawn tokens are those at `temperature`, before penalties and filters, instead of
    /// the model's own. Default no.
    #[serde(default)]
    pub tempered_logprobs: bool,
    /// How many of the most likely tokens come with each drawn one. Default 0.
    pub num_top_logprobs: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
    /// Tokens that end the completion.
    pub eos_token_ids: Vec<u32>,
}

impl Default for GenerateConfig {
    /// 128 tokens drawn from the model's own distribution.
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            min_new_tokens: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            num_return_sequences: 1,
            tempered_logprobs: false,
            num_top_logprobs: 0,
            seed: 0,
            eos_token_ids: Vec::new(),
        }
    }
}

impl GenerateConfig {
    /// Looks for values that make no distribution over `vocab_size` tokens.
    ///
    /// # Errors
    /// The first such value.
    pub fn validate(&self, vocab_size: usize) -> Result<(), GenerateError> {
        let check = |holds: bool, name: &'static str, value: f32, expected: &'static str| {
            if holds { Ok(()) } else { Err(GenerateError::Sampling { name, value, expected }) }
        };
        let finite = f32::is_finite;
        let (t, p) = (self.temperature, self.top_p);
        check(finite(t) && t >= 0.0, "temperature", t, "0 (greedy) or more")?;
        check(p > 0.0 && p <= 1.0, "top_p", p, "more than 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "from 0 to 1")?;
        let penalty = self.repetition_penalty;
        check(finite(penalty) && penalty > 0.0, "repetition_penalty", penalty, "more than 0")?;
        let range = "from -2 to 2";
        check((-2.0..=2.0).contains(&self.presence_penalty), "presence_penalty", self.presence_penalty, range)?;
        check((-2.0..=2.0).contains(&self.frequency_penalty), "frequency_penalty", self.frequency_penalty, range)?;
        check(self.num_return_sequences > 0, "num_return_sequences", 0.0, "1 or more")?;
        #[expect(clippy::cast_precision_loss, reason = "for the message alone")]
        let min = self.min_new_tokens as f32;
        check(self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", min, "at most max_new_tokens")?;
        for (&id, &bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                return Err(GenerateError::BiasOutsideVocabulary { id, vocab_size });
            }
            check(finite(bias), "logit_bias", bias, "a finite number")?;
        }
        Ok(())
    }
}

/// Whether to draw another token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End the completion here.
    Stop,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token was drawn, or the caller stopped.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
}

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// Its log-probability in nats under the model itself, before temperature, penalties and filters; with
    /// [`GenerateConfig::tempered_logprobs`] after the temperature.
    pub logprob: f32,
    /// The most likely tokens of this position, [`GenerateConfig::num_top_logprobs`] of them, likeliest first.
    pub top: Vec<Candidate>,
}

/// A token and how likely it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The id.
    pub id: u32,
    /// Log-probability in nats under the model itself.
    pub logprob: f32,
}

/// A completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// The drawn ids; an end token is the last.
    pub ids: Vec<u32>,
    /// Log-probability of each id, as in [`Token`].
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(config: GenerateConfig) -> String {
        config.validate(10).unwrap_err().to_string()
    }

    #[test]
    fn values_that_make_no_distribution_are_refused_with_what_is_accepted() {
        let base = GenerateConfig::default;
        assert_eq!(base().validate(10), Ok(()));
        assert_eq!(fault(GenerateConfig { top_p: 1.5, ..base() }), "top_p is 1.5, expected more than 0 and at most 1");
        assert_eq!(fault(GenerateConfig { min_p: -0.5, ..base() }), "min_p is -0.5, expected from 0 to 1");
        assert_eq!(
            fault(GenerateConfig { logit_bias: [(10, 1.0)].into(), ..base() }),
            "logit bias for token id 10, which is outside the model's vocabulary of 10"
        );
        for config in [
            GenerateConfig { temperature: -1.0, ..base() },
            GenerateConfig { temperature: f32::NAN, ..base() },
            GenerateConfig { top_p: 0.0, ..base() },
            GenerateConfig { repetition_penalty: 0.0, ..base() },
            GenerateConfig { presence_penalty: 2.5, ..base() },
            GenerateConfig { frequency_penalty: f32::INFINITY, ..base() },
            GenerateConfig { num_return_sequences: 0, ..base() },
            GenerateConfig { min_new_tokens: 9, max_new_tokens: 8, ..base() },
            GenerateConfig { logit_bias: [(3, f32::NAN)].into(), ..base() },
        ] {
            assert!(config.validate(10).is_err(), "{config:?}");
        }
    }
}
