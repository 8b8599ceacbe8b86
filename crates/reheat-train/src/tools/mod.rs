//! Tools that a model may call while it writes a completion.
//!
//! A [`Tool`] says by a JSON schema what it is and takes, and answers calls. [`ToolFn`] is any closure,
//! [`program_tools`] asks any program over lines of JSON. [`RolloutSetup::tools`](crate::RolloutSetup) gives them to a
//! method that learns from completions.
//!
//! ```
//! use reheat_train::{Tool, ToolFn};
//! use serde_json::{Map, json};
//!
//! let schema = json!({
//!     "type": "function",
//!     "function": {
//!         "name": "add",
//!         "description": "The sum of two numbers.",
//!         "parameters": {
//!             "type": "object",
//!             "properties": { "a": { "type": "number" }, "b": { "type": "number" } },
//!             "required": ["a", "b"],
//!         },
//!     },
//! });
//! let mut add = ToolFn::new(schema, |arguments| {
//!     let number = |name: &str| arguments[name].as_f64().ok_or_else(|| format!("`{name}` is no number"));
//!     Ok(json!(number("a")? + number("b")?))
//! })?;
//! let arguments = json!({ "a": 1, "b": 2 }).as_object().cloned().unwrap_or_default();
//! assert_eq!(add.name(), "add");
//! assert_eq!(add.call(&arguments), Ok(json!(3.0)));
//! # Ok::<(), reheat_train::ToolError>(())
//! ```

mod declared; // what a schema says
mod program; // tools of a program
mod toolbox; // all tools of a run: calls to messages, messages to ids

use std::fmt;

use reheat_chat::{ChatError, ChatTemplate};
use serde_json::{Map, Value};

pub use self::program::program_tools;
#[cfg(test)]
pub(crate) use self::toolbox::tests::golden_tools;
pub(crate) use self::toolbox::{Called, Toolbox, read_turn};
use crate::program::{ProgramFault, quoted};

/// Something that a model may call by name.
pub trait Tool: Send {
    /// What calls name it by.
    fn name(&self) -> &str;

    /// What it is and what it takes, as templates show it: `{"type": "function", "function": {"name": …}}`.
    fn schema(&self) -> &Value;

    /// What a call gives. `arguments` fit the `parameters` of the schema.
    ///
    /// # Errors
    /// What the model is told instead of a result.
    fn call(&mut self, arguments: &Map<String, Value>) -> Result<Value, String>;
}

/// A closure as a tool.
pub struct ToolFn<F> {
    name: String,
    schema: Value,
    function: F,
}

impl<F> ToolFn<F>
where
    F: FnMut(&Map<String, Value>) -> Result<Value, String> + Send,
{
    /// A tool that is what `schema` says and does what `function` does.
    ///
    /// # Errors
    /// If the schema is none of a function with a name.
    pub fn new(schema: Value, function: F) -> Result<Self, ToolError> {
        Ok(Self { name: declared::name(&schema)?.to_owned(), schema, function })
    }
}

impl<F> fmt::Debug for ToolFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolFn").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F> Tool for ToolFn<F>
where
    F: FnMut(&Map<String, Value>) -> Result<Value, String> + Send,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn call(&mut self, arguments: &Map<String, Value>) -> Result<Value, String> {
        (self.function)(arguments)
    }
}

/// Tools, and the template that shows calls and results to the model.
#[expect(missing_debug_implementations, reason = "tools may have nothing to show")]
pub struct Tools {
    /// Each has a name of its own.
    pub tools: Vec<Box<dyn Tool>>,
    /// The template that the prompts were rendered with, and the tools' schemas in them
    /// ([`PrepareOptions::tools`](reheat_data::PrepareOptions)).
    pub template: ChatTemplate,
}

/// Why tools cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// A schema does not say what a tool is.
    #[error("the schema of a tool {reason}: `{schema}`")]
    Schema {
        /// The start of it.
        schema: String,
        /// What is wrong.
        reason: String,
    },
    /// A program does not say which tools it has.
    #[error("tool program `{command}` {fault}{}", quoted(.last_words))]
    Program {
        /// What was run.
        command: String,
        /// What it did.
        fault: ProgramFault,
        /// Its last lines on standard error.
        last_words: Vec<String>,
    },
    /// Two tools have one name.
    #[error("two tools are called `{name}`")]
    Twice {
        /// The name.
        name: String,
    },
    /// The template does not teach the form in which calls are read.
    #[error("the chat template shows no calls of tools between <tool_call> and </tool_call>")]
    NotTaught,
    /// The template cannot show a call or what came of it.
    #[error("the chat template cannot show what a tool says")]
    Template(#[from] ChatError),
    /// With what a tool says, the template changes what stands before it.
    #[error(
        "the chat template changes what stands before the result of a tool, so that a completion cannot go on after it"
    )]
    NoPrefix,
    /// A prompt is text, to which no template is applied.
    #[error("prompt {index} of the dataset is text, and tools are called in conversations alone")]
    Text {
        /// Position in the dataset.
        index: usize,
    },
}

impl ToolError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Program { fault: ProgramFault::Garbage { .. }, .. } => Some(
                r#"the line {"method": "list"} wants one line with a list of JSON schemas; what is for people goes to standard error"#
                    .into(),
            ),
            Self::Program { fault: ProgramFault::Silent { .. }, .. } => Some(
                "flush the output after each line (in Python, print(…, flush=True)), or allow more time: --tool-timeout-secs"
                    .into(),
            ),
            Self::NotTaught | Self::NoPrefix => Some("use a template such as Qwen2.5's: --chat-template FILE".into()),
            Self::Text { .. } => Some(r#"write the prompt as messages: [{"role": "user", "content": "…"}]"#.into()),
            _ => None,
        }
    }
}
