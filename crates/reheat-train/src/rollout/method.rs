//! What learns from its own completions, as a method of the loop, whatever is minimised.

use reheat_data::Batch;
use reheat_kernels::{TokenDerivatives, TokenLogprobs};
use reheat_model::Qwen2Config;
use serde_json::{Map, Value};

use super::rollouts::{Asks, Purpose, Rollouts};
use super::{Advantages, Judged, RolloutBatch, RolloutSetup};
use crate::{Measures, Method, MethodState, Objective, StepContext, TrainError, TrainingConfig};

/// What is minimised over completions that were judged: all in which methods differ that learn from their own.
///
/// [`RolloutTraining`] draws, judges, keeps and resumes; this says what a completion's advantage is, and what the loss is.
/// [`GrpoObjective`](crate::GrpoObjective) and [`RlooConfig`](crate::RlooConfig) are two.
pub trait RolloutObjective {
    /// Such as `grpo`.
    const NAME: &'static str;

    /// Its settings by name: what a run must have in common with one that it continues.
    fn settings(&self) -> Map<String, Value>;

    /// Everything that is wrong with them.
    fn faults(&self) -> Vec<String> {
        Vec::new()
    }

    /// Weight of the KL divergence from the reference; 0 needs no reference.
    fn beta(&self) -> f64 {
        0.0
    }

    /// Whether [`advantages`](Self::advantages) depend on the KL divergences.
    fn judges_divergence(&self) -> bool {
        false
    }

    /// How much better each completion is than what it is compared with.
    fn advantages(&self, judged: &Judged) -> Advantages;

    /// How much of a micro-batch the loss is a mean over, as in [`Method::num_items`]: tokens, unless it says otherwise.
    fn num_items(&self, batch: &RolloutBatch) -> u64 {
        batch.num_items()
    }

    /// Derivatives of the step's loss with respect to what the head says about a micro-batch.
    fn derivatives(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> TokenDerivatives;

    /// The micro-batch's part of the step's loss, and metrics of its own. Those of the completions, such as rewards,
    /// lengths, entropy and times, are told for every objective.
    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs) -> Measures;

    /// What it carries from step to step.
    fn state(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Takes its part of what [`state`](Self::state) gave out of `values`.
    ///
    /// # Errors
    /// What is wrong with it.
    fn restore(&mut self, _values: &mut Map<String, Value>) -> Result<(), String> {
        Ok(())
    }
}

/// A method that completes prompts, has the completions judged, and trains on them.
///
/// The loop's rows are completions, as often as they are trained on: see [`RolloutConfig`](crate::RolloutConfig).
#[expect(missing_debug_implementations, reason = "rewards may have nothing to show")]
pub struct RolloutTraining<O> {
    rollouts: Rollouts,
    objective: O,
}

impl<O: RolloutObjective> RolloutTraining<O> {
    /// Training on the completions of `setup`; `training` is what the loop is given too.
    ///
    /// # Errors
    /// If a setting is out of range, or settings do not go together: all faults in one error.
    pub fn new(setup: RolloutSetup, objective: impl Into<O>, training: &TrainingConfig) -> Result<Self, TrainError> {
        Self::of(setup, objective.into(), training, Purpose::Training)
    }

    /// An evaluation on the completions of `setup`, for [`Trainer::with_evaluation`](crate::Trainer::with_evaluation):
    /// `num_generations_eval` of each prompt, drawn with the same random numbers every time.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_evaluation(
        setup: RolloutSetup,
        objective: impl Into<O>,
        training: &TrainingConfig,
    ) -> Result<Self, TrainError> {
        Self::of(setup, objective.into(), training, Purpose::Evaluation)
    }

    fn of(setup: RolloutSetup, objective: O, training: &TrainingConfig, purpose: Purpose) -> Result<Self, TrainError> {
        let asks = Asks {
            beta: objective.beta(),
            judges_divergence: objective.judges_divergence(),
            faults: objective.faults(),
        };
        Ok(Self { rollouts: Rollouts::new(setup, training, purpose, asks)?, objective })
    }
}

impl<O: RolloutObjective> Method for RolloutTraining<O> {
    type Batch = RolloutBatch;

    fn num_rows(&self) -> usize {
        self.rollouts.num_rows()
    }

    fn identity(&self) -> Map<String, Value> {
        self.rollouts.identity(O::NAME, self.objective.settings())
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        self.rollouts.check(model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<RolloutBatch>, TrainError> {
        self.rollouts.batches(indices, context, &|judged: &Judged| self.objective.advantages(judged))
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
        self.objective.num_items(batch)
    }

    /// The divisor is that of the batch, not `num_items_in_batch`: it may span steps.
    fn objective<'a>(&'a self, batch: &'a RolloutBatch, _num_items_in_batch: u64) -> Objective<'a> {
        Objective::WithEntropy(Box::new(move |tokens| self.objective.derivatives(batch, tokens)))
    }

    fn measure(&self, batch: &RolloutBatch, tokens: &TokenLogprobs, _num_items_in_batch: u64) -> Measures {
        let mut measures = self.objective.measure(batch, tokens);
        measures.loss = batch.summed(measures.loss, self.objective.num_items(batch));
        batch.measure(measures, tokens)
    }

    fn state(&self) -> MethodState {
        let mut state = self.rollouts.state();
        state.values.extend(self.objective.state());
        state
    }

    fn restore(&mut self, mut state: MethodState) -> Result<(), String> {
        self.objective.restore(&mut state.values)?;
        self.rollouts.restore(state)
    }

    /// The reference is the one that training has.
    fn follow(&mut self, training: &Self) {
        self.rollouts.follow(&training.rollouts);
    }
}
