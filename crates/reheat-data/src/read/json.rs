//! JSON values one after another: objects on lines of their own, in a list, or simply in sequence.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use super::{MAX_ROW_BYTES, RawRow};
use crate::{RowId, RowProblem};

/// Rows of a file with one JSON object on each line. A damaged line costs that line alone.
pub(super) struct Lines<R> {
    reader: R,
    file: Arc<str>,
    line: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, file: Arc<str>) -> Self {
        Self { reader, file, line: 0 }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match read_line(&mut self.reader) {
                Ok(None) => return None,
                Ok(Some(line)) => line,
                Err(error) => return Some(Err(error)),
            };
            self.line += 1;
            let id = RowId::line(&self.file, self.line);
            match line {
                Line::Whole(bytes) if bytes.trim_ascii().is_empty() => {}
                Line::Whole(bytes) => return Some(Ok(RawRow::json(id, bytes))),
                Line::TooLong => return Some(Ok(RawRow::bad(id, RowProblem::TooLarge { limit: MAX_ROW_BYTES }))),
            }
        }
    }
}

/// A line without its end, or word that it was too long to keep.
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// The next line. Of a line that exceeds [`MAX_ROW_BYTES`] nothing is kept, and the reader stands after it.
pub(super) fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let read = reader.by_ref().take(MAX_ROW_BYTES + 2).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 > MAX_ROW_BYTES {
        reader.skip_until(b'\n')?;
    }
    Ok(Some(if line.len() as u64 > MAX_ROW_BYTES { Line::TooLong } else { Line::Whole(line) }))
}

/// Rows of a file that holds one list, or values in sequence that may span lines.
pub(super) struct Values<R> {
    reader: R,
    file: Arc<str>,
    line: u64,
    in_list: bool,
    /// The list begins with a string: it is one of texts, as `datasets` reads it.
    of_texts: bool,
    finished: bool,
}

impl<R: BufRead> Values<R> {
    /// Reads the items of the list that the reader stands before.
    pub(super) fn list(reader: R, file: Arc<str>) -> Self {
        Self { reader, file, line: 1, in_list: true, of_texts: false, finished: false }.after_bracket()
    }

    /// Reads values up to the end of the file.
    pub(super) fn sequence(reader: R, file: Arc<str>) -> Self {
        Self { reader, file, line: 1, in_list: false, of_texts: false, finished: false }
    }

    fn after_bracket(mut self) -> Self {
        // The caller has seen the bracket, so an error here comes again at the first item.
        if let Ok(Some(b'[')) = self.skip_blank(|byte| byte.is_ascii_whitespace()) {
            self.reader.consume(1);
            let first = self.skip_blank(|byte| byte.is_ascii_whitespace());
            self.of_texts = matches!(first, Ok(Some(b'"')));
        }
        self
    }

    /// Skips bytes and gives the first that isn't skipped, which stays in the reader.
    fn skip_blank(&mut self, skip: impl Fn(u8) -> bool) -> io::Result<Option<u8>> {
        loop {
            let buffer = fill(&mut self.reader)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let length = buffer.iter().take_while(|&&byte| skip(byte)).count();
            let next = buffer.get(length).copied();
            self.line += buffer[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.reader.consume(length);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn next_row(&mut self) -> io::Result<Option<RawRow>> {
        let in_list = self.in_list;
        let next = self.skip_blank(|byte| byte.is_ascii_whitespace() || (in_list && byte == b','))?;
        let id = RowId::line(&self.file, self.line);
        let bad = |reason: &str| RawRow::bad(id.clone(), RowProblem::NotJson { reason: reason.to_owned() });
        match next {
            None if in_list => {
                self.finished = true;
                return Ok(Some(bad("the file ends before the list does")));
            }
            None => {
                self.finished = true;
                return Ok(None);
            }
            Some(b']') if in_list => {
                self.reader.consume(1);
                self.finished = true;
                let rest = self.skip_blank(|byte| byte.is_ascii_whitespace())?;
                return Ok(rest.map(|_| bad("the file goes on after the list")));
            }
            Some(_) => {}
        }
        let mut bytes = Vec::new();
        let outcome = self.read_value(&mut bytes)?;
        Ok(Some(match outcome {
            ValueEnd::Complete if self.of_texts && bytes.starts_with(b"\"") => {
                RawRow::json(id, [b"{\"text\":", bytes.as_slice(), b"}"].concat())
            }
            ValueEnd::Complete => RawRow::json(id, bytes),
            ValueEnd::EndOfFile => {
                self.finished = true;
                bad("the file ends inside the row")
            }
            // Where the next row begins can't be told without reading this one, so nothing after it can be used.
            ValueEnd::TooLong => {
                self.finished = true;
                RawRow::bad(id, RowProblem::TooLarge { limit: MAX_ROW_BYTES })
            }
        }))
    }

    /// Reads one value; nesting and strings are followed, all else is left to the parser.
    fn read_value(&mut self, bytes: &mut Vec<u8>) -> io::Result<ValueEnd> {
        let mut scan = Scan::default();
        loop {
            let buffer = fill(&mut self.reader)?;
            if buffer.is_empty() {
                // A bare number or word may end with the file; the parser says what it thinks of it.
                return Ok(if scan.depth == 0 && !scan.in_string { ValueEnd::Complete } else { ValueEnd::EndOfFile });
            }
            let (length, complete) = scan.advance(buffer);
            self.line += buffer[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
            bytes.extend_from_slice(&buffer[..length]);
            self.reader.consume(length);
            if complete {
                return Ok(ValueEnd::Complete);
            }
            if bytes.len() as u64 > MAX_ROW_BYTES {
                return Ok(ValueEnd::TooLong);
            }
        }
    }
}

impl<R: BufRead> Iterator for Values<R> {
    type Item = io::Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let row = self.next_row();
        self.finished |= row.is_err();
        row.transpose()
    }
}

enum ValueEnd {
    Complete,
    EndOfFile,
    TooLong,
}

fn fill(reader: &mut impl BufRead) -> io::Result<&[u8]> {
    loop {
        match reader.fill_buf() {
            // Asked again below because the borrow checker can't see that this borrow ends.
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reader.fill_buf()
}

/// Follows nesting and strings through a JSON value.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
    started: bool,
}

impl Scan {
    /// How many bytes belong to the value, and whether it ends with them.
    fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return (index + 1, true);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if self.depth == 0 && self.started => return (index, true),
                b'"' => self.in_string = true,
                b'{' | b'[' if self.depth == 0 && self.started => return (index, true),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    if self.depth <= 1 {
                        // A closing bracket that opens nothing is a row of its own if it comes first, or it would
                        // never be passed.
                        let own = self.depth == 1 || !self.started;
                        return (index + usize::from(own), true);
                    }
                    self.depth -= 1;
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 && self.started => return (index, true),
                _ => {}
            }
            self.started = true;
        }
        (bytes.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, list: bool) -> Vec<(u64, Result<String, String>)> {
        // A buffer of three bytes puts every seam somewhere else.
        let reader = io::BufReader::with_capacity(3, text.as_bytes());
        let rows = if list { Values::list(reader, "f".into()) } else { Values::sequence(reader, "f".into()) };
        rows.map(|row| {
            let (id, row) = row.unwrap().parse();
            (id.number(), row.map(|row| serde_json::to_string(&row).unwrap()).map_err(|problem| problem.to_string()))
        })
        .collect()
    }

    #[test]
    fn items_of_a_list_are_rows_with_their_lines() {
        let rows = split("[\n  {\"a\": \"}],\\\"\"},\n\n {\"b\":\n [1, {}]}\n]\n", true);
        assert_eq!(rows, [(2, Ok(r#"{"a":"}],\""}"#.to_owned())), (4, Ok(r#"{"b":[1,{}]}"#.to_owned()))]);
    }

    #[test]
    fn values_in_sequence_are_rows() {
        let rows = split("{\n\"a\":1}{\"b\":2}\n  {\"c\":3}", false);
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(rows.iter().all(|row| row.1.is_ok()));
    }

    /// As `datasets` reads them; a string among objects is none.
    #[test]
    fn a_list_of_strings_is_one_of_texts() {
        let rows = split("[\n \"a\", \"b\\n]\",\n {\"c\": 1}, 2]", true);
        assert_eq!(rows[..2], [(2, Ok(r#"{"text":"a"}"#.to_owned())), (2, Ok(r#"{"text":"b\n]"}"#.to_owned()))]);
        assert_eq!(rows[2], (3, Ok(r#"{"c":1}"#.to_owned())));
        assert!(rows[3].1.is_err());
        assert!(split(r#"[{"a": 1}, "b"]"#, true)[1].1.is_err());
    }

    #[test]
    fn what_is_no_object_is_a_bad_row_and_reading_goes_on() {
        let rows = split(r#"[1, "x", null, [2], {"a": 1}]"#, true);
        assert_eq!(rows.len(), 5);
        assert_eq!(rows.iter().filter(|row| row.1.is_ok()).count(), 1);
    }

    #[test]
    fn a_cut_file_ends_in_one_bad_row() {
        for text in ["[{\"a\": 1}, {\"b\": [", "[{\"a\": 1},", "[{\"a\": 1}"] {
            let rows = split(text, true);
            assert_eq!(rows.len(), 2, "{text}");
            assert!(rows[1].1.as_ref().unwrap_err().contains("the file ends"), "{text}");
        }
    }

    #[test]
    fn stray_brackets_come_to_an_end() {
        assert_eq!(split("}]}", false).len(), 3);
    }
}
