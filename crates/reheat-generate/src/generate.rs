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
    let request = |(index, prompt): (usize, &Vec<u32>)| RolloutRequest {
        prompt: prompt.clone(),
        config: config.clone(),
        stream: (index * config.num_return_sequences) as u64,
    };
    let requests: Vec<RolloutRequest> = prompts.iter().enumerate().map(request).collect();
    rollout_requests(model, &requests, max_batch_size, on_token)
}

/// A prompt that is completed in its own way.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutRequest {
    /// What is completed.
    pub prompt: Vec<u32>,
    /// How, and how often.
    pub config: GenerateConfig,
    /// The random stream of its first completion; the others have those that follow.
    pub stream: u64,
}

/// As [`rollout`], of prompts each with a configuration and random streams of its own.
///
/// # Errors
/// As [`rollout`].
pub fn rollout_requests(
    model: &Qwen2,
    prompts: &[RolloutRequest],
    max_batch_size: usize,
    on_token: &mut dyn FnMut(usize, usize, &Token) -> Flow,
) -> Result<Rollout, GenerateError> {
    let in_prompt = |index| move |source| GenerateError::InPrompt { index, source: Box::new(source) };
    let (mut longest, mut all) = (0, 0);
    for (index, RolloutRequest { prompt, config, .. }) in prompts.iter().enumerate() {
        let tokens = prompt.len() + budget(model, prompt, config).map_err(in_prompt(index))?;
        longest = longest.max(tokens);
        all += tokens * config.num_return_sequences;
    }
    let engine_config = EngineConfig {
        max_batch_size: max_batch_size.max(1),
        cache_tokens: (longest * max_batch_size.max(1)).min(all),
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model, engine_config);
    let mut requests: Vec<RequestId> = Vec::with_capacity(prompts.len());
    for (index, RolloutRequest { prompt, config, stream }) in prompts.iter().enumerate() {
        requests.push(engine.submit_with_stream(prompt, config, *stream).map_err(in_prompt(index))?);
    }
    let empty = Generation { ids: Vec::new(), logprobs: Vec::new(), finish_reason: FinishReason::Length };
    let mut completions: Vec<Vec<Generation>> =
        prompts.iter().map(|request| vec![empty.clone(); request.config.num_return_sequences]).collect();
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
