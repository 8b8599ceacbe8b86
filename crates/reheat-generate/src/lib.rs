//! Text generation on a Qwen2 model: a key-value cache, sampling with a seed, many completions at a time.
//!
//! [`generate`] continues one prompt, [`rollout`] completes many, and an [`Engine`] takes requests as they come.
//! [`next_tokens`] and its neighbours look at distributions instead of drawing from them.
//!
//! ```
//! use reheat_generate::{Flow, GenerateConfig, generate};
//! use reheat_model::{Device, Qwen2, Qwen2Config};
//!
//! # fn main() -> Result<(), reheat_generate::GenerateError> {
//! let model = Qwen2::random(&Qwen2Config::tiny(64), 7, &Device::flex());
//! let config = GenerateConfig { max_new_tokens: 5, temperature: 0.0, ..GenerateConfig::default() };
//! let (generation, _stats) = generate(&model, &[1, 2, 3], &config, &mut |token| {
//!     assert!(token.logprob < 0.0);
//!     Flow::Continue
//! })?;
//! assert_eq!(generation.ids.len(), 5);
//! # Ok(())
//! # }
//! ```
//!
//! Tokens alone are known here. With `reheat-tokenizer`, a checkpoint in a folder continues a text, and the text appears
//! as it is drawn:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use reheat_generate::{Flow, GenerateConfig, generate};
//! use reheat_model::{Device, Qwen2};
//! use reheat_tokenizer::{DecodeMode, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = Path::new("Qwen2.5-0.5B");
//! let tokenizer = Tokenizer::from_dir(folder)?;
//! let model = Qwen2::load(folder, &Device::flex())?;
//! let prompt = tokenizer.encode_with_special_tokens("Octopuses have three")?.ids;
//! let config = GenerateConfig { eos_token_ids: tokenizer.eos_ids().to_vec(), ..GenerateConfig::default() };
//! let mut text = tokenizer.decode_stream(DecodeMode::SkipSpecialTokens);
//! generate(&model, &prompt, &config, &mut |token| {
//!     // A character may take several tokens; it comes with its last one.
//!     if let Ok(Some(piece)) = text.push(token.id) {
//!         print!("{piece}");
//!     }
//!     Flow::Continue
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! [`GenerateConfig`] says how tokens are drawn: greedy at temperature 0, else by temperature, top-k, top-p, min-p,
//! penalties and a seed. Weights in bfloat16 or int8 are a choice of loading, `LoadOptions` of `reheat-model`.

mod config; // how completions are drawn
mod generate; // prompts to completions
mod engine; // many completions at a time
mod cache; // keys and values of the tokens so far
mod rows; // which rows of the cache are free
mod sample; // logits to the next token
mod stop; // texts that end a completion
mod distribution; // what a model expects, for looking at
mod error;

pub use self::{
    config::{Candidate, FinishReason, Flow, GenerateConfig, Generation, Token},
    distribution::{
        Compared, NextToken, Positions, TokenScore, compare_next_tokens, next_tokens, perplexity, score_tokens,
    },
    engine::{Engine, EngineConfig, EngineStats, Event, EventKind, RequestId},
    error::GenerateError,
    generate::{Rollout, RolloutRequest, check, generate, rollout, rollout_requests},
    sample::Sampler,
    stop::{StopStrings, Watched},
};
