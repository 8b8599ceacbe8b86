use std::borrow::Cow;

use reheat_chat::wide_integer;
use serde_json::Value;

use crate::{
    Row, RowProblem,
    row::{kind_of, present},
};

/// Names of a row's columns, for a message.
pub(crate) fn columns_of(row: &Row) -> String {
    if row.is_empty() {
        return "no columns".to_owned();
    }
    row.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn wrong(field: impl Into<String>, expected: &'static str, found: &Value) -> RowProblem {
    let found = match found {
        Value::String(text) if text.len() <= 40 => format!("the string {text:?}"),
        Value::Number(number) => format!("the number {number}"),
        other => kind_of(other).to_owned(),
    };
    RowProblem::WrongType { field: field.into(), expected, found }
}

pub(super) fn missing(row: &Row, field: &str) -> RowProblem {
    RowProblem::MissingField { field: field.to_owned(), columns: columns_of(row) }
}

/// Takes a column that must be there.
pub(super) fn take(row: &mut Row, column: &str) -> Result<Value, RowProblem> {
    if present(row, column).is_none() {
        let is_null = row.contains_key(column);
        return Err(if is_null { RowProblem::Empty { field: column.to_owned() } } else { missing(row, column) });
    }
    Ok(row.get_mut(column).map(Value::take).unwrap_or_default())
}

/// Takes a column where it is there.
pub(super) fn take_optional(row: &mut Row, column: &str) -> Option<Value> {
    row.get_mut(column).map(Value::take).filter(|value| !value.is_null())
}

/// Takes a column of text that must be there. Numbers and booleans count as text: `{"answer": 72}` is common.
pub(super) fn take_text(row: &mut Row, column: &str) -> Result<String, RowProblem> {
    let value = take(row, column)?;
    text(value, column)
}

pub(super) fn text(value: Value, field: &str) -> Result<String, RowProblem> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        other => Err(wrong(field, "text", &other)),
    }
}

/// A list or object that may have been written as JSON in a string, as CSV has to and Parquet often does.
///
/// # Errors
/// If an integer in it would lose digits.
pub(super) fn from_json_text(value: Value) -> Result<Value, RowProblem> {
    let Value::String(text) = &value else { return Ok(value) };
    match written_in(text) {
        None => Ok(value),
        Some(parsed) => match wide_integer(text) {
            Some(integer) => Err(RowProblem::WideInteger { integer: integer.to_owned() }),
            None => Ok(parsed),
        },
    }
}

/// As [`from_json_text`], for looking only.
pub(super) fn seen_through_json_text(value: &Value) -> Cow<'_, Value> {
    value.as_str().and_then(written_in).map_or(Cow::Borrowed(value), Cow::Owned)
}

/// The list or object that a text is the JSON of.
fn written_in(text: &str) -> Option<Value> {
    text.trim_start().starts_with(['[', '{']).then(|| serde_json::from_str(text).ok())?
}

pub(super) fn list(value: Value, field: &str) -> Result<Vec<Value>, RowProblem> {
    match from_json_text(value)? {
        Value::Array(items) => Ok(items),
        other => Err(wrong(field, "a list", &other)),
    }
}

pub(super) fn list_of_texts(value: Value, field: &str) -> Result<Vec<String>, RowProblem> {
    let items = list(value, field)?;
    items.into_iter().enumerate().map(|(index, item)| text(item, &format!("{field}[{index}]"))).collect()
}

/// A boolean, or what stands for one in CSV and in older datasets.
pub(super) fn boolean(value: &Value, field: &str) -> Result<bool, RowProblem> {
    let given = match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "true" | "1" | "+" => Some(true),
            "false" | "0" | "-" => Some(false),
            _ => None,
        },
        _ => None,
    };
    given.ok_or_else(|| wrong(field, "true or false", value))
}
