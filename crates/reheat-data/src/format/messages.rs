//! Lists of messages, in OpenAI's spelling or ShareGPT's, to messages as templates want them.

use serde_json::{Value, json};

use super::{
    Message,
    value::{boolean, from_json_text, text, wrong},
};
use crate::RowProblem;

/// Roles that templates know. More come from [`ConvertOptions`](super::ConvertOptions).
const ROLES: [&str; 9] =
    ["system", "developer", "user", "assistant", "tool", "function", "ipython", "tool_response", "documents"];

/// Keys that say whether a message is learned: OpenAI's, LLaMA-Factory's, axolotl's.
const WEIGHT_KEYS: [&str; 3] = ["weight", "loss_weight", "train"];

/// Messages, and for each whether it is learned, where any says so.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) messages: Vec<Message>,
    pub(super) trained: Option<Vec<bool>>,
}

/// Which keys and role names are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `role` and `content`, and the roles of templates.
    OpenAi,
    /// Also `from` and `value`, and all names people have for the roles.
    Any,
}

/// Converts a list of messages, or a single message, in either spelling.
///
/// # Errors
/// A message without role or content, an unknown role, content that isn't text.
pub(super) fn messages(
    value: Value,
    field: &str,
    spelling: Spelling,
    extra_roles: &[String],
) -> Result<Messages, RowProblem> {
    let (items, single) = match from_json_text(value)? {
        Value::Array(items) => (items, false),
        item @ Value::Object(_) => (vec![item], true),
        other => return Err(wrong(field, "a list of messages", &other)),
    };
    if items.is_empty() {
        return Err(RowProblem::Empty { field: field.to_owned() });
    }
    let mut weights = Vec::with_capacity(items.len());
    let mut messages = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let field = if single { field.to_owned() } else { format!("{field}[{index}]") };
        let Value::Object(mut message) = from_json_text(item)? else {
            return Err(RowProblem::WrongType {
                field,
                expected: "a message with `role` and `content`",
                found: "something else".to_owned(),
            });
        };
        weights.push(take_weight(&mut message, &field)?);
        messages.push(match (spelling, message.contains_key("role")) {
            (Spelling::OpenAi, false) if message.contains_key("from") => {
                return Err(RowProblem::ShareGptMessage { field });
            }
            (Spelling::OpenAi, _) => openai_message(message, &field, extra_roles)?,
            (Spelling::Any, true) => {
                openai_message(with_known_role(message, &field, extra_roles)?, &field, extra_roles)?
            }
            (Spelling::Any, false) => sharegpt_message(message, &field, extra_roles)?,
        });
    }
    let trained = weights.iter().any(Option::is_some).then(|| {
        let of_assistant = |message: &Message| message["role"] == "assistant";
        messages.iter().zip(&weights).map(|(message, weight)| weight.unwrap_or(of_assistant(message))).collect()
    });
    if let Some(trained) = &trained {
        let not_assistant = |(message, &trained): (&Message, &bool)| trained && message["role"] != "assistant";
        if let Some(index) = messages.iter().zip(trained).position(not_assistant) {
            let field = format!("{field}[{index}]'s weight");
            let found = format!("1 for a message of {}", messages[index]["role"]);
            return Err(RowProblem::WrongType { field, expected: "0 unless the assistant speaks", found });
        }
    }
    Ok(Messages { messages, trained })
}

fn take_weight(message: &mut Message, field: &str) -> Result<Option<bool>, RowProblem> {
    for key in WEIGHT_KEYS {
        if let Some(weight) = message.shift_remove(key).filter(|weight| !weight.is_null()) {
            // Weights between 0 and 1 exist in no public dataset, and the loss has no place for them.
            return boolean(&weight, &format!("{field}.{key}")).map(Some);
        }
    }
    Ok(None)
}

fn openai_message(mut message: Message, field: &str, extra_roles: &[String]) -> Result<Message, RowProblem> {
    // As transformers does: a key that is null is no key.
    message.retain(|_, value| !value.is_null());
    let role = match message.get("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(wrong(format!("{field}.role"), "text", other)),
        None => return Err(super::value::missing(&message, &format!("{field}.role"))),
    };
    if !ROLES.contains(&role.as_str()) && !extra_roles.contains(role) {
        return Err(unknown_role(role));
    }
    if let Some(Value::Array(parts)) = message.get_mut("content") {
        let parts = std::mem::take(parts);
        join_parts(&mut message, parts, field)?;
    }
    match message.get("content") {
        Some(Value::String(_)) | None => {}
        Some(other) => return Err(wrong(format!("{field}.content"), "text or a list of parts", other)),
    }
    if let Some(call) = message.shift_remove("function_call") {
        add_tool_calls(&mut message, tool_calls(call, &format!("{field}.function_call"))?);
    }
    if let Some(calls) = message.get_mut("tool_calls") {
        *calls = from_json_text(calls.take())?;
        match calls {
            Value::Array(calls) if calls.is_empty() => {
                message.shift_remove("tool_calls");
            }
            Value::Array(calls) => calls.iter_mut().try_for_each(parse_arguments)?,
            other => return Err(wrong(format!("{field}.tool_calls"), "a list", other)),
        }
    }
    let has_content = ["content", "tool_calls", "reasoning_content", "reasoning", "thinking"];
    if !has_content.iter().any(|key| message.contains_key(*key)) {
        return Err(super::value::missing(&message, &format!("{field}.content")));
    }
    Ok(message)
}

/// Puts typed parts where templates look for them: text in `content`, thoughts in `reasoning_content`, calls in
/// `tool_calls`. Templates of text models print a list of parts as Python would, without a word.
fn join_parts(message: &mut Message, parts: Vec<Value>, field: &str) -> Result<(), RowProblem> {
    let mut content = String::new();
    let mut reasoning = String::new();
    let mut calls = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        let field = || format!("{field}.content[{index}]");
        let mut part = match part {
            Value::String(part) => {
                content.push_str(&part);
                continue;
            }
            Value::Object(part) => part,
            other => return Err(wrong(field(), "a part with `type`", &other)),
        };
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text").to_owned();
        let value = ["text", "value", "content", "reasoning", "thinking", "refusal"]
            .iter()
            .find_map(|&key| part.get_mut(key).map(Value::take).filter(|value| !value.is_null()))
            .unwrap_or_default();
        match kind.as_str() {
            "text" | "input_text" | "output_text" | "refusal" => content.push_str(&text(value, &field())?),
            "reasoning" | "thinking" => reasoning.push_str(&text(value, &field())?),
            "tool_call" | "function_call" => calls.extend(tool_calls(value, &field())?),
            other => {
                return Err(RowProblem::WrongType {
                    field: field(),
                    expected: "a part of text, reasoning or a tool call",
                    found: format!("`{other}`"),
                });
            }
        }
    }
    message.insert("content".to_owned(), content.into());
    if !reasoning.is_empty() {
        message.insert("reasoning_content".to_owned(), reasoning.into());
    }
    add_tool_calls(message, calls);
    Ok(())
}

fn add_tool_calls(message: &mut Message, calls: Vec<Value>) {
    if calls.is_empty() {
        return;
    }
    match message.get_mut("tool_calls") {
        Some(Value::Array(present)) => present.extend(calls),
        _ => {
            message.insert("tool_calls".to_owned(), calls.into());
        }
    }
}

/// A message with `role` whose role may have any of ShareGPT's names.
fn with_known_role(mut message: Message, field: &str, extra_roles: &[String]) -> Result<Message, RowProblem> {
    let Some(Value::String(role)) = message.get("role") else { return Ok(message) };
    match Speaker::of(role, extra_roles)? {
        // `tool` is also what templates call it, so only other names change.
        Speaker::Role(_) if ROLES.contains(&role.as_str()) => {}
        Speaker::Role(role) => {
            message.insert("role".to_owned(), role.into());
        }
        Speaker::Caller => {
            message.insert("role".to_owned(), "assistant".into());
            let calls = tool_calls(message.get_mut("content").map(Value::take).unwrap_or_default(), field)?;
            message.insert("content".to_owned(), "".into());
            add_tool_calls(&mut message, calls);
        }
    }
    Ok(message)
}

fn sharegpt_message(mut message: Message, field: &str, extra_roles: &[String]) -> Result<Message, RowProblem> {
    let Some(from) = message.shift_remove("from") else {
        return Err(super::value::missing(&message, &format!("{field}.role")));
    };
    let from = text(from, &format!("{field}.from"))?;
    let value = ["value", "content", "text"]
        .iter()
        .find_map(|key| message.shift_remove(*key).filter(|value| !value.is_null()))
        .ok_or_else(|| super::value::missing(&message, &format!("{field}.value")))?;
    let mut converted = Message::with_capacity(3);
    let role = match Speaker::of(&from, extra_roles)? {
        Speaker::Caller => {
            converted.insert("role".to_owned(), "assistant".into());
            converted.insert("content".to_owned(), "".into());
            let calls = tool_calls(value, &format!("{field}.value"))?;
            converted.insert("tool_calls".to_owned(), calls.into());
            return Ok(converted);
        }
        Speaker::Role(role) => role,
    };
    converted.insert("role".to_owned(), role.into());
    converted.insert("content".to_owned(), text(value, &format!("{field}.value"))?.into());
    // What is left (a name, thoughts) may be of use to a template.
    converted.extend(message.into_iter().filter(|(_, value)| !value.is_null()));
    Ok(converted)
}

enum Speaker {
    Role(String),
    /// The assistant, calling tools.
    Caller,
}

impl Speaker {
    /// Who `from` is. The names are those of the public datasets in this format.
    fn of(from: &str, extra_roles: &[String]) -> Result<Self, RowProblem> {
        if extra_roles.iter().any(|role| role == from) {
            return Ok(Self::Role(from.to_owned()));
        }
        let role = match from.trim().to_lowercase().as_str() {
            "human" | "user" | "prompter" | "instruction" | "question" => "user",
            "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" | "bot" | "ai" | "chatbot" | "claude"
            | "answer" | "output" => "assistant",
            "system" | "system_prompt" => "system",
            "developer" => "developer",
            "tool" | "observation" | "function_response" | "function-response" | "tool_response" | "tool-response"
            | "function" | "ipython" => "tool",
            "function_call" | "function-call" | "tool_call" | "tool-call" => return Ok(Self::Caller),
            _ => return Err(unknown_role(from)),
        };
        Ok(Self::Role(role.to_owned()))
    }
}

fn unknown_role(role: &str) -> RowProblem {
    RowProblem::UnknownRole { role: role.to_owned(), expected: "system, user, assistant, tool".to_owned() }
}

/// One call or a list of calls, as objects or as JSON text, to the form that templates read.
fn tool_calls(value: Value, field: &str) -> Result<Vec<Value>, RowProblem> {
    let calls = match from_json_text(value)? {
        Value::Array(calls) => calls,
        call @ Value::Object(_) => vec![call],
        other => return Err(wrong(field, "the JSON of a tool call", &other)),
    };
    calls
        .into_iter()
        .map(|mut call| {
            parse_arguments(&mut call)?;
            match call {
                Value::Object(call) if call.contains_key("function") => Ok(Value::Object(call)),
                Value::Object(call) if call.contains_key("name") => Ok(json!({"type": "function", "function": call})),
                other => Err(wrong(field, "a tool call with `name` and `arguments`", &other)),
            }
        })
        .collect()
}

/// OpenAI writes arguments as JSON in a string; templates print what they are given, so a string would be quoted a
/// second time.
fn parse_arguments(call: &mut Value) -> Result<(), RowProblem> {
    let function = match call.get("function") {
        Some(_) => call.get_mut("function"),
        None => Some(call),
    };
    if let Some(arguments) = function.and_then(|function| function.get_mut("arguments")) {
        let parsed = from_json_text(arguments.take())?;
        *arguments = match parsed {
            // `arguments` of a call without any.
            Value::String(text) if text.trim().is_empty() => json!({}),
            other => other,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(value: Value) -> Result<Value, String> {
        messages(value, "messages", Spelling::Any, &[])
            .map(|found| found.messages.into_iter().map(Value::Object).collect())
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn sharegpt_speakers_become_roles() {
        let value = json!([
            {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}"},
            {"from": "observation", "value": "2"},
        ]);
        let expected = json!([
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
            {"role": "tool", "content": "2"},
        ]);
        assert_eq!(converted(value).unwrap(), expected);
    }

    #[test]
    fn parts_go_where_templates_look() {
        let value = json!([{"role": "assistant", "content": [
            {"type": "reasoning", "value": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"},
            {"type": "tool_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        ]}]);
        let expected = json!([{"role": "assistant", "content": "ab", "reasoning_content": "hm",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}]);
        assert_eq!(converted(value).unwrap(), expected);
    }

    #[test]
    fn weights_are_0_or_1_and_the_assistants() {
        let of = |user: Value, assistant: Value| {
            let value = json!([
                {"role": "user", "content": "a", "weight": user},
                {"role": "assistant", "content": "b", "weight": assistant},
                {"role": "assistant", "content": "c"},
            ]);
            messages(value, "messages", Spelling::OpenAi, &[]).map(|found| found.trained)
        };
        assert_eq!(of(json!(null), json!(null)).unwrap(), None);
        assert_eq!(of(json!(0.0), json!(0)).unwrap(), Some(vec![false, false, true]));
        assert!(of(json!(0), json!(0.5)).is_err());
        assert!(of(json!(1), json!(1)).is_err());
    }

    #[test]
    fn problems_name_the_message() {
        let problem = |value| messages(value, "messages", Spelling::OpenAi, &[]).unwrap_err().to_string();
        assert_eq!(
            problem(json!([{"role": "human", "content": "x"}])),
            "role `human` is unknown, expected one of system, user, assistant, tool"
        );
        assert_eq!(
            problem(json!([{"from": "human", "value": "x"}])),
            "`messages[0]` has ShareGPT's `from` and `value`, expected `role` and `content`"
        );
        assert_eq!(problem(json!([{"role": "user"}])), "column `messages[0].content` is missing, the row has `role`");
        assert_eq!(problem(json!([])), "`messages` is empty");
        assert_eq!(problem(json!("hello")), "`messages` must be a list of messages, found the string \"hello\"");
        assert_eq!(
            problem(json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])),
            "`messages[0].content[0]` must be a part of text, reasoning or a tool call, found `image_url`"
        );
    }
}
