//! The objective of REINFORCE leave-one-out on completions.

use burn::tensor::Tensor;
use reheat_kernels::{TokenDerivatives, TokenLogprobs};
use serde_json::{Map, Value};

use super::{RlooConfig, RlooLoss, leave_one_out_advantages, rloo_loss};
use crate::method::settings_of;
use crate::rollout::{numbers, weighted_sum};
use crate::{Advantages, Judged, Measures, RolloutBatch, RolloutObjective, RolloutTraining};

/// REINFORCE leave-one-out on prompts.
pub type Rloo = RolloutTraining<RlooConfig>;

impl RlooConfig {
    fn loss(&self, logprobs: Tensor<1>, batch: &RolloutBatch) -> RlooLoss {
        let device = logprobs.device().inner();
        let mask = batch.completion_mask(&device);
        let sums = |values: Tensor<2>| (values * mask.clone()).sum_dim(1).squeeze_dim::<1>(1); // [batch]
        let logprobs = sums(batch.side_by_side(logprobs));
        let old = batch.old_logprobs(&device).map_or_else(|| logprobs.clone().detach(), sums);
        rloo_loss(logprobs, old, batch.advantages(&device).squeeze_dim::<1>(1), self)
    }
}

/// Turns a sum over the completions of a micro-batch into its part of a mean over those of the step.
fn share_of_step(batch: &RolloutBatch) -> f64 {
    1.0 / (batch.num_completions() * batch.accumulation_steps()) as f64
}

impl RolloutObjective for RlooConfig {
    const NAME: &'static str = "rloo";

    fn settings(&self) -> Map<String, Value> {
        settings_of(self)
    }

    fn faults(&self) -> Vec<String> {
        self.faults()
    }

    fn beta(&self) -> f64 {
        self.beta
    }

    /// The paper takes the divergence from the reward.
    fn judges_divergence(&self) -> bool {
        true
    }

    fn advantages(&self, judged: &Judged) -> Advantages {
        let sums: Vec<_> = judged.rewards.iter().map(|rewards| weighted_sum(rewards, judged.weights)).collect();
        leave_one_out_advantages(&sums, judged.divergences, judged.num_generations, self)
    }

    fn num_items(&self, batch: &RolloutBatch) -> u64 {
        batch.num_completions() as u64
    }

    fn derivatives(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> TokenDerivatives {
        let logprobs = tokens.logprobs.clone().autodiff().require_grad();
        let loss = self.loss(logprobs.clone(), batch).losses.sum() * share_of_step(batch);
        logprobs.grad(&loss.backward()).unwrap_or_else(|| tokens.logprobs.zeros_like()).into()
    }

    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> Measures {
        let RlooLoss { losses, low_clipped, high_clipped } = self.loss(tokens.logprobs.clone(), batch);
        let loss = numbers(losses).into_iter().map(f64::from).sum::<f64>() * share_of_step(batch);
        batch.measure_clipping(Measures::new(loss), &numbers(low_clipped), &numbers(high_clipped))
    }
}
