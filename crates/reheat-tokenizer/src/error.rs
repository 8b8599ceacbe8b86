use std::{io, path::PathBuf};

/// What can go wrong while loading, using or saving a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The directory has no `tokenizer.json`.
    #[error("`{}` has no `tokenizer.json`", .dir.display())]
    Missing {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// A file exists and can't be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file isn't JSON.
    #[error("`{}` is not valid JSON", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A file is JSON of the wrong shape.
    #[error("`{}`: `{key}` must be {expected}", .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The key at fault.
        key: String,
        /// What the key may hold.
        expected: &'static str,
    },
    /// `tokenizer.json` doesn't describe a tokenizer.
    #[error("`{}` does not describe a tokenizer: {reason}", .path.display())]
    Definition {
        /// The file.
        path: PathBuf,
        /// What the `tokenizers` library said.
        reason: String,
    },
    /// A file gives a token another id than the tokenizer does.
    #[error("`{}` gives token `{token}` the id {declared}, but the tokenizer {found}", .path.display())]
    IdMismatch {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id in the file.
        declared: u32,
        /// Its id in the tokenizer.
        found: u32,
    },
    /// A token to add has no text.
    #[error("a token to add is empty")]
    EmptyToken,
    /// A token that must be in the vocabulary isn't.
    #[error("token `{token}` is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The token asked for.
        token: String,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// The text can't be encoded.
    #[error("cannot encode a text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the `tokenizers` library said.
        reason: String,
    },
    /// The ids can't be decoded.
    #[error("cannot decode {count} ids: {reason}")]
    Decode {
        /// How many ids there were.
        count: usize,
        /// What the `tokenizers` library said.
        reason: String,
    },
    /// A file can't be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl TokenizerError {
    /// How to mend it, where there is a known way.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some(
                "point to a model folder in Hugging Face format; a folder with only `vocab.json` or `tokenizer.model` \
                 gets its `tokenizer.json` from `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`",
            ),
            Self::Json { .. } | Self::Definition { .. } => {
                Some("the file is damaged or cut short: download it again and compare its size")
            }
            Self::IdMismatch { .. } => Some(
                "added tokens must follow the vocabulary without a gap, and `tokenizer.json` and \
                     `tokenizer_config.json` must come from one model: download both again",
            ),
            Self::UnknownToken { .. } => Some("`reheat tokenize` shows which special tokens the tokenizer has"),
            _ => None,
        }
    }
}
