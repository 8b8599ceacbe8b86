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
mod guard; // decoders that panic
mod limit;

pub use self::guard::panic_is_expected;
pub(crate) use self::{
    limit::MAX_ROW_BYTES,
    open::{RawRows, TextUnit, count, open},
};

use std::sync::Arc;

use reheat_chat::wide_integer;
use serde_json::Value;

use crate::{Row, RowId, RowProblem, row, source::Operations};

/// Whether a column is wanted. Files that hold columns apart skip the others; of those that hold rows, all come.
pub(crate) type KeepColumn<'a> = &'a dyn Fn(&str) -> bool;

/// A row that isn't parsed yet: that is work for many threads.
#[derive(Debug)]
pub struct RawRow {
    id: RowId,
    content: Content,
    /// Which dataset of a mixture it belongs to.
    part: usize,
    operations: Option<Arc<Operations>>,
}

#[derive(Debug)]
enum Content {
    Json(Vec<u8>),
    /// A row of those that were decoded together.
    Arrow(Arc<arrow::Batch>, usize),
    Parsed(Row),
    /// What is wrong, and the text where it is known.
    Bad(RowProblem, Option<Vec<u8>>),
}

impl RawRow {
    fn new(id: RowId, content: Content) -> Self {
        Self { id, content, part: 0, operations: None }
    }

    fn json(id: RowId, bytes: Vec<u8>) -> Self {
        Self::new(id, Content::Json(bytes))
    }

    pub(crate) fn parsed(id: RowId, row: Row) -> Self {
        Self::new(id, Content::Parsed(row))
    }

    fn arrow(id: RowId, batch: &Arc<arrow::Batch>, index: usize) -> Self {
        Self::new(id, Content::Arrow(Arc::clone(batch), index))
    }

    fn bad(id: RowId, problem: RowProblem) -> Self {
        Self::new(id, Content::Bad(problem, None))
    }

    pub(crate) fn in_part(self, part: usize) -> Self {
        Self { part, ..self }
    }

    pub(crate) fn with(self, operations: &Arc<Operations>) -> Self {
        Self { operations: Some(Arc::clone(operations)), ..self }
    }

    /// Where the row stands.
    #[must_use]
    pub fn id(&self) -> &RowId {
        &self.id
    }

    /// Which dataset of a mixture the row belongs to, from 0. Rows of one file in one dataset have one format.
    #[must_use]
    pub fn part(&self) -> usize {
        self.part
    }

    /// The row's text as it was found, or as JSON where it didn't come as text. Makes a copy.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match &self.content {
            Content::Json(bytes) | Content::Bad(_, Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Content::Arrow(batch, index) => serde_json::to_string(&arrow_row(batch, *index).ok()?).ok(),
            Content::Parsed(row) => serde_json::to_string(row).ok(),
            Content::Bad(_, None) => None,
        }
    }

    /// About how many bytes of text the row has.
    pub(crate) fn bytes(&self) -> usize {
        match &self.content {
            Content::Json(bytes) => bytes.len(),
            Content::Arrow(batch, index) => batch.row_bytes(*index),
            Content::Parsed(row) => row.iter().map(|(column, value)| column.len() + row::text_bytes(value)).sum(),
            Content::Bad(_, text) => text.as_ref().map_or(0, Vec::len),
        }
    }

    /// The row's columns, renamed and reduced as the dataset's settings ask, or why it has none.
    pub fn parse(self) -> (RowId, Result<Row, RowProblem>) {
        let row = match self.content {
            Content::Json(bytes) => parse(&bytes),
            Content::Arrow(batch, index) => arrow_row(&batch, index),
            Content::Parsed(row) => Ok(row),
            Content::Bad(problem, _) => Err(problem),
        };
        let row = match self.operations {
            Some(operations) => row.and_then(|row| operations.apply(row)),
            None => row,
        };
        (self.id, row)
    }

    /// The row as it is passed on; `None` where a filter leaves it out. A row that can't be judged stays, for its
    /// problem to be met.
    pub(crate) fn judged_by(self, operations: &Operations) -> Option<Self> {
        let id = self.id;
        let bad = |problem, text| Some(Self::new(id.clone(), Content::Bad(problem, text)));
        let (row, text) = match self.content {
            Content::Json(bytes) => (parse(&bytes), Some(bytes)),
            Content::Arrow(batch, index) => (arrow_row(&batch, index), None),
            Content::Parsed(row) => (Ok(row), None),
            Content::Bad(problem, text) => return bad(problem, text),
        };
        match row.and_then(|row| operations.judged(row)) {
            Ok(row) => row.map(|row| Self::parsed(id, row)),
            Err(problem) => bad(problem, text),
        }
    }
}

/// A date out of all bounds makes the display of dates panic.
fn arrow_row(batch: &arrow::Batch, index: usize) -> Result<Row, RowProblem> {
    let damaged = |reason| RowProblem::Undecodable { reason };
    guard::guarded("a value is not what its type says", || Ok(batch.row(index))).map_err(damaged)?
}

fn parse(bytes: &[u8]) -> Result<Row, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowProblem::NotUtf8 { byte: error.valid_up_to() })?;
    if let Some(integer) = wide_integer(text) {
        return Err(RowProblem::WideInteger { integer: integer.to_owned() });
    }
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
        assert_eq!(problem(b"{\"a\": 18446744073709551616}"), "the integer 18446744073709551616 is beyond 64 bits");
        assert_eq!(problem(b"[1]"), "a row must be an object, found a list");
        assert_eq!(problem(b"{\"a\": \"\xff\"}"), "byte 7 of the row is not UTF-8");
        assert!(problem(&[b'['; 100_000]).contains("recursion limit exceeded"));
    }
}
