//! Prompts to completions.

use reheat_model::Qwen2;

use crate::engine::budget;
use crate::{
    Engine, EngineConfig, EngineStats, EventKind, FinishReason, Flow, GenerateConfig, GenerateError, Generation,
    RequestId, Token,
};

/// Continues `prompt`, handing each token to `on_token` as it is drawn; gives the completion and what it cost.
///
/// # Errors
/// If the prompt is empty, longer than the context, or has unknown ids; a sampling value is out of range; or the model
/// gives logits that are not numbers.
pub fn generate(
    model: &Qwen2,
    prompt: &[u32],
    config: &GenerateConfig,
    on_token: &mut dyn FnMut(&Token) -> Flow,
) -> Result<(Generation, EngineStats), GenerateError> {
    let config = GenerateConfig { num_return_sequences: 1, ..config.clone() };
    let prompts = [prompt.to_vec()];
    let rollout = rollout(model, &prompts, &config, 1, &mut |_, _, token| on_token(token));
    let Rollout { mut completions, stats } = rollout.map_err(|error| match error {
        GenerateError::InPrompt { source, .. } => *source,
        other => other,
    })?;
    Ok((completions.swap_remove(0).swap_remove(0), stats))
}

/// Whether [`generate`] would take a request.
///
/// # Errors
/// As [`generate`], but for what the model's logits may turn out to be.
pub fn check(model: &Qwen2, prompt: &[u32], config: &GenerateConfig) -> Result<(), GenerateError> {
    budget(model, prompt, config).map(|_| ())
}

/// Completions of many prompts, and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// `completions[prompt][sample]`.
    pub completions: Vec<Vec<Generation>>,
    /// Tokens and times.
    pub stats: EngineStats,
}

/// Draws [`GenerateConfig::num_return_sequences`] completions of each of `prompts`, up to `max_batch_size` at a time.
///
/// `on_token` gets the index of the prompt, the sample and the token, and may end that one completion.
/// Every completion has a random stream of its own, so that equal prompts get different ones.
///
/// # Errors
/// The first prompt that [`generate`] would refuse or fail on, as [`GenerateError::InPrompt`].
pub fn rollout(
    model: &Qwen2,
    prompts: &[Vec<u32>],
    config: &GenerateConfig,
    max_batch_size: usize,
    on_token: &mut dyn FnMut(usize, usize, &Token) -> Flow,
) -> Result<Rollout, GenerateError> {
    let in_prompt = |index| move |source| GenerateError::InPrompt { index, source: Box::new(source) };
    let count = config.num_return_sequences;
    let mut lengths = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        lengths.push(prompt.len() + budget(model, prompt, config).map_err(in_prompt(index))?);
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let engine_config = EngineConfig {
        max_batch_size: max_batch_size.max(1),
        cache_tokens: (longest * max_batch_size.max(1)).min(lengths.iter().sum::<usize>() * count),
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model, engine_config);
    let mut requests: Vec<RequestId> = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let stream = (index * count) as u64;
        requests.push(engine.submit_with_stream(prompt, config, stream).map_err(in_prompt(index))?);
    }
    let empty = Generation { ids: Vec::new(), logprobs: Vec::new(), finish_reason: FinishReason::Length };
    let mut completions = vec![vec![empty; count]; prompts.len()];
    while !engine.is_idle() {
        for event in engine.step() {
            // Ids ascend with the prompts.
            let index = requests.partition_point(|request| *request < event.request);
            let completion = &mut completions[index][event.sample];
            match event.kind {
                EventKind::Token(token) => {
                    completion.ids.push(token.id);
                    completion.logprobs.push(token.logprob);
                    if on_token(index, event.sample, &token) == Flow::Stop {
                        completion.finish_reason = FinishReason::Stop;
                        engine.stop(event.request, event.sample);
                    }
                }
                EventKind::Finished(reason) => {
                    // A caller's stop at the last token stays one.
                    if completion.finish_reason == FinishReason::Length {
                        completion.finish_reason = reason;
                    }
                }
                EventKind::Failed(error) => return Err(in_prompt(index)(error)),
            }
        }
    }
    Ok(Rollout { completions, stats: engine.stats().clone() })
}
