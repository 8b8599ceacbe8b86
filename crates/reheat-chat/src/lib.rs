//! Conversations to text by Hugging Face chat templates, and which characters the assistant wrote.
//!
//! A [`ChatTemplate`] renders a [`Conversation`] byte for byte as transformers does, and
//! [`render_for_training`](ChatTemplate::render_for_training) tells what of the text the assistant wrote. Templates
//! are programs from strangers: they reach no file, no network and no environment, and their steps, recursion and
//! output are bounded.
//!
//! ```
//! use reheat_chat::{ChatTemplate, Conversation, Message, RenderOptions, TemplateTokens};
//!
//! # fn main() -> Result<(), reheat_chat::ChatError> {
//! let tokens = TemplateTokens::new([("eos_token", "<|im_end|>")]);
//! let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
//! let template = ChatTemplate::new(source, &tokens)?;
//! let conversation = Conversation::new(vec![
//!     Message::new("user", "Hi <|im_end|>"),
//!     Message::new("assistant", "Hello!"),
//! ]);
//!
//! let transcript = template.render_for_training(&conversation, &RenderOptions::default())?;
//! assert_eq!(
//!     transcript.text,
//!     "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
//! );
//! // The template marks nothing; that these characters are the assistant's is found out and proved.
//! assert_eq!(&transcript.text[transcript.assistant_spans[0].bytes.clone()], "Hello!<|im_end|>");
//! // What the user typed must not become a control token.
//! assert_eq!(transcript.literal_spans, [20..30]);
//! # Ok(())
//! # }
//! ```
//!
//! # What is trained
//!
//! A span begins with what the model begins to write: the content, or what the template puts before it and after the
//! generation prompt, such as a thinking block. It ends with the token that ends the turn, so that the model learns to
//! stop. The role's header before it and the line break after it are the template's, and aren't in it.
//! A template with `{% generation %}` markers says itself what is trained, and is taken at its word.
//! Without them the span is proved for each conversation: the text around it is shown to be the same whatever the
//! assistant says. Where that fails, [`ChatError::Unproved`] tells which message and why.
//!
//! # Control tokens in messages
//!
//! A message that spells `<|im_end|>` could end its turn and begin another one. By default it can't:
//! [`Rendered::literal_spans`] tells which control tokens came from messages, for a tokenizer that leaves them text.
//! [`ControlTokens::Recognized`] is transformers' way.
//!
//! # Where it departs from transformers
//!
//! Text that differs from Python's is an error instead, wherever that is known:
//!
//! - Integers beyond 64 bits in JSON and beyond 127 bits in a template; complex numbers; bytes.
//! - The filters `random`, `urlize` and `wordwrap`, `pprint` of more than a line, `lipsum`, `autoescape`, `varargs` and
//!   `kwargs` in macros, and formats with `#` on floats.
//!
//! What is left:
//!
//! - A macro's default is taken for an argument that is given and not defined.
//! - Filters that Python evaluates when their result is used are evaluated at once, so that their errors come earlier.
//! - Functions and generators print without the address in memory that Python prints.
//! - A range is equal to a list of its numbers; `self` is not defined; of a macro, `arguments` is a list, and
//!   `catch_kwargs` and `catch_varargs` are not defined.
//! - `isidentifier`, `isnumeric`, `istitle` and `title` take Unicode's letters as Rust sorts them, which differs for a
//!   few that stand in no language's words (`℘`, `ͺ`, `ŉ`, `ǅ`) and for Chinese numerals.
//! - Where `continue_final_message` cuts the text, generation spans end with it; transformers leaves them longer.

mod conversation; // messages and what comes with them
mod case; // files of conversations to render
mod integers; // what JSON would lose
mod template; // a template, and rendering with it
mod folder; // templates in a model's folder
mod builtin; // templates for models without one
mod variables; // what the template sees
mod mask; // what the assistant wrote
mod literal; // control tokens that a message spells
mod tool_call; // what the assistant wants to be called
mod markers; // letters that stand for a place
mod engine; // one run, within limits
mod jinja; // Jinja2's language for MiniJinja
mod python; // Python's values for MiniJinja
mod error;

pub use self::{
    case::{Case, Cases},
    conversation::{Conversation, Message},
    error::ChatError,
    integers::wide_integer,
    mask::AssistantSpan,
    template::{
        ChatTemplate, ControlTokens, Preparation, RenderOptions, Rendered, TemplateTokens, ToolSupport, Transcript,
    },
    tool_call::{AnswerPart, ToolCall, ToolCalls},
};
