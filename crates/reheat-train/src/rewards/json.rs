//! Rewards of JSON: against a schema, and as calls of tools.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::RewardInput;
use super::schema::Schema;
use super::shape::after_thoughts;

/// What a completion says after its thoughts, if it has any.
fn said(completion: &str) -> &str {
    after_thoughts(completion).unwrap_or(completion).trim()
}

static FENCED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)^```(?:json)?\s*\n(.*)\n\s*```$").expect("the pattern is a constant"));

/// Whether what the completion says is JSON of this shape, in a fence or not.
pub(super) fn is_json_of(completion: &str, schema: &Schema) -> bool {
    let said = said(completion);
    let text = FENCED.captures(said).and_then(|found| found.get(1)).map_or(said, |inner| inner.as_str());
    serde_json::from_str(text).is_ok_and(|value: Value| schema.accepts(&value))
}

/// A schema in a column, as an object or as a string that holds one.
pub(super) fn schema_in(value: &Value) -> Result<Schema, String> {
    let schema = match value {
        Value::String(text) => {
            serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?
        }
        other => other.clone(),
    };
    Schema::new(schema)
}

static CALL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?s)<tool_call>(.*?)</tool_call>").expect("the pattern is a constant"));

/// Whether a completion calls tools, and every call names one of the row's and has arguments of its shape. `None` where
/// the row has no tools.
///
/// A call is what Qwen's templates show: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Nothing is run.
pub(super) fn calls_tools(input: &RewardInput<'_>) -> Result<Option<bool>, String> {
    let Some(tools) = input.column("tools") else { return Ok(None) };
    let tools = match tools {
        Value::String(text) => serde_json::from_str(text).map_err(|error| format!("`tools` is not JSON: {error}"))?,
        other => other.clone(),
    };
    let tools = tools.as_array().ok_or("`tools` is no list")?;
    if tools.is_empty() {
        return Ok(None);
    }
    let said = said(input.completion);
    let calls: Vec<&str> =
        CALL.captures_iter(said).filter_map(|found| found.get(1)).map(|call| call.as_str()).collect();
    // One that is opened and never closed is no call.
    let opened = said.matches("<tool_call>").count();
    if calls.is_empty() || opened != calls.len() {
        return Ok(Some(false));
    }
    let mut all = true;
    for call in calls {
        all &= is_call_of(call, tools)?;
    }
    Ok(Some(all))
}

fn is_call_of(call: &str, tools: &[Value]) -> Result<bool, String> {
    let Ok(call) = serde_json::from_str::<Value>(call.trim()) else { return Ok(false) };
    // A tool is a function, with or without the envelope of OpenAI's format.
    let functions = tools.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let Some(name) = call.get("name").and_then(Value::as_str) else { return Ok(false) };
    let Some(function) =
        functions.into_iter().find(|function| function.get("name").and_then(Value::as_str) == Some(name))
    else {
        return Ok(false);
    };
    let Some(arguments) = call.get("arguments").filter(|arguments| arguments.is_object()) else { return Ok(false) };
    match function.get("parameters") {
        Some(schema) => {
            let schema =
                Schema::new(schema.clone()).map_err(|reason| format!("parameters of tool `{name}`: {reason}"))?;
            Ok(schema.accepts(arguments))
        }
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn json_may_stand_after_thoughts_and_in_a_fence() {
        let schema = Schema::new(json!({ "type": "object", "required": ["a"] })).unwrap();
        for (text, expected) in [
            (r#"{"a": 1}"#, true),
            ("<think>{</think>\n{\"a\": 1}\n", true),
            ("```json\n{\"a\": 1}\n```", true),
            (r#"Here: {"a": 1}"#, false),
            (r#"{"b": 1}"#, false),
            (r#"{"a": 1"#, false),
        ] {
            assert_eq!(is_json_of(text, &schema), expected, "{text}");
        }
    }

    #[test]
    fn a_call_names_a_tool_and_fits_its_parameters() {
        let parameters =
            json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
        let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": parameters } }]);
        let of = |completion: &str, tools: Value| {
            let (prompt, mut row) = (json!("?"), Map::new());
            row.insert("tools".into(), tools);
            calls_tools(&RewardInput::new(&prompt, completion, &[], &row))
        };
        let call = |call: &str| format!("Let me see.\n<tool_call>\n{call}\n</tool_call>");
        let good = call(r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#);
        for (completion, expected) in [
            (good.clone(), true),
            (call(r#"{"name": "weather", "arguments": {"town": "Oslo"}}"#), false),
            (call(r#"{"name": "wether", "arguments": {"city": "Oslo"}}"#), false),
            (call(r#"{"name": "weather", "arguments": "Oslo"}"#), false),
            (call("weather(Oslo)"), false),
            (format!("{good}{}", call("{}")), false),
            (format!("{good}<tool_call>"), false),
            ("It rains.".into(), false),
        ] {
            assert_eq!(of(&completion, tools.clone()), Ok(Some(expected)), "{completion}");
        }
        assert_eq!(of(&good, json!(tools.to_string())), Ok(Some(true)));
        assert_eq!(of(&good, Value::Null), Ok(None));
        assert!(of(&good, json!("[")).unwrap_err().starts_with("`tools` is not JSON"));
    }
}
