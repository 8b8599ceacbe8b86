//! Files of conversations to render: one, or one on each line.

use serde_json::{Map, Value};

use crate::{
    ChatError, Conversation, Preparation, RenderOptions,
    conversation::{kind, shape},
    integers::wide_integer,
};

/// A conversation with how it is to be rendered.
#[derive(Debug, Clone)]
pub struct Case {
    /// The conversation.
    pub conversation: Conversation,
    /// How to render it. What the case doesn't say is as by default.
    pub options: RenderOptions,
    /// The name of its template, where the case has one.
    pub template: Option<String>,
}

/// The cases of a file.
#[derive(Debug, Clone)]
pub struct Cases {
    /// The cases in order.
    pub cases: Vec<Case>,
    /// The file is one conversation, not a list or lines of them.
    pub is_single: bool,
}

impl Case {
    /// Reads what [`Conversation::from_json`] reads, and how to render it: `add_generation_prompt` and
    /// `continue_final_message`, on their own or among the `kwargs`, and `template`.
    ///
    /// A case with `kwargs` is a call of transformers' renderer, which gives messages to the template as they are
    /// ([`Preparation::AsGiven`]); any other is one of `apply_chat_template`.
    ///
    /// # Errors
    /// If the value has another shape; the error names the place.
    pub fn from_json(value: Value) -> Result<Self, ChatError> {
        let mut options = RenderOptions::default();
        let Value::Object(mut row) = value else {
            return Ok(Self { conversation: Conversation::from_json(value)?, options, template: None });
        };
        if row.contains_key("kwargs") {
            options.preparation = Preparation::AsGiven;
        }
        let template = match row.remove("template") {
            Some(Value::String(name)) => Some(name),
            _ => None,
        };
        let mut conversation = Conversation::from_row(&mut row)?;
        for fields in [&mut row, &mut conversation.template_kwargs] {
            options.add_generation_prompt |= take_flag(fields, "add_generation_prompt")?;
            options.continue_final_message |= take_flag(fields, "continue_final_message")?;
        }
        Ok(Self { conversation, options, template })
    }
}

impl Cases {
    /// Reads a file's text: one conversation as JSON, a list of conversations, or one on each line.
    ///
    /// ```
    /// use reheat_chat::Cases;
    ///
    /// let one = Cases::read(r#"[{"role": "user", "content": "Hi"}]"#)?;
    /// assert!(one.is_single && one.cases.len() == 1);
    /// let line = r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#;
    /// let two = Cases::read(&format!("{line}\n{line}\n"))?;
    /// assert!(two.cases[1].options.add_generation_prompt);
    /// # Ok::<(), reheat_chat::ChatError>(())
    /// ```
    ///
    /// # Errors
    /// If a part isn't JSON or has another shape than a conversation; the error names the line.
    pub fn read(text: &str) -> Result<Self, ChatError> {
        if let Some(integer) = wide_integer(text) {
            let line = text[..integer.as_ptr() as usize - text.as_ptr() as usize].matches('\n').count() + 1;
            return Err(ChatError::WideInteger { place: format!("line {line}"), integer: integer.to_owned() });
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(items)) if is_list_of_conversations(&items) => {
                let cases = items.into_iter().map(Case::from_json).collect::<Result<_, _>>()?;
                Ok(Self { cases, is_single: false })
            }
            Ok(value) => Ok(Self { cases: vec![Case::from_json(value)?], is_single: true }),
            Err(whole) => {
                let lines: Vec<(usize, &str)> =
                    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
                if lines.len() < 2 {
                    return Err(ChatError::Json { place: "the file".to_owned(), source: whole });
                }
                let cases = lines.into_iter().map(|(index, line)| read_line(index + 1, line));
                Ok(Self { cases: cases.collect::<Result<_, _>>()?, is_single: false })
            }
        }
    }
}

fn read_line(number: usize, line: &str) -> Result<Case, ChatError> {
    let value =
        serde_json::from_str(line).map_err(|source| ChatError::Json { place: format!("line {number}"), source })?;
    Case::from_json(value).map_err(|error| match error {
        ChatError::Shape { place, message, share_gpt } => {
            ChatError::Shape { place: format!("line {number}: {place}"), message, share_gpt }
        }
        other => other,
    })
}

/// A file may be a list of messages, or a list of conversations.
fn is_list_of_conversations(items: &[Value]) -> bool {
    items.first().is_some_and(|first| first.is_array() || first.get("messages").is_some())
}

fn take_flag(fields: &mut Map<String, Value>, name: &str) -> Result<bool, ChatError> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(value),
        Some(other) => Err(shape(name, format!("expected true or false, found {}", kind(&other)))),
    }
}
