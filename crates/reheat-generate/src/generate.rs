//! Prompt to completion.

use reheat_model::Qwen2;
use serde::{Deserialize, Serialize};

use crate::{GenerateError, KvCache, Sampler};

/// How a completion is drawn, under transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateConfig {
    /// Longest completion in tokens.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Draw among this many most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draw among the most likely tokens that together hold this probability.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens that end the completion.
    pub eos_token_ids: Vec<u32>,
}

impl Default for GenerateConfig {
    /// 128 tokens drawn from the model's own distribution.
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0, eos_token_ids: Vec::new() }
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// Its log-probability in nats under the model itself, before temperature, top-k and top-p.
    pub logprob: f32,
}

/// A completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The drawn ids; an end token is the last.
    pub ids: Vec<u32>,
    /// Log-probability of each id, as in [`Token`].
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Continues `prompt`, handing each token to `on_token` as it is drawn.
///
/// # Errors
/// If the prompt is empty, longer than the context, or has unknown ids; a sampling value is out of range; or the model
/// gives NaN.
pub fn generate(
    model: &Qwen2,
    prompt: &[u32],
    config: &GenerateConfig,
    on_token: &mut dyn FnMut(Token) -> Flow,
) -> Result<Generation, GenerateError> {
    let mut sampler = Sampler::new(config)?;
    let (context, vocab_size) = (model.config().max_position_embeddings, model.config().vocab_size);
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if prompt.len() >= context {
        return Err(GenerateError::PromptTooLong { tokens: prompt.len(), context });
    }
    if let Some(&id) = prompt.iter().find(|id| **id as usize >= vocab_size) {
        return Err(GenerateError::TokenOutsideVocabulary { id, vocab_size });
    }
    let budget = config.max_new_tokens.min(context - prompt.len());
    let mut cache = KvCache::new(model, prompt.len() + budget);
    let mut generation = Generation { ids: Vec::new(), logprobs: Vec::new(), finish_reason: FinishReason::Length };
    let mut pending: Vec<i32> = prompt.iter().map(|id| *id as i32).collect();
    while generation.ids.len() < budget {
        let logits = cache.next_logits(model, &pending).into_data();
        let logits = logits.as_slice::<f32>().expect("logits are f32");
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(GenerateError::NotANumber { tokens: cache.len() });
        }
        let id = sampler.next(logits);
        let token = Token { id, logprob: logprob(logits, id) };
        generation.ids.push(token.id);
        generation.logprobs.push(token.logprob);
        let flow = on_token(token);
        if config.eos_token_ids.contains(&id) || flow == Flow::Stop {
            generation.finish_reason = FinishReason::Stop;
            break;
        }
        pending = vec![id as i32];
    }
    Ok(generation)
}

/// Log-softmax of one entry, summed in f64.
fn logprob(logits: &[f32], id: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    (f64::from(logits[id as usize] - max) - sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use reheat_model::Qwen2Config;

    use super::*;

    /// The cache runs other matrix shapes than a fresh pass; both are f32.
    const LOGPROB_TOLERANCE: f32 = 1e-4;

    fn model() -> Qwen2 {
        Qwen2::random(&Qwen2Config::tiny(64), 11, &Device::flex())
    }

    fn greedy(max_new_tokens: usize) -> GenerateConfig {
        GenerateConfig { max_new_tokens, temperature: 0.0, ..GenerateConfig::default() }
    }

    #[test]
    fn the_cache_changes_no_logprob() {
        let model = model();
        let config = GenerateConfig { max_new_tokens: 30, seed: 3, ..GenerateConfig::default() };
        let prompt = [4, 9, 2];
        let generation = generate(&model, &prompt, &config, &mut |_| Flow::Continue).unwrap();
        let all: Vec<i32> = prompt.iter().chain(&generation.ids).map(|id| *id as i32).collect();
        let fresh = model.logits(&all).into_data();
        let fresh = fresh.as_slice::<f32>().unwrap();
        for (index, (id, ours)) in generation.ids.iter().zip(&generation.logprobs).enumerate() {
            let row = prompt.len() - 1 + index;
            let expected = logprob(&fresh[row * 64..][..64], *id);
            assert!((ours - expected).abs() <= LOGPROB_TOLERANCE, "token {index}: {ours}, expected {expected}");
        }
    }

    #[test]
    fn long_prompts_are_cut_into_chunks_without_effect() {
        let model = model();
        let prompt: Vec<i32> = (0..200).map(|i| i * 5 % 64).collect();
        let whole = KvCache::new(&model, 200).next_logits(&model, &prompt);
        let mut cache = KvCache::new(&model, 200);
        cache.next_logits(&model, &prompt[..70]);
        let cut = cache.next_logits(&model, &prompt[70..]);
        assert!((whole - cut).abs().max().into_scalar::<f32>() <= LOGPROB_TOLERANCE);
    }

    #[test]
    fn end_tokens_and_callers_stop() {
        let model = model();
        let free = generate(&model, &[1], &greedy(8), &mut |_| Flow::Continue).unwrap();
        assert_eq!((free.ids.len(), free.finish_reason), (8, FinishReason::Length));
        let config = GenerateConfig { eos_token_ids: vec![free.ids[0]], ..greedy(8) };
        let ended = generate(&model, &[1], &config, &mut |_| Flow::Continue).unwrap();
        assert_eq!((ended.ids.len(), ended.finish_reason), (1, FinishReason::Stop));
        let mut seen = 0;
        let stopped = generate(&model, &[1], &greedy(8), &mut |_| {
            seen += 1;
            if seen == 3 { Flow::Stop } else { Flow::Continue }
        });
        assert_eq!(stopped.unwrap().ids, free.ids[..3]);
    }

    #[test]
    fn the_context_is_the_limit() {
        let model = model();
        let prompt = vec![1; 250];
        let generation = generate(&model, &prompt, &greedy(100), &mut |_| Flow::Continue).unwrap();
        assert_eq!((generation.ids.len(), generation.finish_reason), (6, FinishReason::Length));
        let error = generate(&model, &[1; 256], &greedy(1), &mut |_| Flow::Continue).unwrap_err();
        assert_eq!(error.to_string(), "the prompt has 256 tokens, and the model's context holds 256");
        assert_eq!(generate(&model, &[], &greedy(1), &mut |_| Flow::Continue), Err(GenerateError::EmptyPrompt));
        assert!(generate(&model, &[64], &greedy(1), &mut |_| Flow::Continue).is_err());
    }
}
