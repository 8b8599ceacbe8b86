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

/// The rows in an object that is nothing but a wrapper around them (`{"data": [...]}`), or the object itself.
///
/// Only well-known wrappers count: `{"messages": [...]}` is a row.
pub(super) fn wrapped_rows(row: RawRow) -> impl Iterator<Item = Result<RawRow, DataError>> + Send {
    const WRAPPERS: [&str; 6] = ["data", "rows", "examples", "samples", "records", "items"];
    let id = row.id().clone();
    let text = row.text();
    let rows = match row.parse().1 {
        Ok(mut object) => {
            let wrapper = WRAPPERS.into_iter().find(|&wrapper| {
                let items = object.get(wrapper).and_then(Value::as_array);
                items.is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object))
            });
            match wrapper.and_then(|wrapper| object.get_mut(wrapper)).map(Value::take) {
                Some(Value::Array(items)) => {
                    let file: Arc<str> = id.file().into();
                    let row = |(index, item)| match item {
                        Value::Object(row) => RawRow::parsed(RowId::row(&file, index as u64 + 1), row),
                        _ => unreachable!("all items are objects"),
                    };
                    items.into_iter().enumerate().map(row).collect()
                }
                _ => vec![RawRow::parsed(id, object)],
            }
        }
        Err(problem) => vec![RawRow::new(id, Content::Bad(problem, text.map(String::into_bytes)))],
    };
    rows.into_iter().map(Ok)
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
}
