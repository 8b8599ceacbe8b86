use serde_json::Value;

use crate::Row;

/// One message: `role`, `content`, and what else the template may want, in the order of the file.
pub type Message = Row;

/// What a row has to say, whatever its format.
///
/// TRL's dataset types, each *standard* (text) or *conversational* (messages).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Example {
    /// Plain text to continue.
    Text {
        /// The text.
        text: String,
    },
    /// A conversation.
    Messages {
        /// The messages.
        messages: Vec<Message>,
        /// For each message whether it is learned, where the row says so (`weight`).
        trained: Option<Vec<bool>>,
        /// What else the template is given.
        context: Context,
    },
    /// Something to answer, and the answer.
    PromptCompletion {
        /// What comes first.
        prompt: Turns,
        /// What is learned.
        completion: Turns,
        /// What else the template is given.
        context: Context,
    },
    /// Two answers to one prompt.
    Preference {
        /// What is answered; `None` where the answers still hold it.
        prompt: Option<Turns>,
        /// The better answer.
        chosen: Turns,
        /// The worse answer.
        rejected: Turns,
        /// By how much the better answer is better, where the row says so.
        margin: Option<f32>,
        /// What else the template is given.
        context: Context,
    },
    /// One answer, good or bad.
    UnpairedPreference {
        /// What is answered.
        prompt: Turns,
        /// The answer.
        completion: Turns,
        /// Whether it is good.
        label: bool,
        /// What else the template is given.
        context: Context,
    },
    /// Something to answer.
    PromptOnly {
        /// What comes first.
        prompt: Turns,
        /// What else the template is given.
        context: Context,
        /// The row's other columns as they are, all but `prompt`: what an answer is judged by.
        columns: Row,
    },
    /// An answer in steps.
    Stepwise {
        /// What is answered.
        prompt: String,
        /// The steps.
        completions: Vec<String>,
        /// For each step whether it is right.
        labels: Vec<bool>,
    },
    /// Already tokenised.
    Tokens {
        /// Token ids.
        input_ids: Vec<u32>,
        /// As in [`Sequence`](crate::Sequence); without them all tokens are learned.
        labels: Option<Vec<i32>>,
    },
}

/// A part of an example: text, or messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Turns {
    /// Text that is tokenised as it stands.
    Text(String),
    /// Messages that a template renders.
    Messages(Vec<Message>),
}

/// What a template is given beside the messages.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Context {
    /// JSON schemas of the tools at hand.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval.
    pub documents: Option<Vec<Value>>,
    /// The row's own template arguments (`chat_template_kwargs`).
    pub template_kwargs: Row,
}

impl Example {
    /// The kind of example, in the words of TRL's documentation.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text { .. } | Self::Messages { .. } => "language modeling",
            Self::PromptCompletion { .. } => "prompt-completion",
            Self::Preference { .. } => "preference",
            Self::UnpairedPreference { .. } => "unpaired preference",
            Self::PromptOnly { .. } => "prompt-only",
            Self::Stepwise { .. } => "stepwise supervision",
            Self::Tokens { .. } => "tokenized",
        }
    }

    /// Whether it takes a chat template to tokenise it.
    #[must_use]
    pub fn is_conversational(&self) -> bool {
        let messages = |turns: &Turns| matches!(turns, Turns::Messages(_));
        match self {
            Self::Messages { .. } => true,
            Self::PromptCompletion { prompt, .. }
            | Self::UnpairedPreference { prompt, .. }
            | Self::PromptOnly { prompt, .. } => messages(prompt),
            Self::Preference { chosen, .. } => messages(chosen),
            Self::Text { .. } | Self::Stepwise { .. } | Self::Tokens { .. } => false,
        }
    }

    /// Whether it is plain text, which ends with an end-of-sequence token.
    #[must_use]
    pub fn is_text(&self) -> bool {
        !self.is_conversational() && !matches!(self, Self::Tokens { .. })
    }

    /// Whether an assistant calls tools in it.
    #[must_use]
    pub fn calls_tools(&self) -> bool {
        let calls = |messages: &[Message]| {
            messages.iter().any(|message| match message.get("tool_calls") {
                Some(Value::Array(calls)) => !calls.is_empty(),
                _ => false,
            })
        };
        let in_turns = |turns: &Turns| match turns {
            Turns::Text(_) => false,
            Turns::Messages(messages) => calls(messages),
        };
        match self {
            Self::Messages { messages, .. } => calls(messages),
            Self::PromptCompletion { prompt, completion, .. } | Self::UnpairedPreference { prompt, completion, .. } => {
                in_turns(prompt) || in_turns(completion)
            }
            Self::Preference { prompt, chosen, rejected, .. } => {
                prompt.as_ref().is_some_and(in_turns) || in_turns(chosen) || in_turns(rejected)
            }
            Self::PromptOnly { prompt, .. } => in_turns(prompt),
            Self::Text { .. } | Self::Stepwise { .. } | Self::Tokens { .. } => false,
        }
    }

    /// Whether it declares tools that may be called.
    #[must_use]
    pub fn declares_tools(&self) -> bool {
        match self {
            Self::Messages { context, .. }
            | Self::PromptCompletion { context, .. }
            | Self::Preference { context, .. }
            | Self::UnpairedPreference { context, .. }
            | Self::PromptOnly { context, .. } => context.tools.as_ref().is_some_and(|tools| !tools.is_empty()),
            Self::Text { .. } | Self::Stepwise { .. } | Self::Tokens { .. } => false,
        }
    }

    /// The example as a row that TRL reads.
    #[must_use]
    pub fn into_row(self) -> Row {
        let mut row = Row::new();
        let mut put = |column: &str, value: Value| row.insert(column.to_owned(), value);
        let mut rest = Context::default();
        match self {
            Self::Text { text } => {
                put("text", text.into());
            }
            Self::Messages { mut messages, trained, context } => {
                for (message, trained) in messages.iter_mut().zip(trained.into_iter().flatten()) {
                    message.insert("weight".to_owned(), u8::from(trained).into());
                }
                put("messages", Turns::Messages(messages).into_value());
                rest = context;
            }
            Self::PromptCompletion { prompt, completion, context } => {
                put("prompt", prompt.into_value());
                put("completion", completion.into_value());
                rest = context;
            }
            Self::Preference { prompt, chosen, rejected, margin, context } => {
                if let Some(prompt) = prompt {
                    put("prompt", prompt.into_value());
                }
                put("chosen", chosen.into_value());
                put("rejected", rejected.into_value());
                if let Some(margin) = margin {
                    put("margin", margin.into());
                }
                rest = context;
            }
            Self::UnpairedPreference { prompt, completion, label, context } => {
                put("prompt", prompt.into_value());
                put("completion", completion.into_value());
                put("label", label.into());
                rest = context;
            }
            Self::PromptOnly { prompt, context, columns } => {
                put("prompt", prompt.into_value());
                for (column, value) in columns {
                    put(&column, value);
                }
                rest = context;
            }
            Self::Stepwise { prompt, completions, labels } => {
                put("prompt", prompt.into());
                put("completions", completions.into());
                put("labels", labels.into());
            }
            Self::Tokens { input_ids, labels } => {
                put("input_ids", input_ids.into());
                if let Some(labels) = labels {
                    put("labels", labels.into());
                }
            }
        }
        if let Some(tools) = rest.tools {
            put("tools", tools.into());
        }
        if let Some(documents) = rest.documents {
            put("documents", documents.into());
        }
        if !rest.template_kwargs.is_empty() {
            put("chat_template_kwargs", rest.template_kwargs.into());
        }
        row
    }
}

impl Turns {
    /// The turns as JSON: a string or a list of objects.
    #[must_use]
    pub fn into_value(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Messages(messages) => messages.into_iter().map(Value::Object).collect(),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Messages(messages) => messages.is_empty(),
        }
    }
}
