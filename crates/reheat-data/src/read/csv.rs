//! Comma- or tab-separated values as RFC 4180 has them.
//!
//! Cells stay text: guessing types turns the answer `007` into 7. A reader of our own because a cell may hold lines,
//! errors have to name the line, and a forgotten quote must not pull the rest of a large file into memory.

use std::{
    io::{self, BufRead},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{MAX_ROW_BYTES, RawRow};
use crate::{DataError, Row, RowId, RowProblem};

/// What stands between cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separator {
    Tab,
    /// A comma, unless the header has semicolons or tabs instead.
    Sniffed,
}

pub(super) struct CsvRows<R> {
    reader: R,
    path: PathBuf,
    file: Arc<str>,
    separator: u8,
    header: Vec<String>,
    line: u64,
    finished: bool,
}

/// A cell; `None` where there is nothing, not even quotes.
type Cell = Option<Vec<u8>>;

enum Record {
    Cells(Vec<Cell>),
    TooLarge,
    OpenQuote,
}

impl<R: BufRead> CsvRows<R> {
    pub(super) fn open(path: &Path, mut reader: R, file: Arc<str>, separator: Separator) -> Result<Self, DataError> {
        let damaged = |reason: &str| DataError::Damaged {
            path: path.to_owned(),
            kind: "CSV with a header",
            reason: reason.to_owned(),
        };
        let separator = match separator {
            Separator::Tab => b'\t',
            Separator::Sniffed => sniff(reader.fill_buf().map_err(DataError::read(path))?),
        };
        let mut rows =
            Self { reader, path: path.to_owned(), file, separator, header: Vec::new(), line: 1, finished: false };
        match rows.record().map_err(DataError::read(path))? {
            None => rows.finished = true,
            Some(Record::Cells(cells)) => {
                for cell in cells {
                    let name =
                        String::from_utf8(cell.unwrap_or_default()).map_err(|_| damaged("the header is not UTF-8"))?;
                    if rows.header.contains(&name) {
                        return Err(damaged(&format!("two columns are named `{name}`")));
                    }
                    rows.header.push(name);
                }
            }
            Some(Record::TooLarge | Record::OpenQuote) => return Err(damaged("the header does not end")),
        }
        Ok(rows)
    }

    /// Reads cells up to the end of a line that isn't inside quotes.
    fn record(&mut self) -> io::Result<Option<Record>> {
        let mut cells: Vec<Cell> = Vec::new();
        let mut cell: Cell = None;
        let mut state = State::Start;
        let mut size = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(match state {
                    State::Start if cells.is_empty() => None,
                    State::Quoted => Some(Record::OpenQuote),
                    _ => {
                        cells.push(cell);
                        Some(Record::Cells(cells))
                    }
                });
            }
            let mut used = 0;
            let mut ended = false;
            for &byte in buffer {
                used += 1;
                let (next, action) = state.step(byte, self.separator);
                state = next;
                match action {
                    Action::Keep => cell.get_or_insert_default().push(byte),
                    Action::Open => cell = Some(Vec::new()),
                    Action::EndCell => cells.push(cell.take()),
                    Action::EndRecord => ended = true,
                    Action::Skip => {}
                }
                self.line += u64::from(byte == b'\n');
                if ended {
                    break;
                }
            }
            size += used as u64;
            self.reader.consume(used);
            if ended {
                trim_carriage_return(&mut cell, state);
                cells.push(cell);
                return Ok(Some(Record::Cells(cells)));
            }
            if size > MAX_ROW_BYTES {
                return Ok(Some(Record::TooLarge));
            }
        }
    }

    fn next_row(&mut self) -> Result<Option<RawRow>, DataError> {
        loop {
            let id = RowId::line(&self.file, self.line);
            let record = self.record().map_err(DataError::read(&self.path))?;
            let cells = match record {
                None => return Ok(None),
                Some(Record::Cells(cells)) => cells,
                // Where the quote should have ended can't be known, so nothing after it can be trusted.
                Some(record) => {
                    self.finished = true;
                    return Ok(Some(RawRow::bad(
                        id,
                        match record {
                            Record::TooLarge => RowProblem::TooLarge { limit: MAX_ROW_BYTES },
                            _ => RowProblem::NotCsv {
                                reason: "a quote is not closed before the end of the file".to_owned(),
                            },
                        },
                    )));
                }
            };
            if cells.len() == 1 && cells[0].is_none() {
                continue; // a blank line
            }
            return Ok(Some(match self.row(cells) {
                Ok(row) => RawRow::parsed(id, row),
                Err(problem) => RawRow::bad(id, problem),
            }));
        }
    }

    fn row(&self, cells: Vec<Cell>) -> Result<Row, RowProblem> {
        if cells.len() != self.header.len() {
            let reason = format!("it has {} cells, the header {}", cells.len(), self.header.len());
            return Err(RowProblem::NotCsv { reason });
        }
        let mut row = Row::with_capacity(cells.len());
        for (name, cell) in self.header.iter().zip(cells) {
            let value = match cell {
                None => Value::Null,
                Some(cell) => Value::String(
                    String::from_utf8(cell)
                        .map_err(|error| RowProblem::NotUtf8 { byte: error.utf8_error().valid_up_to() })?,
                ),
            };
            row.insert(name.clone(), value);
        }
        Ok(row)
    }
}

impl<R: BufRead> Iterator for CsvRows<R> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let row = self.next_row().transpose();
        self.finished |= matches!(row, Some(Err(_)) | None);
        row
    }
}

fn sniff(start: &[u8]) -> u8 {
    let header = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    [b',', b';', b'\t'].into_iter().find(|separator| header.contains(separator)).unwrap_or(b',')
}

fn trim_carriage_return(cell: &mut Cell, state: State) {
    if state == State::Bare
        && let Some(bytes) = cell
        && bytes.last() == Some(&b'\r')
    {
        bytes.pop();
        if bytes.is_empty() {
            *cell = None;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a cell.
    Start,
    Bare,
    Quoted,
    /// After a quote inside quotes: the end, or the first half of a doubled one.
    Quote,
}

enum Action {
    Keep,
    Open,
    EndCell,
    EndRecord,
    Skip,
}

impl State {
    fn step(self, byte: u8, separator: u8) -> (Self, Action) {
        match (self, byte) {
            (Self::Quoted, b'"') => (Self::Quote, Action::Skip),
            (Self::Quoted, _) => (Self::Quoted, Action::Keep),
            (Self::Quote, b'"') => (Self::Quoted, Action::Keep),
            (Self::Quote, b'\r') => (Self::Quote, Action::Skip),
            (Self::Start, b'"') => (Self::Quoted, Action::Open),
            (_, byte) if byte == separator => (Self::Start, Action::EndCell),
            (state, b'\n') => (state, Action::EndRecord),
            (_, _) => (Self::Bare, Action::Keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(u64, Result<String, String>)> {
        // A buffer of two bytes puts every seam somewhere else.
        let reader = io::BufReader::with_capacity(2, text.as_bytes());
        let rows = CsvRows::open(Path::new("f.csv"), reader, "f.csv".into(), Separator::Sniffed).unwrap();
        rows.map(|row| {
            let (id, row) = row.unwrap().parse();
            (id.number(), row.map(|row| serde_json::to_string(&row).unwrap()).map_err(|problem| problem.to_string()))
        })
        .collect()
    }

    #[test]
    fn cells_hold_quotes_separators_and_lines() {
        let found = rows("a,b\r\n1,\"x, \"\"y\"\"\nz\"\r\n\n,\"\"\n007,é");
        let expected =
            [(2, r#"{"a":"1","b":"x, \"y\"\nz"}"#), (5, r#"{"a":null,"b":""}"#), (6, r#"{"a":"007","b":"é"}"#)];
        assert_eq!(found, expected.map(|(line, row)| (line, Ok(row.to_owned()))));
    }

    #[test]
    fn rows_of_another_width_and_open_quotes_are_bad() {
        let found = rows("a,b\n1\n1,2,3\n1,\"2\n3,4\n");
        let problems: Vec<_> = found.into_iter().map(|(line, row)| (line, row.unwrap_err())).collect();
        assert_eq!(
            problems,
            [
                (2, "not a row of this table: it has 1 cells, the header 2".to_owned()),
                (3, "not a row of this table: it has 3 cells, the header 2".to_owned()),
                (4, "not a row of this table: a quote is not closed before the end of the file".to_owned()),
            ]
        );
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        assert!(rows("").is_empty());
        assert!(rows("a,b\n").is_empty());
    }
}
