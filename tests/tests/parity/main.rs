//! Ours against the reference implementations, on the tiny models under `tests/fixtures`.
//!
//! The values come from the scripts in `tests/golden`.

mod dpo; // preference training
mod adapters; // LoRA and its kin
mod eight_bit; // moments in 8 bits
mod forward; // logits
mod greedy; // generation
mod grpo; // training on the model's own completions
mod sampling; // distributions and batches
mod optimizers; // updates and learning rates
mod quantized; // 4-bit weights
mod kto; // training on good and bad answers
mod reward; // training of reward models
mod rewards; // what completions are worth
mod sft; // training
mod transformers; // what we save, loaded by Python
