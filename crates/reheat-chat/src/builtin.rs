//! Templates for models that come without one.

use crate::{ChatTemplate, TemplateTokens};

const CHATML: &str = include_str!("templates/chatml.jinja");
const QWEN2_5: &str = include_str!("templates/qwen2_5.jinja");

impl ChatTemplate {
    /// ChatML: each message between `<|im_start|>` and `<|im_end|>`, and nothing else. Marks what the assistant wrote.
    ///
    /// # Panics
    /// Never: a test compiles it.
    #[must_use]
    pub fn chatml(tokens: &TemplateTokens) -> Self {
        Self::new(CHATML, tokens).expect("the built-in template compiles")
    }

    /// The format of Qwen2.5's instruct models: ChatML with their default system message, and tools. Renders the text
    /// that their own template renders, and marks what the assistant wrote.
    ///
    /// # Panics
    /// Never: a test compiles it.
    #[must_use]
    pub fn qwen2_5(tokens: &TemplateTokens) -> Self {
        Self::new(QWEN2_5, tokens).expect("the built-in template compiles")
    }
}
