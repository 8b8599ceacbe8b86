use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value};

/// One row: column names and values, in the order of the file.
///
/// A row is JSON and never a column of a unified schema. Unifying the structs of all rows, as Arrow does, invents a
/// null for every key that another row has, and a tool call's arguments would reach the template with them.
pub type Row = Map<String, Value>;

/// Where a row stands: file and line, or file and row number where the file has no lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowId {
    file: Arc<str>,
    number: u64,
    unit: Unit,
}

/// What [`RowId`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Line,
    Row,
}

impl RowId {
    pub(crate) fn line(file: &Arc<str>, number: u64) -> Self {
        Self { file: Arc::clone(file), number, unit: Unit::Line }
    }

    pub(crate) fn row(file: &Arc<str>, number: u64) -> Self {
        Self { file: Arc::clone(file), number, unit: Unit::Row }
    }

    /// The file as it was named by the user.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Line in a text file, row in a binary one; counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Line => write!(f, "{}:{}", self.file, self.number),
            Unit::Row => write!(f, "{}: row {}", self.file, self.number),
        }
    }
}

impl Serialize for RowId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = match text.rsplit_once(": row ") {
            Some((file, number)) => number.parse().ok().map(|number| Self::row(&file.into(), number)),
            None => {
                text.rsplit_once(':').and_then(|(file, number)| Some(Self::line(&file.into(), number.parse().ok()?)))
            }
        };
        parsed.ok_or_else(|| D::Error::custom("not the place of a row"))
    }
}

/// The kind of a JSON value in the words of JSON.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Bytes of the text in a value, with a few for each thing that isn't text.
pub(crate) fn text_bytes(value: &Value) -> usize {
    const OTHER: usize = 8;
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => OTHER + items.iter().map(text_bytes).sum::<usize>(),
        Value::Object(object) => OTHER + object.iter().map(|(key, value)| key.len() + text_bytes(value)).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) => OTHER,
    }
}

/// The value of a column, where a null counts as none: Parquet and CSV have no other way to leave a value out.
pub(crate) fn present<'a>(row: &'a Row, column: &str) -> Option<&'a Value> {
    row.get(column).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_editors_print_them() {
        let file: Arc<str> = "data/train.jsonl".into();
        assert_eq!(RowId::line(&file, 17).to_string(), "data/train.jsonl:17");
        assert_eq!(RowId::row(&file, 3).to_string(), "data/train.jsonl: row 3");
    }
}
