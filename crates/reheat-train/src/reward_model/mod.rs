//! Reward models: a model with a head of one number, learned from pairs of a better and a worse answer (Ouyang et al.
//! 2022, InstructGPT, arXiv:2203.02155, equation 1; the model of Bradley and Terry 1952).
//!
//! With the head's number at the last token `r(x, y)`, one step minimises `-log σ(r(x, y⁺) - r(x, y⁻) - m)` in the mean
//! over its pairs, where `m` is the row's margin (Touvron et al. 2023, Llama 2, arXiv:2307.09288, equation 2) or 0, plus
//! `center_rewards_coefficient · (r(x, y⁺) + r(x, y⁻))²` (Eisenstein et al. 2023, arXiv:2312.09244, equation 2).
//!
//! Departs from TRL 1.16: the mean is over all pairs of a step, not a mean of means over micro-batches, and so are those
//! of the metrics but `min_reward` and `max_reward`.

mod config;
mod loss;
mod method;

pub use self::{
    config::RewardConfig,
    loss::ranking_losses,
    method::{RewardBatch, RewardTraining},
};
