//! Prompts to completions.

use std::ops::Range;

use reheat_generate::{Flow, GenerateConfig, RolloutRequest, rollout_requests};
use reheat_model::Qwen2;
use serde_json::Value;

use super::RolloutConfig;
use crate::TrainError;

/// A completion of a prompt.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Completion {
    /// Its ids; an end token is the last.
    pub ids: Vec<u32>,
    /// Log-probability of each id when it was drawn, at the temperature of sampling but before any filter, in nats. Empty
    /// where it is not known.
    pub logprobs: Vec<f32>,
    /// What tools had to do with it.
    pub tool_use: ToolUse,
}

/// Tools in the course of a completion.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolUse {
    /// Which of the ids the model did not write, ascending: they stand in the sequence and count in no loss.
    pub spans: Vec<Range<usize>>,
    /// Calls that were made.
    pub num_calls: usize,
    /// Calls that gave no result.
    pub num_failures: usize,
    /// The turns as messages, where there was a call.
    pub messages: Vec<Value>,
}

/// Writes completions in place of the engine: gets the ids of each prompt and the number of completions of each, and
/// gives `completions[prompt][sample]`. Where tools were called, it is asked again for one completion of each
/// conversation as it stands.
pub type RolloutFn = dyn FnMut(&[&[u32]], usize) -> Result<Vec<Vec<Completion>>, String> + Send;

/// Ids to be continued.
pub(super) struct Request<'a> {
    pub(super) ids: &'a [u32],
    /// Tokens that may follow.
    pub(super) budget: usize,
    /// The random stream of the first completion; the others have those that follow.
    pub(super) stream: u64,
}

/// Where completions come from.
pub(crate) enum Source {
    Engine,
    Function(Box<RolloutFn>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Engine => "Engine",
            Self::Function(_) => "Function",
        })
    }
}

impl Source {
    /// `count` completions of each request, in their order.
    pub(super) fn complete(
        &mut self,
        model: &Qwen2,
        requests: &[Request<'_>],
        count: usize,
        config: &RolloutConfig,
        (eos_token_ids, seed): (&[u32], u64),
    ) -> Result<Vec<Vec<Completion>>, TrainError> {
        match self {
            Self::Engine => {
                let sampling = sampling(config, eos_token_ids, seed);
                let request = |request: &Request<'_>| RolloutRequest {
                    prompt: request.ids.to_vec(),
                    config: GenerateConfig {
                        max_new_tokens: request.budget,
                        num_return_sequences: count,
                        ..sampling.clone()
                    },
                    stream: request.stream,
                };
                let requests: Vec<RolloutRequest> = requests.iter().map(request).collect();
                let go_on = &mut |_, _, _: &_| Flow::Continue;
                let rollout = rollout_requests(model, &requests, config.rollout_batch_size, go_on)?;
                let completions = rollout.completions.into_iter().map(|samples| {
                    let completion = |done: reheat_generate::Generation| Completion {
                        ids: done.ids,
                        logprobs: done.logprobs,
                        ..Completion::default()
                    };
                    samples.into_iter().map(completion).collect()
                });
                Ok(completions.collect())
            }
            Self::Function(write) => {
                let prompts: Vec<&[u32]> = requests.iter().map(|request| request.ids).collect();
                let mut completions = write(&prompts, count).map_err(TrainError::Rollout)?;
                check_shape(&completions, prompts.len(), count).map_err(TrainError::Rollout)?;
                for (group, request) in completions.iter_mut().zip(requests) {
                    for completion in group {
                        completion.ids.truncate(request.budget);
                        completion.logprobs.truncate(request.budget);
                    }
                }
                Ok(completions)
            }
        }
    }
}

/// How the engine draws.
pub(crate) fn sampling(config: &RolloutConfig, eos_token_ids: &[u32], seed: u64) -> GenerateConfig {
    GenerateConfig {
        max_new_tokens: config.max_completion_length,
        temperature: config.temperature as f32,
        top_k: config.top_k,
        top_p: config.top_p as f32,
        min_p: config.min_p.unwrap_or(0.0) as f32,
        repetition_penalty: config.repetition_penalty as f32,
        tempered_logprobs: true,
        seed,
        eos_token_ids: eos_token_ids.to_vec(),
        ..GenerateConfig::default()
    }
}

fn check_shape(completions: &[Vec<Completion>], num_prompts: usize, num_generations: usize) -> Result<(), String> {
    if completions.len() != num_prompts {
        return Err(format!("{} groups of completions for {num_prompts} prompts", completions.len()));
    }
    for (index, group) in completions.iter().enumerate() {
        if group.len() != num_generations {
            return Err(format!("{} completions of prompt {index}, expected {num_generations}", group.len()));
        }
        if group.iter().any(|completion| completion.ids.is_empty()) {
            return Err(format!("a completion of prompt {index} has no token"));
        }
        if group.iter().any(|one| !one.logprobs.is_empty() && one.logprobs.len() != one.ids.len()) {
            return Err(format!(
                "a completion of prompt {index} has another number of log-probabilities than of tokens"
            ));
        }
        let in_order = |spans: &[Range<usize>], len: usize| {
            let ends = spans.iter().scan(0, |end, span| Some(std::mem::replace(end, span.end) <= span.start));
            ends.chain([spans.last().is_none_or(|span| span.end <= len)]).all(|holds| holds)
        };
        if !group.iter().all(|one| in_order(&one.tool_use.spans, one.ids.len())) {
            return Err(format!("a completion of prompt {index} has spans of tools that are not in its order"));
        }
    }
    Ok(())
}
