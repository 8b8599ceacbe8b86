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
    /// Prompt and completion do not fit into the cache.
    #[error("prompt and completion need {tokens} tokens of cache, and it holds {capacity}")]
    CacheTooSmall {
        /// Tokens of the prompt and of the longest completion.
        tokens: usize,
        /// Tokens that the cache holds.
        capacity: usize,
    },
    /// An id that the model does not have.
    #[error("token id {id} is outside the model's vocabulary of {vocab_size}")]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A bias for a token that the model does not have.
    #[error("logit bias for token id {id}, which is outside the model's vocabulary of {vocab_size}")]
    BiasOutsideVocabulary {
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
        value: f32,
        /// What is accepted.
        expected: &'static str,
    },
    /// The model's output is not a distribution.
    #[error("the logits after {num_drawn} new tokens are not numbers")]
    NotFinite {
        /// Tokens drawn before.
        num_drawn: usize,
    },
    /// One of many prompts is at fault.
    #[error("prompt {}", .index + 1)]
    InPrompt {
        /// Counted from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<GenerateError>,
    },
    /// Two models that cannot be compared.
    #[error("the models have different vocabularies, of {first} and {second} tokens")]
    Vocabularies {
        /// Tokens of one.
        first: usize,
        /// Tokens of the other.
        second: usize,
    },
}

impl GenerateError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::EmptyPrompt => "give at least one token of text",
            Self::PromptTooLong { .. } => "shorten the prompt, or start the chat anew",
            Self::CacheTooSmall { .. } => "ask for fewer new tokens, or shorten the prompt",
            Self::TokenOutsideVocabulary { .. } => "use the tokenizer that belongs to the model",
            Self::BiasOutsideVocabulary { .. } => "`reheat tokenize` shows the ids of a text",
            Self::Sampling { .. } => return None,
            Self::NotFinite { .. } => "the weights are damaged, or training diverged",
            Self::InPrompt { source, .. } => return source.hint(),
            Self::Vocabularies { .. } => "compare models of one family, such as a base model and its tuned one",
        };
        Some(hint.into())
    }
}
