//! Supervised fine-tuning: maximum likelihood of the trained tokens.
//!
//! One optimizer step minimises `-Σ log p(y_t) / N` over the trained tokens of all its micro-batches, with `N` their
//! number (TRL 1.16, `sft_trainer.py`), so that neither the micro-batch size nor the order within a step changes the
//! gradient beyond rounding.
//!
//! With `label_smoothing_factor` ε the loss of a token is `-(1 - ε) log p(y_t) - ε mean log p`, the mean being over the
//! vocabulary (transformers 5.23, `LabelSmoother`).
//!
//! Departs from TRL 1.16: sequences are laid end to end instead of padded (the numbers are the same); `entropy` and
//! `mean_token_accuracy` are means over tokens, not over micro-batches; a loss that is not finite stops the run instead
//! of being left out of the log.

mod config;
mod loss;
mod method;

pub use self::{
    config::{LossType, SftConfig},
    method::Sft,
};
