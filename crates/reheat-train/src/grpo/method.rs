//! Group relative policy optimisation on the shared loop.

use burn::tensor::Tensor;
use reheat_data::Batch;
use reheat_kernels::{TokenDerivatives, TokenLogprobs};
use reheat_model::Qwen2Config;
use serde_json::{Map, Value, json};

use super::entropy::EntropyControl;
use super::{GrpoConfig, GrpoLoss, GrpoTokens, Normalizer, Ratios, group_advantages, grpo_loss};
use crate::rollout::{Judged, OldLogprobs, Purpose, RolloutBatch, RolloutSetup, Rollouts, numbers};
use crate::{Measures, Method, MethodState, Objective, StepContext, TrainError, TrainingConfig};

/// Name of the entropy bonus' weight in a checkpoint.
const ENTROPY: &str = "entropy_control";

/// Group relative policy optimisation on prompts.
///
/// The loop's rows are completions, as often as they are trained on: see [`RolloutConfig`](crate::RolloutConfig).
#[expect(missing_debug_implementations, reason = "rewards may have nothing to show")]
pub struct Grpo {
    rollouts: Rollouts,
    config: GrpoConfig,
    entropy: EntropyControl,
}

impl Grpo {
    /// Training on the completions of `setup`; `training` is what the loop is given too.
    ///
    /// # Errors
    /// If a setting is out of range, or settings do not go together: all faults in one error.
    pub fn new(setup: RolloutSetup, config: GrpoConfig, training: &TrainingConfig) -> Result<Self, TrainError> {
        Self::of(setup, config, training, Purpose::Training)
    }

    /// An evaluation on the completions of `setup`, for [`Trainer::with_evaluation`](crate::Trainer::with_evaluation):
    /// `num_generations_eval` of each prompt, drawn with the same random numbers every time.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_evaluation(
        setup: RolloutSetup,
        config: GrpoConfig,
        training: &TrainingConfig,
    ) -> Result<Self, TrainError> {
        Self::of(setup, config, training, Purpose::Evaluation)
    }

    fn of(
        setup: RolloutSetup,
        config: GrpoConfig,
        training: &TrainingConfig,
        purpose: Purpose,
    ) -> Result<Self, TrainError> {
        let old = OldLogprobs::WhereItChanges;
        let rollouts = Rollouts::new(setup, training, old, purpose, config.beta, config.faults())?;
        Ok(Self { rollouts, entropy: EntropyControl::new(&config), config })
    }

    /// The micro-batch's part of the step's loss.
    fn loss(&self, logprobs: Tensor<1>, entropy: Tensor<1>, batch: &RolloutBatch) -> GrpoLoss {
        let device = logprobs.device().inner();
        let tokens = GrpoTokens {
            logprobs: batch.side_by_side(logprobs),
            old_logprobs: batch.old_logprobs(&device),
            ref_logprobs: batch.ref_logprobs(&device),
            entropy: batch.side_by_side(entropy),
            completion_mask: batch.completion_mask(&device),
            advantages: batch.advantages(&device),
        };
        let normalizer = Normalizer {
            accumulation_steps: batch.place.accumulation_steps as f64,
            num_items_in_batch: batch.place.num_items_in_batch,
            max_completion_length: self.rollouts.max_completion_length() as f64,
        };
        grpo_loss(&tokens, &self.config, self.entropy.applied(&self.config), &normalizer)
    }
}

impl Method for Grpo {
    type Batch = RolloutBatch;

    fn num_rows(&self) -> usize {
        self.rollouts.num_rows()
    }

    fn identity(&self) -> Map<String, Value> {
        self.rollouts.identity("grpo", json!(self.config))
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        self.rollouts.check(model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<RolloutBatch>, TrainError> {
        let config = &self.config;
        self.rollouts.batches(indices, context, &|judged: &Judged| {
            let Judged { rewards, weights, num_generations, .. } = *judged;
            (group_advantages(rewards, weights, num_generations, config), Measures::default())
        })
    }

    fn dataset_rows(&self, batches: &[RolloutBatch], _indices: &[usize]) -> Vec<usize> {
        RolloutBatch::prompts_of(batches)
    }

    fn temperature(&self) -> f64 {
        self.rollouts.temperature()
    }

    fn sequences<'a>(&self, batch: &'a RolloutBatch) -> &'a Batch {
        batch.sequences()
    }

    fn num_items(&self, batch: &RolloutBatch) -> u64 {
        batch.num_items()
    }

    /// The divisor is that of the batch, not `num_items_in_batch`: it may span steps.
    fn objective<'a>(&'a self, batch: &'a RolloutBatch, _num_items_in_batch: u64) -> Objective<'a> {
        Objective::WithEntropy(Box::new(move |tokens| {
            let logprobs = tokens.logprobs.clone().autodiff().require_grad();
            if !self.config.has_entropy_bonus() {
                let gradients = self.loss(logprobs.clone(), tokens.entropy.clone(), batch).loss.backward();
                return logprobs.grad(&gradients).unwrap_or_else(|| tokens.logprobs.zeros_like()).into();
            }
            let entropy = tokens.entropy.clone().autodiff().require_grad();
            let gradients = self.loss(logprobs.clone(), entropy.clone(), batch).loss.backward();
            TokenDerivatives {
                logprobs: logprobs.grad(&gradients).unwrap_or_else(|| tokens.logprobs.zeros_like()),
                entropy: entropy.grad(&gradients),
            }
        }))
    }

    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs, _num_items_in_batch: u64) -> Measures {
        let GrpoLoss { loss, policy_loss, kl, ratios, entropy_mask } =
            self.loss(tokens.logprobs.clone(), tokens.entropy.clone(), batch);
        let first = |values: Tensor<1>| f64::from(numbers(values)[0]);
        let mut measures = batch.measure(batch.summed(first(loss), batch.num_items()), tokens);
        if let Some(kl) = kl {
            measures = measures.with("kl", batch.masked_sum(&numbers(kl)), batch.num_items() as f64);
        }
        measures = match ratios {
            Ratios::Clipped { low, high } => batch.measure_clipping(measures, &numbers(low), &numbers(high)),
            Ratios::Capped(capped) => {
                let (sum, count) = batch.sum_and_count(&numbers(capped));
                measures.with("cispo_clip_ratio", sum, count)
            }
            Ratios::Weighed(phi) => {
                let (sum, count) = batch.sum_and_count(&numbers(phi));
                measures.with("vespo/phi_seq_mean", sum, count)
            }
            Ratios::Gated => measures,
        };
        if self.config.has_entropy_bonus() {
            measures = measures.with("policy_loss", first(policy_loss), 1.0);
            let entropy = batch.side_by_side(tokens.entropy.clone()) * entropy_mask.clone();
            let (sum, count) = (first(entropy.sum()), first(entropy_mask.sum()));
            self.entropy.observe(&self.config, sum, count, batch.place.is_last);
            if batch.place.is_last {
                measures = measures.with("entropy_coef", self.entropy.coef(), 1.0);
            }
        }
        measures
    }

    fn state(&self) -> MethodState {
        let mut state = self.rollouts.state();
        state.values.extend(self.entropy.state(&self.config).map(|value| (ENTROPY.to_owned(), value)));
        state
    }

    fn restore(&mut self, mut state: MethodState) -> Result<(), String> {
        self.entropy.restore(&mut state.values, ENTROPY)?;
        self.rollouts.restore(state)
    }
}
