//! What can be wrong with a request for text.

/// Why nothing can be generated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for a token.
    #[error("the prompt has {tokens} tokens, and the model's context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// `max_position_embeddings` of the model.
        context: usize,
    },
    /// An id that the model does not have.
    #[error("token id {id} is outside the model's vocabulary of {vocab_size}")]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A sampling value that makes no distribution.
    #[error("{name} is {value}, expected {expected}")]
    Sampling {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What is accepted.
        expected: &'static str,
    },
    /// The model's output is not a distribution.
    #[error("the logits after {tokens} tokens hold NaN")]
    NotANumber {
        /// Tokens before the failing position.
        tokens: usize,
    },
}

impl GenerateError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::EmptyPrompt => Some("give at least one token of text".into()),
            Self::PromptTooLong { .. } => Some("shorten the prompt, or start the chat anew".into()),
            Self::TokenOutsideVocabulary { .. } => Some("use the tokenizer that belongs to the model".into()),
            Self::Sampling { .. } => None,
            Self::NotANumber { .. } => Some("the weights are damaged, or training diverged".into()),
        }
    }
}
