//! Group relative policy optimisation (Shao et al. 2024, DeepSeekMath, arXiv:2402.03300) and its kin.
//!
//! A row is a prompt. The policy completes it `num_generations` times; rewards judge each completion, and its
//! *advantage* is how much better it is than the others of its group, in standard deviations. One step makes tokens of
//! better completions likelier and of worse ones less likely, by the clipped surrogate or another loss of the same
//! numbers ([`GrpoLossType`]), less `beta` times the KL divergence from a reference.
//!
//! On the first pass over fresh completions every ratio is 1 and the loss is the mean of the advantages, which is 0 by
//! construction where completions have one length: it is the gradient that teaches.
//!
//! Departs from TRL 1.16: means over tokens among the metrics are over all of a window, not means of means over
//! micro-batches. Advantages are computed in f64. `old` log-probabilities, which TRL leaves out as well where the
//! policy is the one that wrote, are those of the training forward pass; the sampler's own are only compared with them.

mod config;
mod advantages;
mod loss;
mod entropy;
mod method;

pub use self::{
    advantages::group_advantages,
    config::{GrpoConfig, GrpoLossType, ImportanceSamplingLevel, MultiObjectiveAggregation, ScaleRewards},
    loss::{GrpoLoss, GrpoTokens, Normalizer, Ratios, grpo_loss},
    method::{Grpo, GrpoObjective},
};
