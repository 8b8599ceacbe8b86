use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{ChatError, integers::wide_integer};

/// One message: a JSON object with at least a `role`, its keys in the order they came in.
///
/// Nothing is assumed about the other keys; which ones mean something (`content`, `tool_calls`, `reasoning_content`,
/// `name` …) is up to the template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message {
    /// The fields of the object.
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    #[must_use]
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        let fields = [("role".to_owned(), json!(role)), ("content".to_owned(), Value::String(content.into()))];
        Self { fields: fields.into_iter().collect() }
    }

    /// Who speaks; `None` where the message doesn't say so.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.fields.get("role")?.as_str()
    }

    /// What is said, where it is plain text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.fields.get("content")?.as_str()
    }

    pub(crate) fn is_assistant(&self) -> bool {
        self.role() == Some("assistant")
    }

    pub(crate) fn is_share_gpt(&self) -> bool {
        !self.fields.contains_key("role") && self.fields.contains_key("from") && self.fields.contains_key("value")
    }
}

impl From<Map<String, Value>> for Message {
    fn from(fields: Map<String, Value>) -> Self {
        Self { fields }
    }
}

/// Messages, and what a template sees beside them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Conversation {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Tools as JSON schemas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval, with `title` and `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Vec<Value>>,
    /// Further variables for the template, such as `enable_thinking`.
    #[serde(rename = "chat_template_kwargs", skip_serializing_if = "Map::is_empty")]
    pub template_kwargs: Map<String, Value>,
}

impl Conversation {
    /// A conversation of messages alone.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Reads a list of messages, or an object with `messages` and perhaps `tools` (a list, or a string that holds
    /// one), `documents` and `chat_template_kwargs` (or `kwargs`). Other keys are left alone.
    ///
    /// # Errors
    /// If the value has another shape; the error names the place.
    pub fn from_json(value: Value) -> Result<Self, ChatError> {
        match value {
            Value::Array(messages) => Ok(Self::new(read_messages("messages", messages)?)),
            Value::Object(mut row) => Self::from_row(&mut row),
            other => Err(shape("conversation", format!("expected messages, found {}", kind(&other)))),
        }
    }

    /// Reads what [`from_json`](Self::from_json) reads and takes it out of `row`; the keys left behind are not ours.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_row(row: &mut Map<String, Value>) -> Result<Self, ChatError> {
        let messages = match row.remove("messages") {
            Some(Value::Array(messages)) => read_messages("messages", messages)?,
            Some(other) => return Err(shape("messages", format!("expected a list, found {}", kind(&other)))),
            None => {
                let keys: Vec<&str> = row.keys().map(String::as_str).collect();
                let message = format!("`messages` is missing; the keys are {}", keys.join(", "));
                let share_gpt = row.contains_key("conversations");
                return Err(ChatError::Shape { place: "conversation".to_owned(), message, share_gpt });
            }
        };
        let tools = match row.remove("tools") {
            // Datasets store tools as text, because Arrow would give all of them the same fields.
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) => {
                if let Some(integer) = wide_integer(&text) {
                    return Err(ChatError::WideInteger { place: "tools".to_owned(), integer: integer.to_owned() });
                }
                read_list("tools", serde_json::from_str(&text).ok())?
            }
            other => read_list("tools", other)?,
        };
        let documents = read_list("documents", row.remove("documents"))?;
        let mut template_kwargs = Map::new();
        for key in ["kwargs", "chat_template_kwargs"] {
            match row.remove(key) {
                None | Some(Value::Null) => {}
                Some(Value::Object(kwargs)) => template_kwargs.extend(kwargs),
                Some(other) => return Err(shape(key, format!("expected an object, found {}", kind(&other)))),
            }
        }
        Ok(Self { messages, tools, documents, template_kwargs })
    }

    /// Every string that comes from the conversation rather than from the template.
    pub(crate) fn visit_strings(&self, visit: &mut dyn FnMut(&str)) {
        let values = self.messages.iter().flat_map(|message| message.fields.values());
        let values = values.chain(self.tools.iter().flatten()).chain(self.documents.iter().flatten());
        for value in values.chain(self.template_kwargs.values()) {
            visit_value(value, visit);
        }
    }
}

fn visit_value(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| visit_value(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| visit_value(field, visit)),
        _ => {}
    }
}

fn read_messages(place: &str, values: Vec<Value>) -> Result<Vec<Message>, ChatError> {
    let messages = values.into_iter().enumerate().map(|(index, value)| match value {
        Value::Object(fields) => Ok(Message { fields }),
        other => Err(shape(&format!("{place}[{index}]"), format!("expected an object, found {}", kind(&other)))),
    });
    messages.collect()
}

fn read_list(key: &str, value: Option<Value>) -> Result<Option<Vec<Value>>, ChatError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(shape(key, format!("expected a list, found {}", kind(&other)))),
    }
}

pub(crate) fn shape(place: &str, message: String) -> ChatError {
    ChatError::Shape { place: place.to_owned(), message, share_gpt: false }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
