//! What a template sees: messages, tools and the rest as engine values, prepared as transformers does.

use minijinja::Value;
use serde_json::{Map, Value as Json};

use crate::{ChatError, Conversation, Message, Preparation, RenderOptions, engine::Output, jinja::lexer::is_space};

/// Names of a message's reasoning. The first is the one that templates read; gpt-oss reads the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Appended to the message that is to be continued, and cut off with all that follows. Some templates look for it.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

pub(crate) struct Variables {
    pub(crate) values: Vec<(String, Value)>,
    /// About how much text there is.
    pub(crate) input_bytes: usize,
    pub(crate) continued: Option<Continued>,
}

impl Variables {
    pub(crate) fn prepare(
        conversation: &Conversation,
        options: &RenderOptions,
        source: &str,
    ) -> Result<Self, ChatError> {
        let apply = options.preparation == Preparation::ApplyChatTemplate;
        if apply && conversation.messages.is_empty() {
            return Err(ChatError::Empty);
        }
        if apply && options.continue_final_message && options.add_generation_prompt {
            return Err(ChatError::PromptAndContinue);
        }
        let mut input_bytes = 0;
        conversation.visit_strings(&mut |text| input_bytes += text.len());

        let mut continued = None;
        let last = conversation.messages.len().wrapping_sub(1);
        let mut messages = Vec::with_capacity(conversation.messages.len());
        if options.continue_final_message && conversation.messages.is_empty() {
            return Err(ChatError::Continue { reason: "there is none" });
        }
        for (index, message) in conversation.messages.iter().enumerate() {
            messages.push(if index == last && options.continue_final_message {
                let mut fields = aliased(message, apply);
                let field = options.continue_field.as_deref().unwrap_or("content");
                continued = Some(Continued::open(&mut fields, field, source)?);
                map_value(&fields)
            } else if needs_alias(message) {
                map_value(&aliased(message, apply))
            } else {
                let fields = message.fields.iter().filter(|(_, value)| !(apply && value.is_null()));
                Value::from_pairs(fields.map(|(key, value)| (key.as_str(), to_value(value))))
            });
        }
        let list = |items: &Option<Vec<Json>>| match items {
            Some(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
            None => Value::from(()),
        };
        let values = vec![
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), list(&conversation.tools)),
            ("documents".to_owned(), list(&conversation.documents)),
            ("add_generation_prompt".to_owned(), Value::from(options.add_generation_prompt)),
        ];
        Ok(Self { values, input_bytes, continued })
    }
}

fn needs_alias(message: &Message) -> bool {
    REASONING.iter().any(|name| message.fields.get(*name).is_some_and(|value| !value.is_null()))
}

/// The message's fields with its reasoning under the names that templates read.
fn aliased(message: &Message, drop_nulls: bool) -> Map<String, Json> {
    let fields = message.fields.iter().filter(|(_, value)| !(drop_nulls && value.is_null()));
    let reasoning = REASONING.iter().find_map(|name| message.fields.get(*name).filter(|value| !value.is_null()));
    let Some(reasoning) = reasoning else {
        return fields.map(|(key, value)| (key.clone(), value.clone())).collect();
    };
    let mut aliased = Map::new();
    aliased.insert("thinking".to_owned(), reasoning.clone());
    aliased.extend(fields.map(|(key, value)| (key.clone(), value.clone())));
    aliased.insert("reasoning_content".to_owned(), reasoning.clone());
    aliased
}

fn map_value(fields: &Map<String, Json>) -> Value {
    Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), to_value(value))))
}

/// JSON as the engine sees it. Integers stay integers and keys keep their order.
pub(crate) fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::from(int),
            (None, Some(int)) => Value::from(int),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        Json::Object(fields) => map_value(fields),
    }
}

/// The final message that the model goes on with.
pub(crate) struct Continued {
    text: String,
}

impl Continued {
    /// Marks the end of the message's text.
    fn open(fields: &mut Map<String, Json>, field: &str, source: &str) -> Result<Self, ChatError> {
        let refuse = |reason| Err(ChatError::Continue { reason });
        let Some(value) = fields.get(field).filter(|value| !value.is_null()).cloned() else {
            return refuse("it has no such field");
        };
        // Reasoning goes by several names: each is marked, and the template may read any.
        let names: Vec<&str> = if REASONING.contains(&field) {
            REASONING.into_iter().filter(|name| fields.get(*name) == Some(&value)).collect()
        } else {
            vec![field]
        };
        if !names.iter().any(|name| source.contains(name)) {
            return refuse("the template never reads that field");
        }
        match value {
            Json::String(text) => {
                for name in names {
                    fields.insert(name.to_owned(), Json::String(format!("{text}{CONTINUE_TAG}")));
                }
                Ok(Self { text })
            }
            Json::Array(_) => {
                let blocks = fields.get_mut(field).and_then(Json::as_array_mut).into_iter().flatten();
                let block = blocks.rev().find_map(|block| block.get_mut("text"));
                match block {
                    Some(Json::String(text)) => {
                        let continued = Self { text: text.clone() };
                        text.push_str(CONTINUE_TAG);
                        Ok(continued)
                    }
                    _ => refuse("none of its parts is text"),
                }
            }
            _ => refuse("it is not text"),
        }
    }

    /// Cuts the text where the message ends.
    pub(crate) fn cut(self, output: Output) -> Result<Output, ChatError> {
        let Output { mut text, mut generation_spans } = output;
        let tag = CONTINUE_TAG.trim_end();
        let Some(at) = text.rfind(tag).filter(|_| text.contains(self.text.trim_matches(is_space))) else {
            return Err(ChatError::Continue { reason: "the template leaves it out or changes it" });
        };
        if text[at..].starts_with(CONTINUE_TAG) {
            text.truncate(at);
        } else {
            // The template trims the message, so the space before the tag goes too.
            text.truncate(text[..at].trim_end_matches(is_space).len());
        }
        for (span, _) in &mut generation_spans {
            *span = span.start.min(text.len())..span.end.min(text.len());
        }
        generation_spans.retain(|(span, _)| !span.is_empty());
        Ok(Output { text, generation_spans })
    }
}
