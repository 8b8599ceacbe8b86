use std::{ops::Range, sync::Arc};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use minijinja::Value;
use serde_json::Map;

use crate::{
    ChatError, Conversation,
    engine::{Engine, Output},
    jinja::without_generation_markers,
    variables::{Variables, to_value},
};

/// What a template needs to know of the tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// Tokens with a role, such as `eos_token`, which templates see as variables.
    pub named: Vec<(String, String)>,
    /// Special tokens: text that spells one becomes one token, wherever it stands.
    pub special: Vec<String>,
    /// Added tokens that aren't special, such as `<tool_call>`.
    pub added: Vec<String>,
}

impl TemplateTokens {
    /// Tokens with roles alone.
    #[must_use]
    pub fn new<K: Into<String>, V: Into<String>>(named: impl IntoIterator<Item = (K, V)>) -> Self {
        let named: Vec<(String, String)> = named.into_iter().map(|(name, token)| (name.into(), token.into())).collect();
        let special = named.iter().map(|(_, token)| token.clone()).collect();
        Self { named, special, added: Vec::new() }
    }
}

/// How to render.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// End with what makes the model begin an answer. Off by default.
    pub add_generation_prompt: bool,
    /// Leave the last message open, so that the model goes on with it. Off by default.
    pub continue_final_message: bool,
    /// The field of the last message that is left open. Default `content`.
    pub continue_field: Option<String>,
    /// Further variables for the template. Those of the conversation win.
    pub kwargs: Map<String, serde_json::Value>,
    /// The time that `strftime_now` sees. Default: `REHEAT_NOW` (RFC 3339) where it is set, else the clock.
    pub now: Option<DateTime>,
    /// What happens to the messages first.
    pub preparation: Preparation,
    /// What control tokens in messages are.
    pub control_tokens: ControlTokens,
}

/// What happens to the messages before the template sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preparation {
    /// What `apply_chat_template` does: fields that are null are dropped, and a conversation must not be empty.
    #[default]
    ApplyChatTemplate,
    /// Nothing, as in `render_jinja_template`.
    AsGiven,
}

/// What a message that spells a control token says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ControlTokens {
    /// Only text. Where it lies is told in [`Rendered::literal_spans`], for a tokenizer that can leave it text.
    #[default]
    Literal,
    /// The control token, as in transformers: whoever writes the message can end a turn and begin another.
    Recognized,
}

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Bytes of `text` inside of generation blocks, in the order in which the template wrote them.
    pub generation_spans: Vec<Range<usize>>,
    /// Bytes of `text` that come from a message and spell a control token, ascending. Empty with
    /// [`ControlTokens::Recognized`].
    pub literal_spans: Vec<Range<usize>>,
}

impl Rendered {
    /// Byte ranges of the text as ranges of characters (code points), as Python counts.
    #[must_use]
    pub fn in_characters(&self, spans: &[Range<usize>]) -> Vec<Range<usize>> {
        let count = |end: usize| self.text[..end].chars().count();
        spans.iter().map(|span| count(span.start)..count(span.end)).collect()
    }
}

/// A chat template, ready to render.
///
/// Cheap to clone, and to share between threads.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    source: String,
    tokens: TemplateTokens,
    engine: Engine,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If the template has a fault, with its line.
    pub fn new(source: impl Into<String>, tokens: &TemplateTokens) -> Result<Self, ChatError> {
        let source = source.into();
        let engine = Engine::new(&source)?;
        Ok(Self { inner: Arc::new(Inner { source, tokens: tokens.clone(), engine }) })
    }

    /// The template as it was given.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// The template without `{% generation %}` markers: what a saved model carries, since engines that serve models
    /// don't know them. It renders the same text.
    #[must_use]
    pub fn inference_source(&self) -> String {
        without_generation_markers(self.source()).unwrap_or_else(|_| self.source().to_owned())
    }

    /// Whether the template marks what the assistant wrote.
    #[must_use]
    pub fn has_generation_markers(&self) -> bool {
        self.inner.engine.has_generation_blocks
    }

    /// Whether the text can depend on the time of day.
    #[must_use]
    pub fn uses_clock(&self) -> bool {
        self.source().contains("strftime_now")
    }

    pub(crate) fn tokens(&self) -> &TemplateTokens {
        &self.inner.tokens
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// If the template refuses the conversation or fails on it, if it goes beyond its limits, or if the options
    /// contradict each other.
    pub fn render(&self, conversation: &Conversation, options: &RenderOptions) -> Result<Rendered, ChatError> {
        let output = self.run(conversation, options)?;
        Ok(Rendered { text: output.text, generation_spans: output.generation_spans, literal_spans: Vec::new() })
    }

    /// One run of the template, literal spans not looked for.
    pub(crate) fn run(&self, conversation: &Conversation, options: &RenderOptions) -> Result<Output, ChatError> {
        let prepared = Variables::prepare(conversation, options, self.source())?;
        let mut variables: Vec<(String, Value)> =
            self.tokens().named.iter().map(|(name, token)| (name.clone(), Value::from(token.clone()))).collect();
        for (name, value) in options.kwargs.iter().chain(&conversation.template_kwargs) {
            variables.push((name.clone(), to_value(value)));
        }
        variables.extend(prepared.values);
        let now = match options.now {
            Some(now) => now,
            None => now()?,
        };
        let output = self.inner.engine.run(&variables, now, prepared.input_bytes).map_err(|error| match error {
            ChatError::Render { line, message, .. } => {
                let share_gpt = conversation.messages.iter().any(crate::Message::is_share_gpt);
                ChatError::Render { line, message, share_gpt }
            }
            other => other,
        })?;
        match prepared.continued {
            Some(continued) => continued.cut(output),
            None => Ok(output),
        }
    }
}

/// The time that templates see: `REHEAT_NOW`, else the clock.
fn now() -> Result<DateTime, ChatError> {
    match std::env::var("REHEAT_NOW") {
        // The time as it is written, whatever its offset.
        Ok(value) => match value.parse::<Timestamp>() {
            Ok(_) => jiff::fmt::temporal::DateTimeParser::new()
                .parse_datetime(&value)
                .map_err(|_| ChatError::Now { value: value.clone() }),
            Err(_) => Err(ChatError::Now { value }),
        },
        Err(_) => Ok(Timestamp::now().to_zoned(TimeZone::system()).datetime()),
    }
}
