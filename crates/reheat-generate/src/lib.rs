//! Text generation on a Qwen2 model: a key-value cache, sampling with a seed, one token at a time.
//!
//! ```
//! use burn::tensor::Device;
//! use reheat_generate::{Flow, GenerateConfig, generate};
//! use reheat_model::{Qwen2, Qwen2Config};
//!
//! # fn main() -> Result<(), reheat_generate::GenerateError> {
//! let model = Qwen2::random(&Qwen2Config::tiny(64), 7, &Device::flex());
//! let config = GenerateConfig { max_new_tokens: 5, temperature: 0.0, ..GenerateConfig::default() };
//! let generation = generate(&model, &[1, 2, 3], &config, &mut |token| {
//!     assert!(token.logprob < 0.0);
//!     Flow::Continue
//! })?;
//! assert_eq!(generation.ids.len(), 5);
//! # Ok(())
//! # }
//! ```

mod generate; // prompt to completion
mod cache; // keys and values of the tokens so far
mod sample; // logits to the next token
mod error;

pub use self::{
    cache::KvCache,
    error::GenerateError,
    generate::{FinishReason, Flow, GenerateConfig, Generation, Token, generate},
    sample::Sampler,
};
