//! Files to rows.
//!
//! Every reader streams: it holds one row, one record batch or a slice of one row group at a time. What a row is
//! made of is parsed later, by many threads ([`RawRow::parse`]).

mod open; // what a file is, and the reader for it
mod json;
mod csv;
mod text;
mod parquet;
mod ipc;
mod arrow; // Arrow arrays to JSON
mod limit;

pub(crate) use self::{
    limit::MAX_ROW_BYTES,
    open::{TextUnit, open},
};

use serde_json::Value;

use crate::{DataError, Row, RowId, RowProblem, row};

/// The rows of one file. An error in between ends the file; a bad row doesn't.
pub(crate) type RawRows = Box<dyn Iterator<Item = Result<RawRow, DataError>> + Send>;

/// A row that isn't parsed yet.
#[derive(Debug)]
pub(crate) struct RawRow {
    id: RowId,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Json(Vec<u8>),
    Parsed(Row),
    Bad(RowProblem),
}

impl RawRow {
    fn json(id: RowId, bytes: Vec<u8>) -> Self {
        Self { id, content: Content::Json(bytes) }
    }

    pub(crate) fn parsed(id: RowId, row: Row) -> Self {
        Self { id, content: Content::Parsed(row) }
    }

    fn bad(id: RowId, problem: RowProblem) -> Self {
        Self { id, content: Content::Bad(problem) }
    }

    pub(crate) fn id(&self) -> &RowId {
        &self.id
    }

    /// The row's text where it came as text; a bad row is set aside as it was found.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.content {
            Content::Json(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Content::Parsed(_) | Content::Bad(_) => None,
        }
    }

    pub(crate) fn parse(self) -> (RowId, Result<Row, RowProblem>) {
        let row = match self.content {
            Content::Json(bytes) => parse(&bytes),
            Content::Parsed(row) => Ok(row),
            Content::Bad(problem) => Err(problem),
        };
        (self.id, row)
    }
}

fn parse(bytes: &[u8]) -> Result<Row, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowProblem::NotUtf8 { byte: error.valid_up_to() })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(RowProblem::NotAnObject { found: row::kind_of(&other) }),
        Err(error) => Err(RowProblem::NotJson { reason: json_reason(&error) }),
    }
}

/// serde_json counts lines from the row's first; the column is of use only where the row is one line.
fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    match error.line() {
        1 => format!("{reason} at column {}", error.column()),
        line => format!("{reason} in line {line} of the row, column {}", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_object_in_its_own_order() {
        assert_eq!(
            parse(br#"{"b": 1, "a": {"z": null, "y": 2.0}}"#).map(|row| serde_json::to_string(&row).unwrap()).unwrap(),
            r#"{"b":1,"a":{"z":null,"y":2.0}}"#
        );
    }

    #[test]
    fn problems_say_where() {
        let problem = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(problem(b"{\"a\": 1,, }"), "not JSON: key must be a string at column 9");
        assert_eq!(problem(b"[1]"), "a row must be an object, found a list");
        assert_eq!(problem(b"{\"a\": \"\xff\"}"), "byte 7 of the row is not UTF-8");
        assert!(problem(&[b'['; 100_000]).contains("recursion limit exceeded"));
    }
}
