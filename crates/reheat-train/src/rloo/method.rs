//! REINFORCE leave-one-out on the shared loop.

use burn::tensor::Tensor;
use reheat_data::Batch;
use reheat_kernels::TokenLogprobs;
use reheat_model::Qwen2Config;
use serde_json::{Map, Value, json};

use super::{RlooConfig, RlooLoss, leave_one_out_advantages, rloo_loss};
use crate::rollout::{
    Judged, OldLogprobs, Purpose, RolloutBatch, RolloutSetup, Rollouts, Sample, numbers, weighted_sum,
};
use crate::{Measures, Method, MethodState, Objective, StepContext, TrainError, TrainingConfig};

/// REINFORCE leave-one-out on prompts.
///
/// The loop's rows are completions, as often as they are trained on: see [`RolloutConfig`](crate::RolloutConfig).
#[expect(missing_debug_implementations, reason = "rewards may have nothing to show")]
pub struct Rloo {
    rollouts: Rollouts,
    config: RlooConfig,
}

impl Rloo {
    /// Training on the completions of `setup`; `training` is what the loop is given too.
    ///
    /// # Errors
    /// If a setting is out of range, or settings do not go together: all faults in one error.
    pub fn new(setup: RolloutSetup, config: RlooConfig, training: &TrainingConfig) -> Result<Self, TrainError> {
        Self::of(setup, config, training, Purpose::Training)
    }

    /// An evaluation on the completions of `setup`, for [`Trainer::with_evaluation`](crate::Trainer::with_evaluation):
    /// `num_generations_eval` of each prompt, drawn with the same random numbers every time.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_evaluation(
        setup: RolloutSetup,
        config: RlooConfig,
        training: &TrainingConfig,
    ) -> Result<Self, TrainError> {
        Self::of(setup, config, training, Purpose::Evaluation)
    }

    fn of(
        setup: RolloutSetup,
        config: RlooConfig,
        training: &TrainingConfig,
        purpose: Purpose,
    ) -> Result<Self, TrainError> {
        let old = OldLogprobs::Always;
        let rollouts = Rollouts::new(setup, training, old, purpose, config.beta, config.faults())?;
        Ok(Self { rollouts, config })
    }

    fn loss(&self, logprobs: Tensor<1>, batch: &RolloutBatch) -> RlooLoss {
        let device = logprobs.device().inner();
        let mask = batch.completion_mask(&device);
        let sums = |values: Tensor<2>| (values * mask.clone()).sum_dim(1).squeeze_dim::<1>(1); // [batch]
        let old = batch.old_logprobs(&device).expect("they are computed for every completion");
        let advantages = batch.advantages(&device).squeeze_dim::<1>(1);
        rloo_loss(sums(batch.side_by_side(logprobs)), sums(old), advantages, &self.config)
    }
}

/// Turns a sum over the completions of a micro-batch into its part of a mean over those of the step.
fn share_of_step(batch: &RolloutBatch) -> f64 {
    1.0 / (batch.shape[0] * batch.place.accumulation_steps) as f64
}

/// Sum over the tokens that count of `log π_old - log π_ref`, of each completion: the estimate of the KL divergence that
/// the paper takes from the reward.
fn kls(samples: &[Sample]) -> Vec<f64> {
    let of = |sample: &Sample| {
        let terms = sample.old_logprobs.iter().zip(&sample.ref_logprobs).zip(sample.counting());
        terms.filter(|(_, counts)| *counts).map(|((old, reference), _)| f64::from(old - reference)).sum()
    };
    samples.iter().map(of).collect()
}

impl Method for Rloo {
    type Batch = RolloutBatch;

    fn num_rows(&self) -> usize {
        self.rollouts.num_rows()
    }

    fn identity(&self) -> Map<String, Value> {
        self.rollouts.identity("rloo", json!(self.config))
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        self.rollouts.check(model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<RolloutBatch>, TrainError> {
        let config = &self.config;
        self.rollouts.batches(indices, context, &|judged: &Judged| {
            let sums: Vec<_> = judged.rewards.iter().map(|rewards| weighted_sum(rewards, judged.weights)).collect();
            let kls = kls(judged.samples);
            let advantages = leave_one_out_advantages(&sums, &kls, judged.num_generations, config);
            let mut measures = Measures::default();
            if config.beta != 0.0 {
                let num_tokens = judged.samples.iter().map(Sample::num_counting).sum::<usize>();
                measures = measures.with("kl", kls.iter().sum(), num_tokens as f64);
            }
            (advantages, measures)
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
        batch.shape[0] as u64
    }

    fn objective<'a>(&'a self, batch: &'a RolloutBatch, _num_items_in_batch: u64) -> Objective<'a> {
        Objective::Whole(Box::new(move |tokens| {
            let logprobs = tokens.logprobs.clone().autodiff().require_grad();
            let loss = self.loss(logprobs.clone(), batch).losses.sum() * share_of_step(batch);
            logprobs.grad(&loss.backward()).unwrap_or_else(|| tokens.logprobs.zeros_like())
        }))
    }

    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs, _num_items_in_batch: u64) -> Measures {
        let RlooLoss { losses, low_clipped, high_clipped } = self.loss(tokens.logprobs.clone(), batch);
        let loss = numbers(losses).into_iter().map(f64::from).sum::<f64>() * share_of_step(batch);
        let loss = batch.summed(loss, self.num_items(batch));
        batch.measure_clipping(batch.measure(loss, tokens), &numbers(low_clipped), &numbers(high_clipped))
    }

    fn state(&self) -> MethodState {
        self.rollouts.state()
    }

    fn restore(&mut self, state: MethodState) -> Result<(), String> {
        self.rollouts.restore(state)
    }
}
