//! Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and its kin.
//!
//! A row is a prompt with a better and a worse answer. With the reward of an answer `β·log π(y|x)/π_ref(y|x)`, one step
//! minimises `-log σ(reward(better) - reward(worse))` in the mean over its pairs, or another loss of the same four
//! log-probabilities ([`DpoLossType`]); several can be summed. `π_ref` is the model as it was before training.
//!
//! Departs from TRL 1.16: the mean is over all pairs of a step, and that of the loss type `sft` over all its tokens, not
//! a mean of means over micro-batches, so that a step does not depend on how it is cut (but for `aot` and
//! `aot_unpaired`, which sort within a micro-batch); metrics are means over what they count; the reference is computed
//! before training unless that is impossible or refused; `use_weighting` works with every loss type that does not sort.

mod config;
mod batch;
mod loss;
mod reference;
mod method;
mod watch;

pub use self::{
    batch::{DpoBatch, ReferenceLogprobs},
    config::{DpoConfig, DpoLossType, FDivergence, FDivergenceType},
    loss::{PairLogprobs, PairLossSettings, pair_losses},
    method::Dpo,
    reference::{Reference, precompute_reference},
    watch::{DpoNotice, DpoWatch},
};
pub(crate) use self::{
    method::check_pairs,
    reference::{followed_weights, mix, with_followed_weights},
};
