//! Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are good or bad on their own.
//!
//! A row is a prompt, an answer, and whether the answer is good. With the log-ratio `x = log π(y|x)/π_ref(y|x)` and
//! `z = max(0, mean over the micro-batch of the log-ratios of answers to other prompts)`, one step minimises in the mean
//! over its rows `w_D·(1 - σ(β(x - z)))` for good answers and `w_U·(1 - σ(β(z - x)))` for bad ones (equations 7 and 8).
//! No gradient goes through `z`.
//!
//! Departs from TRL 1.16: the mean is over all rows of a step, not a mean of means over micro-batches; metrics are means
//! over what they count. As there, a row's answer to another prompt is that of the row before it within blocks of
//! `per_device_train_batch_size` rows of the dataset, so that `z` depends on the micro-batch size.

mod config;
mod loss;
mod method;

pub use self::{
    config::{KtoConfig, KtoLossType},
    loss::{UnpairedLossSettings, unpaired_losses},
    method::{Kto, KtoBatch},
};
