//! Settings of methods that learn from their own completions, under TRL's names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schedule::{RolloutPlan, Schedule};
use crate::TrainingConfig;

/// How completions are drawn and used, whatever is then minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RolloutConfig {
    /// Completions of each prompt, 2 or more: they are compared with each other.
    pub num_generations: usize,
    /// Completions of each prompt in an evaluation; as in training when absent.
    pub num_generations_eval: Option<usize>,
    /// Longest completion in tokens, what tools say included.
    pub max_completion_length: usize,
    /// Completions that are drawn at a time; `per_device_train_batch_size` times `steps_per_generation` when absent.
    pub generation_batch_size: Option<usize>,
    /// Forward passes that completions drawn at a time are spread over; `gradient_accumulation_steps` when absent.
    pub steps_per_generation: Option<usize>,
    /// Times that each completion is trained on.
    pub num_iterations: usize,
    /// Completions under way at a time while they are drawn: bounds the memory of their keys and values.
    pub rollout_batch_size: usize,
    /// Divides the logits while sampling, and in the loss.
    pub temperature: f64,
    /// Draw among the most likely tokens that together hold this probability.
    pub top_p: f64,
    /// Draw among this many most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draw among the tokens with at least this share of the most likely one's probability.
    pub min_p: Option<f64>,
    /// Divides positive logits of tokens that prompt or completion have, and multiplies negative ones.
    pub repetition_penalty: f64,
    /// Weight of each reward; 1 each when absent.
    pub reward_weights: Option<Vec<f64>>,
    /// Leave completions out of the loss that were cut at `max_completion_length`.
    pub mask_truncated_completions: bool,
    /// Times that tools are called in the course of a completion, all calls of a turn together; no limit but the length
    /// when absent.
    pub max_tool_calling_iterations: Option<usize>,
    /// Let the reference follow the policy.
    pub sync_ref_model: bool,
    /// Share of the policy in each synchronisation.
    pub ref_model_mixup_alpha: f64,
    /// Optimizer steps between synchronisations.
    pub ref_model_sync_steps: u64,
}

impl Default for RolloutConfig {
    /// TRL 1.16's defaults for GRPO.
    fn default() -> Self {
        Self {
            num_generations: 8,
            num_generations_eval: None,
            max_completion_length: 512,
            generation_batch_size: None,
            steps_per_generation: None,
            num_iterations: 1,
            rollout_batch_size: 64,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: None,
            repetition_penalty: 1.0,
            reward_weights: None,
            mask_truncated_completions: false,
            max_tool_calling_iterations: None,
            sync_ref_model: false,
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
        }
    }
}

impl RolloutConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, message: String| {
            if !holds {
                faults.push(message);
            }
        };
        let Self { num_generations, temperature, top_p, repetition_penalty, .. } = *self;
        let above_0 = |value: f64| value.is_finite() && value > 0.0;
        require(
            num_generations >= 2,
            format!("num_generations is {num_generations}, expected 2 or more: completions of a prompt are compared"),
        );
        for (key, value) in [
            ("num_generations_eval", self.num_generations_eval),
            ("max_completion_length", Some(self.max_completion_length)),
            ("generation_batch_size", self.generation_batch_size),
            ("steps_per_generation", self.steps_per_generation),
            ("num_iterations", Some(self.num_iterations)),
            ("rollout_batch_size", Some(self.rollout_batch_size)),
        ] {
            require(value != Some(0), format!("{key} is 0, expected 1 or more"));
        }
        require(
            self.generation_batch_size.is_none() || self.steps_per_generation.is_none(),
            "generation_batch_size and steps_per_generation say the same: set one of them".into(),
        );
        require(above_0(temperature), format!("temperature is {temperature}, expected more than 0"));
        require(top_p > 0.0 && top_p <= 1.0, format!("top_p is {top_p}, expected more than 0 and at most 1"));
        if let Some(min_p) = self.min_p {
            require((0.0..=1.0).contains(&min_p), format!("min_p is {min_p}, expected 0 to 1"));
        }
        require(
            above_0(repetition_penalty),
            format!("repetition_penalty is {repetition_penalty}, expected more than 0"),
        );
        let weights = self.reward_weights.iter().flatten();
        require(
            weights.clone().all(|weight| weight.is_finite()),
            "reward_weights holds a value that is no number".into(),
        );
        let mixup = self.ref_model_mixup_alpha;
        require((0.0..=1.0).contains(&mixup), format!("ref_model_mixup_alpha is {mixup}, expected 0 to 1"));
        require(self.ref_model_sync_steps > 0, "ref_model_sync_steps is 0, expected 1 or more".into());
        faults
    }

    /// What the settings come to for so many prompts.
    ///
    /// # Errors
    /// Everything that is wrong with them, together with those of the loop.
    pub fn plan(&self, training: &TrainingConfig, num_prompts: usize) -> Result<RolloutPlan, Vec<String>> {
        match self.faults() {
            faults if !faults.is_empty() => Err(faults),
            _ => Ok(Schedule::new(self, training, num_prompts)?.plan()),
        }
    }

    /// What is wrong with the settings for so many rewards.
    pub fn reward_faults(&self, names: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        if names.is_empty() {
            faults.push("there is no reward".into());
        }
        if let Some(weights) = self.reward_weights.as_ref().filter(|weights| weights.len() != names.len()) {
            faults.push(format!("reward_weights has {} values for {} rewards", weights.len(), names.len()));
        }
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                faults.push(format!("two rewards are called `{name}`"));
            }
        }
        faults
    }

    /// The weight of each of `count` rewards.
    pub(crate) fn weights(&self, count: usize) -> Vec<f64> {
        self.reward_weights.clone().unwrap_or_else(|| vec![1.0; count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(RolloutConfig::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_named() {
        let config = RolloutConfig {
            num_generations: 1,
            generation_batch_size: Some(8),
            steps_per_generation: Some(2),
            temperature: 0.0,
            reward_weights: Some(vec![1.0, f64::NAN]),
            ..RolloutConfig::default()
        };
        assert_eq!(
            config.faults(),
            [
                "num_generations is 1, expected 2 or more: completions of a prompt are compared",
                "generation_batch_size and steps_per_generation say the same: set one of them",
                "temperature is 0, expected more than 0",
                "reward_weights holds a value that is no number",
            ]
        );
        assert_eq!(
            config.reward_faults(&["length", "length", "format"]),
            ["reward_weights has 2 values for 3 rewards", "two rewards are called `length`"]
        );
        assert_eq!(RolloutConfig::default().reward_faults(&[]), ["there is no reward"]);
    }
}
