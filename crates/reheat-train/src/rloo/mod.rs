//! REINFORCE leave-one-out (Ahmadian et al. 2024, Back to Basics, arXiv:2402.14740).
//!
//! A row is a prompt. The policy completes it `num_generations` times; a completion's advantage is its reward, less
//! `beta` times the KL divergence from the reference, less the mean of the others' of its prompt. One step maximises the
//! advantage weighted by the clipped ratio of whole completions.
//!
//! Departs from TRL 1.16: means over tokens among the metrics are over all of a window, not means of means over
//! micro-batches. Advantages are computed in f64.

mod config;
mod advantages;
mod loss;
mod method;

pub use self::{
    advantages::leave_one_out_advantages,
    config::RlooConfig,
    loss::{RlooLoss, rloo_loss},
    method::Rloo,
};
