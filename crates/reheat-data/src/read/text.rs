//! Plain text, and rows wrapped in an object.

use std::{
    io::{self, BufRead},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Content, MAX_ROW_BYTES, RawRow, TextUnit,
    json::{Line, read_line},
};
use crate::{DataError, Row, RowId, RowProblem};

/// The column that plain text is put in.
const TEXT_COLUMN: &str = "text";

/// Rows of a plain-text file: lines, paragraphs, or the whole.
pub(super) struct TextRows<R> {
    reader: R,
    file: Arc<str>,
    unit: TextUnit,
    line: u64,
}

impl<R: BufRead> TextRows<R> {
    pub(super) fn new(reader: R, file: Arc<str>, unit: TextUnit) -> Self {
        Self { reader, file, unit, line: 0 }
    }

    fn next_row(&mut self) -> io::Result<Option<RawRow>> {
        let mut text: Vec<u8> = Vec::new();
        let mut first = None;
        let mut too_long = false;
        while let Some(line) = read_line(&mut self.reader)? {
            self.line += 1;
            let line = match line {
                Line::Whole(line) => line,
                Line::TooLong => {
                    too_long = true;
                    Vec::new()
                }
            };
            let blank = !too_long && line.trim_ascii().is_empty();
            match self.unit {
                TextUnit::Line | TextUnit::Paragraph if blank && first.is_none() => continue,
                TextUnit::Paragraph if blank => break,
                _ => {}
            }
            if first.replace(first.unwrap_or(self.line)).is_some() {
                text.push(b'\n');
            }
            too_long |= (text.len() + line.len()) as u64 > MAX_ROW_BYTES;
            if too_long {
                text.clear();
            } else {
                text.extend_from_slice(&line);
            }
            if self.unit == TextUnit::Line {
                break;
            }
        }
        let Some(first) = first else { return Ok(None) };
        let id = RowId::line(&self.file, first);
        Ok(Some(if too_long {
            RawRow::bad(id, RowProblem::TooLarge { limit: MAX_ROW_BYTES })
        } else {
            match String::from_utf8(text) {
                Ok(text) => {
                    let row = Row::from_iter([(TEXT_COLUMN.to_owned(), Value::String(text))]);
                    RawRow::parsed(id, row)
                }
                Err(error) => RawRow::bad(id, RowProblem::NotUtf8 { byte: error.utf8_error().valid_up_to() }),
            }
        }))
    }
}

impl<R: BufRead> Iterator for TextRows<R> {
    type Item = io::Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// The rows of a file that is one object: those in a wrapper around them (`{"data": [...]}`), those that its columns
/// make (`{"prompt": ["a", "b"], "completion": ["x", "y"]}`, as `datasets` has it), or the object itself.
///
/// Only well-known wrappers count, and columns of text or of lists: `{"messages": [{...}]}` is a row, and so are lists
/// of ids.
pub(super) fn wrapped_rows(row: RawRow) -> impl Iterator<Item = Result<RawRow, DataError>> + Send {
    let id = row.id().clone();
    let text = row.text();
    let rows = match row.parse().1 {
        Ok(mut object) => {
            let file: Arc<str> = id.file().into();
            let numbered = |(index, row)| RawRow::parsed(RowId::row(&file, index as u64 + 1), row);
            if let Some(items) = in_wrapper(&mut object) {
                items.into_iter().enumerate().map(numbered).collect()
            } else if let Some(length) = length_of_columns(&object) {
                in_columns(object, length).into_iter().enumerate().map(numbered).collect()
            } else {
                vec![RawRow::parsed(id, object)]
            }
        }
        Err(problem) => vec![RawRow::new(id, Content::Bad(problem, text.map(String::into_bytes)))],
    };
    rows.into_iter().map(Ok)
}

fn in_wrapper(object: &mut Row) -> Option<Vec<Row>> {
    const WRAPPERS: [&str; 6] = ["data", "rows", "examples", "samples", "records", "items"];
    let wrapper = WRAPPERS.into_iter().find(|&wrapper| {
        let items = object.get(wrapper).and_then(Value::as_array);
        items.is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object))
    })?;
    let Some(Value::Array(items)) = object.remove(wrapper) else { return None };
    let row = |item| if let Value::Object(row) = item { Some(row) } else { None };
    Some(items.into_iter().filter_map(row).collect())
}

fn length_of_columns(object: &Row) -> Option<usize> {
    let columns: Vec<_> = object.values().map(Value::as_array).collect::<Option<_>>()?;
    let length = columns.first()?.len();
    let is_column = |items: &[Value]| items.iter().all(Value::is_string) || items.iter().all(Value::is_array);
    let are_columns =
        length > 0 && columns.iter().all(|items| items.len() == length) && columns.iter().any(|items| is_column(items));
    are_columns.then_some(length)
}

fn in_columns(object: Row, length: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..length).map(|_| Row::with_capacity(object.len())).collect();
    for (column, items) in object {
        if let Value::Array(items) = items {
            for (row, item) in rows.iter_mut().zip(items) {
                row.insert(column.clone(), item);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, unit: TextUnit) -> Vec<(u64, String)> {
        let rows = TextRows::new(text.as_bytes(), "f.txt".into(), unit);
        rows.map(|row| {
            let (id, row) = row.unwrap().parse();
            (id.number(), row.unwrap()[TEXT_COLUMN].as_str().unwrap().to_owned())
        })
        .collect()
    }

    #[test]
    fn text_is_cut_as_asked() {
        let text = "\none\ntwo\r\n\n \nthree\n";
        let of = |number, text: &str| (number, text.to_owned());
        assert_eq!(rows(text, TextUnit::Line), [of(2, "one"), of(3, "two"), of(6, "three")]);
        assert_eq!(rows(text, TextUnit::Paragraph), [of(2, "one\ntwo"), of(6, "three")]);
        assert_eq!(rows(text, TextUnit::Document), [of(1, "\none\ntwo\n\n \nthree")]);
    }

    #[test]
    fn a_file_of_one_object_is_told_apart() {
        let rows = |text: &str| {
            let rows = wrapped_rows(RawRow::json(RowId::line(&"f.json".into(), 1), text.as_bytes().to_vec()));
            rows.map(|row| serde_json::to_string(&row.unwrap().parse().1.unwrap()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(rows(r#"{"data": [{"a": 1}, {"a": 2}], "version": 3}"#), [r#"{"a":1}"#, r#"{"a":2}"#]);
        assert_eq!(rows(r#"{"a": ["x", "y"], "n": [1, null]}"#), [r#"{"a":"x","n":1}"#, r#"{"a":"y","n":null}"#]);
        assert_eq!(rows(r#"{"input_ids": [[1, 2], [3]]}"#), [r#"{"input_ids":[1,2]}"#, r#"{"input_ids":[3]}"#]);
        for row in
            [r#"{"messages":[{"role":"user"}]}"#, r#"{"input_ids":[1,2],"labels":[1,2]}"#, r#"{"a":["x"],"b":1}"#]
        {
            assert_eq!(rows(row), [row]);
        }
    }
}
