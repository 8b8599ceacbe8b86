//! Prompts to completions.

use reheat_generate::{Flow, GenerateConfig, GenerateError, rollout};
use reheat_model::Qwen2;

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
}

/// Writes completions in place of the engine: gets the ids of each prompt and the number of completions of each, and
/// gives `completions[prompt][sample]`.
pub type RolloutFn = dyn FnMut(&[&[u32]], usize) -> Result<Vec<Vec<Completion>>, String> + Send;

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
    /// `num_generations` completions of each prompt, in the order of the prompts.
    pub(crate) fn complete(
        &mut self,
        model: &Qwen2,
        prompts: &[&[u32]],
        config: &RolloutConfig,
        eos_token_ids: &[u32],
        seed: u64,
    ) -> Result<Vec<Vec<Completion>>, TrainError> {
        match self {
            Self::Engine => {
                let sampling = sampling(config, eos_token_ids, seed);
                let prompts: Vec<Vec<u32>> = prompts.iter().map(|ids| ids.to_vec()).collect();
                let go_on = &mut |_, _, _: &_| Flow::Continue;
                let rollout = rollout(model, &prompts, &sampling, config.rollout_batch_size, go_on)?;
                let completions = rollout.completions.into_iter().map(|samples| {
                    samples.into_iter().map(|done| Completion { ids: done.ids, logprobs: done.logprobs }).collect()
                });
                Ok(completions.collect())
            }
            Self::Function(write) => {
                let completions = write(prompts, config.num_generations).map_err(TrainError::Rollout)?;
                check_shape(&completions, prompts.len(), config.num_generations).map_err(TrainError::Rollout)?;
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
        num_return_sequences: config.num_generations,
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
    }
    Ok(())
}

/// Whether the engine would take a prompt.
pub(crate) fn check_prompt(ids: &[u32], context: usize) -> Result<(), GenerateError> {
    match ids.len() {
        0 => Err(GenerateError::EmptyPrompt),
        tokens if tokens >= context => Err(GenerateError::PromptTooLong { tokens, context }),
        _ => Ok(()),
    }
}
