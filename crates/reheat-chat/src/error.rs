use std::{io, path::PathBuf};

/// What can go wrong between a conversation and its text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template isn't one.
    #[error("chat template, line {line}: {message}")]
    Syntax {
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template refuses the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template fails on the conversation.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// Line of the template, from 1.
        line: usize,
        /// What went wrong there.
        message: String,
        /// The messages are in ShareGPT's form, with `from` and `value`.
        share_gpt: bool,
    },
    /// The template asks for more than a conversation can need.
    #[error("the chat template goes beyond its limit of {limit}")]
    Limit {
        /// Which limit, with its size.
        limit: String,
    },
    /// There is nothing to render.
    #[error("the conversation has no messages")]
    Empty,
    /// Two options that exclude each other.
    #[error("a generation prompt starts a new message, so the final message can't be continued as well")]
    PromptAndContinue,
    /// The final message can't be continued.
    #[error("the final message can't be continued: {reason}")]
    Continue {
        /// Why not.
        reason: &'static str,
    },
    /// The template marks nothing, and where the assistant speaks can't be proved.
    #[error("message {message}: can't tell which text the assistant wrote: {reason}")]
    Unproved {
        /// Position of the assistant's message, from 0.
        message: usize,
        /// What stands in the way.
        reason: String,
    },
    /// A control token in a message, of which the template makes something.
    #[error("a message spells the control token `{token}`, and the template acts on it")]
    ControlToken {
        /// The token.
        token: String,
    },
    /// A conversation of the wrong shape.
    #[error("{place}: {message}")]
    Shape {
        /// Where, such as `line 3` or `messages[2]`.
        place: String,
        /// What was found and what is expected.
        message: String,
        /// The row is in ShareGPT's form, with `from` and `value`.
        share_gpt: bool,
    },
    /// An integer of which digits would be lost.
    #[error("{place}: the integer {integer} is beyond 64 bits")]
    WideInteger {
        /// Where.
        place: String,
        /// The integer.
        integer: String,
    },
    /// Not JSON.
    #[error("{place}: not valid JSON")]
    Json {
        /// Where.
        place: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A model has several templates and none of this name.
    #[error("there is no chat template `{name}`, only {known}")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A file can't be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A clock that isn't one.
    #[error("`REHEAT_NOW` is `{value}`, which is not an RFC 3339 time such as 2025-01-02T03:04:05Z")]
    Now {
        /// What was found.
        value: String,
    },
}

impl ChatError {
    /// What kind of error it is, in a word that programs may rely on.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Refused { .. } => "refused",
            Self::Render { .. } => "failed",
            Self::Limit { .. } => "limit",
            Self::Empty
            | Self::PromptAndContinue
            | Self::Continue { .. }
            | Self::Shape { .. }
            | Self::WideInteger { .. }
            | Self::Json { .. } => "conversation",
            Self::Unproved { .. } => "unproved",
            Self::ControlToken { .. } => "control_token",
            Self::UnknownTemplate { .. } | Self::Read { .. } | Self::Write { .. } | Self::Now { .. } => "input",
        }
    }

    /// How to mend it, where there is a known way.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Render { share_gpt: true, .. } | Self::Shape { share_gpt: true, .. } => Some(
                "the messages have `from` and `value`, as ShareGPT rows do: convert them with \
                 `reheat data convert --format sharegpt`, which gives `role` and `content`",
            ),
            Self::Unproved { .. } => Some(
                "enclose what the assistant writes in `{% generation %}` and `{% endgeneration %}` in a copy of the \
                 template and give it with `--chat-template`, or train on all text",
            ),
            Self::ControlToken { .. } => Some(
                "--control-tokens recognized takes what messages spell for those tokens, as transformers does; or \
                     take them out of the messages",
            ),
            Self::WideInteger { .. } => Some("write it as a string"),
            Self::Limit { .. } => Some("templates of published models stay far below it: read the template first"),
            _ => None,
        }
    }
}
