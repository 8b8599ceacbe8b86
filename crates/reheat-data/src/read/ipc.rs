//! Arrow IPC, one record batch at a time.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use polars::prelude::PolarsResult;
use polars_arrow::{
    array::Array,
    datatypes::ArrowSchema,
    io::ipc::read::{FileReader, StreamReader, StreamState, read_file_metadata, read_stream_metadata},
    record_batch::RecordBatchT,
};

use super::{RawRow, arrow, open::BoxedRows};
use crate::{DataError, Row, RowId};

type Batch = RecordBatchT<Box<dyn Array>>;

/// Rows of an IPC file with a footer.
pub(super) fn open_file(path: &Path, name: Arc<str>) -> Result<BoxedRows, DataError> {
    let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    let metadata = guarded(path, || read_file_metadata(&mut file))?;
    let schema = metadata.schema.clone();
    let batches = FileReader::new(file, metadata, None, None);
    Ok(Box::new(IpcRows::new(path, name, &schema, batches)))
}

/// Rows of an IPC stream, such as the files that `datasets` saves.
pub(super) fn open_stream(path: &Path, name: Arc<str>) -> Result<BoxedRows, DataError> {
    let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    let metadata = guarded(path, || read_stream_metadata(&mut file))?;
    let schema = metadata.schema.clone();
    let batches = StreamReader::new(file, metadata, None).map_while(|state| match state {
        Ok(StreamState::Some(batch)) => Some(Ok(batch)),
        // A file that waits for more is at its end.
        Ok(StreamState::Waiting) => None,
        Err(error) => Some(Err(error)),
    });
    Ok(Box::new(IpcRows::new(path, name, &schema, batches)))
}

struct IpcRows<I> {
    path: PathBuf,
    file: Arc<str>,
    names: Vec<String>,
    batches: I,
    rows: std::vec::IntoIter<Row>,
    next_row: u64,
    failed: bool,
}

impl<I: Iterator<Item = polars::prelude::PolarsResult<Batch>>> IpcRows<I> {
    fn new(path: &Path, file: Arc<str>, schema: &ArrowSchema, batches: I) -> Self {
        let names = schema.iter_names().map(|name| name.to_string()).collect();
        let rows = Vec::new().into_iter();
        Self { path: path.to_owned(), file, names, batches, rows, next_row: 0, failed: false }
    }

    fn next_batch(&mut self) -> Result<Option<Vec<Row>>, DataError> {
        let Some(batch) = guarded(&self.path, || self.batches.next().transpose())? else { return Ok(None) };
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        arrow::rows(&names, batch.arrays()).map(Some).map_err(|reason| damaged(&self.path, reason))
    }
}

impl<I: Iterator<Item = polars::prelude::PolarsResult<Batch>>> Iterator for IpcRows<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                self.next_row += 1;
                return Some(Ok(RawRow::parsed(RowId::row(&self.file, self.next_row), row)));
            }
            if self.failed {
                return None;
            }
            match self.next_batch() {
                Ok(Some(rows)) => self.rows = rows.into_iter(),
                Ok(None) => return None,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::Damaged { path: path.to_owned(), kind: "Arrow", reason }
}

/// Runs the decoder, which panics on some damaged files where it should return an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
    arrow::guarded("its messages do not match its schema", read).map_err(|reason| damaged(path, reason))
}
