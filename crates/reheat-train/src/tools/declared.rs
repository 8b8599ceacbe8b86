//! What the schema of a tool says.

use serde_json::Value;

use super::ToolError;
use crate::program::start_of;

/// The function that a schema declares, with or without the envelope of OpenAI's format.
fn function(schema: &Value) -> &Value {
    schema.get("function").unwrap_or(schema)
}

/// What the tool is called.
pub(super) fn name(schema: &Value) -> Result<&str, ToolError> {
    let name = function(schema).get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    name.ok_or_else(|| fault(schema, "has no `name`".into()))
}

/// The schema of its arguments, if it has one.
pub(super) fn parameters(schema: &Value) -> Option<&Value> {
    function(schema).get("parameters").filter(|parameters| !parameters.is_null())
}

pub(super) fn fault(schema: &Value, reason: String) -> ToolError {
    ToolError::Schema { schema: start_of(&schema.to_string()), reason }
}
