//! What methods share that learn from their own completions: drawing them, judging them, and keeping them until they
//! are used up.
//!
//! A generation batch is drawn when the first of its micro-batches is due, by the model as it is before that step
//! ([`Schedule`]). Its completions are judged by the rewards, compared with those of their group by the method, and
//! trained on one or several times. What is left of it at a checkpoint is saved with it.

mod config;
mod schedule; // which completions a step trains on
mod sample; // prompts to completions
mod tool_calls; // completions that go on after tools have answered
mod score; // completions to rewards
mod batch; // completions as a forward pass and a loss take them
mod rollouts; // the generation batch under way
mod state; // the same in a checkpoint
mod method; // all of it as a method of the loop
mod record; // completions for a person
mod statistics; // means of numbers of which some are missing

pub use self::{
    batch::RolloutBatch,
    config::RolloutConfig,
    method::{RolloutObjective, RolloutTraining},
    record::{CompletionRecord, CompletionsFn},
    rollouts::{Judged, RolloutSetup},
    sample::{Completion, RolloutFn, ToolUse},
    schedule::RolloutPlan,
    score::Advantages,
};
use self::{batch::Sample, rollouts::Rollouts};
pub(crate) use self::{
    batch::numbers,
    statistics::{is_zero, mean, standard_deviation, weighted_sum},
};
