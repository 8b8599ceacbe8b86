use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use jiff::{Timestamp, civil::DateTime, fmt::temporal::Pieces, tz::TimeZone};
use minijinja::Value;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::{
    ChatError, Conversation, Message,
    engine::{Engine, Output},
    jinja::without_generation_markers,
    literal::ControlTokenFinder,
    mask::{self, AssistantSpan, Prompt, Render, TurnShape, speaks_in_parts},
    variables::{Variables, to_value},
};

/// The name of a template without one.
const DEFAULT: &str = "default";
/// The template for conversations with tools, where a model has its own.
const TOOL_USE: &str = "tool_use";
/// Sets of template variables whose turns are remembered.
const MAX_SHAPES: usize = 64;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Bytes of `text` inside of generation blocks, in the order in which the template wrote them. As in transformers
    /// they are wrong where such a block stands inside of a macro or a `{% set %}` block.
    pub generation_spans: Vec<Range<usize>>,
    /// Bytes of `text` that come from a message and spell a control token, ascending. Empty with
    /// [`ControlTokens::Recognized`].
    pub literal_spans: Vec<Range<usize>>,
}

impl Rendered {
    /// Byte ranges of the text as ranges of characters (code points), as Python counts.
    #[must_use]
    pub fn in_characters(&self, spans: &[Range<usize>]) -> Vec<Range<usize>> {
        in_characters(&self.text, spans)
    }
}

/// Counts the text once, however many spans there are.
fn in_characters(text: &str, spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut bounds: Vec<usize> = spans.iter().flat_map(|span| [span.start, span.end]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let (mut characters, mut from) = (0, 0);
    let counts: Vec<usize> = bounds
        .iter()
        .map(|&bound| {
            characters += text[from..bound].chars().count();
            from = bound;
            characters
        })
        .collect();
    let count = |bound: usize| counts[bounds.partition_point(|other| *other < bound)];
    spans.iter().map(|span| count(span.start)..count(span.end)).collect()
}

/// A conversation as it is trained on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The text.
    pub text: String,
    /// What the assistant wrote, ascending, each with the token that ends its turn.
    pub assistant_spans: Vec<AssistantSpan>,
    /// As [`Rendered::literal_spans`].
    pub literal_spans: Vec<Range<usize>>,
}

impl Transcript {
    /// As [`Rendered::in_characters`].
    #[must_use]
    pub fn in_characters(&self, spans: &[Range<usize>]) -> Vec<Range<usize>> {
        in_characters(&self.text, spans)
    }
}

/// The chat template of a model, ready to render.
///
/// A model may have several by name, of which `tool_use` is taken for conversations with tools and `default` for the
/// others. Cheap to clone, and to share between threads.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    templates: Vec<Template>,
    tokens: TemplateTokens,
}

/// One of a model's templates.
#[derive(Debug)]
struct Template {
    name: String,
    source: String,
    engine: Engine,
    control_tokens: OnceLock<ControlTokenFinder>,
    /// What was found out about turns, by the template variables of the conversation and the call.
    shapes: Mutex<HashMap<String, Arc<TurnShape>>>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// If the template has a fault, with its line.
    pub fn new(source: impl Into<String>, tokens: &TemplateTokens) -> Result<Self, ChatError> {
        Self::from_named(vec![(DEFAULT.to_owned(), source.into())], tokens)
    }

    /// Compiles templates with names.
    ///
    /// # Errors
    /// If a template has a fault, or there is none.
    pub fn from_named(templates: Vec<(String, String)>, tokens: &TemplateTokens) -> Result<Self, ChatError> {
        let compile = |(name, source): (String, String)| {
            let engine = Engine::new(&source)?;
            Ok(Template { name, source, engine, control_tokens: OnceLock::new(), shapes: Mutex::default() })
        };
        let templates = templates.into_iter().map(compile).collect::<Result<Vec<_>, ChatError>>()?;
        if templates.is_empty() {
            return Err(ChatError::UnknownTemplate { name: DEFAULT.to_owned(), known: "none".to_owned() });
        }
        Ok(Self { inner: Arc::new(Inner { templates, tokens: tokens.clone() }) })
    }

    /// The names of the templates; `default` where a model has one without a name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.templates.iter().map(|template| template.name.as_str())
    }

    /// The template of this name alone, for all conversations.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn named(&self, name: &str) -> Result<Self, ChatError> {
        let template = self.inner.templates.iter().find(|template| template.name == name);
        let template = template.ok_or_else(|| self.unknown(name))?;
        Self::from_named(vec![(DEFAULT.to_owned(), template.source.clone())], &self.inner.tokens)
    }

    fn unknown(&self, name: &str) -> ChatError {
        let known: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
        ChatError::UnknownTemplate { name: name.to_owned(), known: known.join(", ") }
    }

    /// The template that is taken for a conversation.
    fn select(&self, conversation: &Conversation) -> Result<&Template, ChatError> {
        let templates = &self.inner.templates;
        if let [template] = templates.as_slice() {
            return Ok(template);
        }
        let find = |name: &str| templates.iter().find(|template| template.name == name);
        let for_tools = conversation.tools.as_ref().and_then(|_| find(TOOL_USE));
        for_tools.or_else(|| find(DEFAULT)).ok_or_else(|| self.unknown(DEFAULT))
    }

    /// The template that is taken where nothing asks for another one.
    fn default_template(&self) -> &Template {
        let templates = &self.inner.templates;
        templates.iter().find(|template| template.name == DEFAULT).unwrap_or(&templates[0])
    }

    /// The template as it was given; the default one of several.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.default_template().source
    }

    /// The template without `{% generation %}` markers: what a saved model carries, since engines that serve models
    /// don't know them. It renders the same text.
    #[must_use]
    pub fn inference_source(&self) -> String {
        inference_source(&self.default_template().source)
    }

    pub(crate) fn inference_sources(&self) -> impl Iterator<Item = (&str, String)> {
        self.inner.templates.iter().map(|template| (template.name.as_str(), inference_source(&template.source)))
    }

    /// Whether the template marks what the assistant wrote; the default one of several.
    #[must_use]
    pub fn has_generation_markers(&self) -> bool {
        self.default_template().engine.has_generation_blocks
    }

    /// Whether the text can depend on the time of day.
    #[must_use]
    pub fn uses_clock(&self) -> bool {
        self.inner.templates.iter().any(|template| template.source.contains("strftime_now"))
    }

    /// Text that is another one where the templates or their tokens are others, for telling them apart.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let sources: Vec<(&str, &str)> =
            self.inner.templates.iter().map(|template| (template.name.as_str(), template.source.as_str())).collect();
        format!("{sources:?} {:?}", self.inner.tokens)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// If the template refuses the conversation or fails on it, if it goes beyond its limits, if the options
    /// contradict each other, or if a message spells a control token of which the template makes something.
    pub fn render(&self, conversation: &Conversation, options: &RenderOptions) -> Result<Rendered, ChatError> {
        let run = Call { template: self.select(conversation)?, tokens: &self.inner.tokens, options };
        let output = run.output(conversation)?;
        let literal_spans = run.literal_spans(conversation, &output.text)?;
        let generation_spans = output.generation_spans.into_iter().map(|(span, _)| span).collect();
        Ok(Rendered { text: output.text, generation_spans, literal_spans })
    }

    /// Whether it prints the calls of tools that an assistant makes, and the tools that it may call: tried with one of
    /// each. A template that refuses to render them is taken to print them, since then nothing is lost unseen.
    #[must_use]
    pub fn tool_support(&self) -> ToolSupport {
        const CALLED: &str = "called_reheat_probe";
        const DECLARED: &str = "declared_reheat_probe";
        let mut call = Message::new("assistant", "");
        let function = json!({ "name": CALLED, "arguments": {} });
        call.fields.insert("tool_calls".to_owned(), json!([{ "type": "function", "function": function }]));
        let mut conversation = Conversation::new(vec![Message::new("user", "Q"), call]);
        let parameters = json!({ "type": "object", "properties": {} });
        let tool = json!({ "name": DECLARED, "description": "", "parameters": parameters });
        conversation.tools = Some(vec![json!({ "type": "function", "function": tool })]);
        let Ok(Rendered { text, .. }) = self.render(&conversation, &RenderOptions::default()) else {
            return ToolSupport { calls: true, declarations: true };
        };
        ToolSupport { calls: text.contains(CALLED), declarations: text.contains(DECLARED) }
    }

    /// Renders a conversation with what the assistant wrote in it: by the template's markers, else derived and proved
    /// for this conversation (see [`AssistantSpan`]).
    ///
    /// `add_generation_prompt` and `continue_final_message` don't apply.
    ///
    /// # Errors
    /// As [`render`](Self::render), and if the template marks nothing and a proof fails.
    pub fn render_for_training(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Transcript, ChatError> {
        let options = RenderOptions { add_generation_prompt: false, continue_final_message: false, ..options.clone() };
        let template = self.select(conversation)?;
        let run = Call { template, tokens: &self.inner.tokens, options: &options };
        let output = run.output(conversation)?;
        let literal_spans = run.literal_spans(conversation, &output.text)?;
        let assistant_spans = if template.engine.has_generation_blocks {
            marked_spans(conversation, &output)?
        } else {
            mask::derive(&run, &run.shape(conversation), conversation, &output.text)?
        };
        Ok(Transcript { text: output.text, assistant_spans, literal_spans })
    }
}

/// What a template prints of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolSupport {
    /// Calls that an assistant makes.
    pub calls: bool,
    /// Tools that it may call.
    pub declarations: bool,
}

/// The markers' spans, with their messages where each message has one.
fn marked_spans(conversation: &Conversation, output: &Output) -> Result<Vec<AssistantSpan>, ChatError> {
    let mut messages = conversation.messages.iter().enumerate().filter(|(_, message)| message.is_assistant());
    for (span, written) in &output.generation_spans {
        // In a macro or a `{% set %}` block, what is written and where it ends up are two things.
        if output.text.get(span.clone()) != Some(written.as_str()) {
            let message = messages.next().map_or(0, |(index, _)| index);
            let reason = "the template's generation markers stand inside of a block whose text ends up elsewhere";
            return Err(ChatError::Unproved { message, reason: reason.to_owned() });
        }
    }
    let mut spans: Vec<Range<usize>> =
        output.generation_spans.iter().map(|(span, _)| span.clone()).filter(|span| !span.is_empty()).collect();
    spans.sort_by_key(|span| span.start);
    let messages: Vec<usize> = messages.map(|(index, _)| index).collect();
    let one_each = messages.len() == spans.len();
    let spans = spans.into_iter().enumerate();
    Ok(spans.map(|(index, bytes)| AssistantSpan { bytes, message: one_each.then(|| messages[index]) }).collect())
}

fn inference_source(source: &str) -> String {
    without_generation_markers(source).unwrap_or_else(|_| source.to_owned())
}

/// One template with the options of one call.
struct Call<'a> {
    template: &'a Template,
    tokens: &'a TemplateTokens,
    options: &'a RenderOptions,
}

impl Call<'_> {
    /// One run of the template.
    fn output(&self, conversation: &Conversation) -> Result<Output, ChatError> {
        let prepared = Variables::prepare(conversation, self.options, &self.template.source)?;
        let mut variables: Vec<(String, Value)> =
            self.tokens.named.iter().map(|(name, token)| (name.clone(), Value::from(token.clone()))).collect();
        for (name, value) in self.options.kwargs.iter().chain(&conversation.template_kwargs) {
            variables.push((name.clone(), to_value(value)));
        }
        variables.extend(prepared.values);
        let now = match self.options.now {
            Some(now) => now,
            None => now()?,
        };
        let output = self.template.engine.run(&variables, now, prepared.input_bytes).map_err(|error| match error {
            ChatError::Render { line, message, .. } => {
                let share_gpt = conversation.messages.iter().any(crate::Message::is_share_gpt);
                let message = match conversation.messages.iter().position(|message| message.role().is_none()) {
                    Some(index) => format!("{}: {message}", without_role(index, &conversation.messages[index])),
                    None => message,
                };
                ChatError::Render { line, message, share_gpt }
            }
            other => other,
        })?;
        match prepared.continued {
            Some(continued) => continued.cut(output),
            None => Ok(output),
        }
    }

    fn literal_spans(&self, conversation: &Conversation, text: &str) -> Result<Vec<Range<usize>>, ChatError> {
        if self.options.control_tokens == ControlTokens::Recognized {
            return Ok(Vec::new());
        }
        let finder = self.template.control_tokens.get_or_init(|| {
            let turns = ["user", "assistant", "user"].map(|role| crate::Message::new(role, "Q"));
            let plain = self.render(&Conversation::new(turns.to_vec()), Prompt::Without).unwrap_or_default();
            ControlTokenFinder::new(self.tokens, &plain)
        });
        let render = |conversation: &Conversation| Ok(self.output(conversation)?.text);
        finder.spans(conversation, &self.template.source, text, render)
    }

    /// How this template builds turns with the variables of this conversation.
    fn shape(&self, conversation: &Conversation) -> Arc<TurnShape> {
        let key = (&self.options.kwargs, &conversation.template_kwargs, speaks_in_parts(conversation));
        let key = serde_json::to_string(&key).unwrap_or_default();
        let lock = || self.template.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = lock().get(&key) {
            return shape.clone();
        }
        let shape = Arc::new(TurnShape::probe(self, conversation));
        let mut shapes = lock();
        // Rows with variables of their own each bring a key; few are seen twice.
        if shapes.len() >= MAX_SHAPES {
            shapes.clear();
        }
        shapes.insert(key, shape.clone());
        shape
    }
}

impl Render for Call<'_> {
    fn render(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError> {
        let options = RenderOptions {
            add_generation_prompt: prompt == Prompt::With,
            continue_final_message: false,
            ..self.options.clone()
        };
        Ok(Call { options: &options, ..*self }.output(conversation)?.text)
    }

    fn source(&self) -> &str {
        &self.template.source
    }

    fn tokens(&self) -> &TemplateTokens {
        self.tokens
    }
}

/// What most probably made a template fail.
fn without_role(index: usize, message: &crate::Message) -> String {
    let fields: Vec<String> = message.fields.keys().map(|field| format!("`{field}`")).collect();
    let fields = if fields.is_empty() { "nothing".to_owned() } else { format!("only {}", fields.join(", ")) };
    format!("messages[{index}] has no field `role`, {fields}")
}

/// The time that templates see: `REHEAT_NOW`, else the clock.
fn now() -> Result<DateTime, ChatError> {
    match std::env::var("REHEAT_NOW") {
        Ok(value) => rfc3339(&value).ok_or(ChatError::Now { value }),
        Err(_) => Ok(Timestamp::now().to_zoned(TimeZone::system()).datetime()),
    }
}

/// The time as it is written, whatever its offset.
fn rfc3339(value: &str) -> Option<DateTime> {
    value.parse::<Timestamp>().ok()?;
    let pieces = Pieces::parse(value).ok()?;
    Some(pieces.date().to_datetime(pieces.time()?))
}
