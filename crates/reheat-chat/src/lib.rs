//! Conversations to text by Hugging Face chat templates, and which characters the assistant wrote.

mod conversation; // messages and what comes with them
mod template; // a template, and rendering with it
mod folder; // templates in a model's folder
mod builtin; // templates for models without one
mod variables; // what the template sees
mod mask; // what the assistant wrote
mod literal; // control tokens that a message spells
mod markers; // letters that stand for a place
mod engine; // one run, within limits
mod jinja; // Jinja2's language for MiniJinja
mod python; // Python's values for MiniJinja
mod error;

pub use self::{
    conversation::{Conversation, Message},
    error::ChatError,
    mask::AssistantSpan,
    template::{ChatTemplate, ControlTokens, Preparation, RenderOptions, Rendered, TemplateTokens, Transcript},
};
