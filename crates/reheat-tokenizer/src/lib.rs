//! Text to token ids and back, with offsets and special tokens.
//!
//! A [`Tokenizer`] is read from a model folder in Hugging Face format and gives the ids that `transformers` gives.
//! Beyond that it can encode text that must not contain control tokens, whatever it spells
//! ([`Tokenizer::encode_literal`]), decode a stream without ever splitting a character ([`DecodeStream`]), and keep
//! the end-of-sequence token the same in all files it saves ([`Tokenizer::set_eos_token`], [`Tokenizer::save`]).
//!
//! The folder of a model is all it takes; here the files are written first, a vocabulary of seven pieces and a control
//! token.
//!
//! ```
//! use reheat_tokenizer::{DecodeMode, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let definition = r#"{
//!     "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
//!     "post_processor": null, "decoder": {"type": "Fuse"},
//!     "added_tokens": [{"id": 7, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
//!                       "normalized": false, "special": true}],
//!     "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
//!               "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
//!               "vocab": {"h": 0, "i": 1, "<": 2, "e": 3, "n": 4, "d": 5, ">": 6}, "merges": []}
//! }"#;
//! std::fs::write(folder.path().join("tokenizer.json"), definition)?;
//!
//! let tokenizer = Tokenizer::from_dir(folder.path())?;
//! let encoding = tokenizer.encode("hi<end>")?;
//! assert_eq!(encoding.ids, [0, 1, 7]);
//! assert_eq!(encoding.offsets, [0..1, 1..2, 2..7]);
//! assert_eq!(tokenizer.decode(&encoding.ids, DecodeMode::SkipSpecialTokens)?, "hi");
//!
//! // The same text where the bytes from 2 on were typed by a user: no control token comes out.
//! assert_eq!(tokenizer.encode_literal("hi<end>", &[2..7])?.ids, [0, 1, 2, 3, 4, 5, 6]);
//! # Ok(())
//! # }
//! ```

mod tokenizer; // loading, encoding, decoding
mod files; // what the JSON files beside the tokenizer say
mod special; // bos, eos, pad and the others
mod encoding;
mod byte_level; // a short way for the most common kind
mod literal; // text in which control tokens are only text
mod stream;
mod save;
mod error;

pub use self::{
    encoding::Encoding,
    error::TokenizerError,
    special::{SpecialToken, SpecialTokens},
    stream::DecodeStream,
    tokenizer::{DecodeMode, Tokenizer},
};
