//! Arrow IPC, one record batch at a time.

mod check; // what messages may not say

use std::{
    fs::File,
    io::{BufReader, Seek},
    path::{Path, PathBuf},
    sync::Arc,
};

use polars_arrow::{
    array::Array,
    datatypes::ArrowSchema,
    io::ipc::read::{FileReader, StreamReader, StreamState, read_file_metadata, read_stream_metadata},
    record_batch::RecordBatchT,
};
use polars_error::PolarsResult;

use super::{
    KeepColumn, RawRow,
    arrow::{self, Batch},
    guard,
    open::BoxedRows,
};
use crate::{DataError, RowId};

type RecordBatch = RecordBatchT<Box<dyn Array>>;

/// Rows of an IPC file with a footer.
pub(super) fn open_file(path: &Path, name: Arc<str>, keep: KeepColumn) -> Result<BoxedRows, DataError> {
    let mut file = checked(path, check::file)?;
    let metadata = guarded(path, || read_file_metadata(&mut file))?;
    let schema = metadata.schema.clone();
    let batches = FileReader::new(file, metadata, None, None);
    Ok(Box::new(IpcRows::new(path, name, &schema, keep, batches)?))
}

/// Rows of an IPC stream, such as the files that `datasets` saves.
pub(super) fn open_stream(path: &Path, name: Arc<str>, keep: KeepColumn) -> Result<BoxedRows, DataError> {
    let mut file = checked(path, check::stream)?;
    let metadata = guarded(path, || read_stream_metadata(&mut file))?;
    let schema = metadata.schema.clone();
    let batches = StreamReader::new(file, metadata, None).map_while(|state| match state {
        Ok(StreamState::Some(batch)) => Some(Ok(batch)),
        // A file that waits for more is at its end.
        Ok(StreamState::Waiting) => None,
        Err(error) => Some(Err(error)),
    });
    Ok(Box::new(IpcRows::new(path, name, &schema, keep, batches)?))
}

/// The file, from its beginning, if nothing in it would make the decoder allocate or recurse without bounds.
fn checked(path: &Path, check: fn(&mut File) -> Result<(), check::Refused>) -> Result<BufReader<File>, DataError> {
    let mut file = File::open(path).map_err(DataError::read(path))?;
    check(&mut file).map_err(|refused| match refused {
        check::Refused::Read(error) => DataError::read(path)(error),
        check::Refused::Damaged(reason) => damaged(path, reason),
    })?;
    file.rewind().map_err(DataError::read(path))?;
    Ok(BufReader::new(file))
}

struct IpcRows<I> {
    path: PathBuf,
    file: Arc<str>,
    names: Arc<[String]>,
    /// Where the columns stand that are kept.
    kept: Vec<usize>,
    batches: I,
    batch: Option<(Arc<Batch>, usize)>,
    next_row: u64,
    failed: bool,
}

impl<I: Iterator<Item = PolarsResult<RecordBatch>>> IpcRows<I> {
    fn new(path: &Path, file: Arc<str>, schema: &ArrowSchema, keep: KeepColumn, batches: I) -> Result<Self, DataError> {
        let names = arrow::names(&arrow::kept(schema, keep).map_err(|reason| damaged(path, reason))?);
        let kept = schema.iter_names().enumerate().filter(|(_, name)| keep(name)).map(|(index, _)| index).collect();
        Ok(Self { path: path.to_owned(), file, names, kept, batches, batch: None, next_row: 0, failed: false })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let batch = guarded(&self.path, || self.batches.next().transpose())?;
        Ok(batch.map(|batch| {
            let columns = self.kept.iter().map(|&index| batch.arrays()[index].clone()).collect();
            Batch { names: Arc::clone(&self.names), columns, num_rows: batch.len() }
        }))
    }
}

impl<I: Iterator<Item = PolarsResult<RecordBatch>>> Iterator for IpcRows<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((batch, next)) = &mut self.batch
                && *next < batch.num_rows
            {
                *next += 1;
                self.next_row += 1;
                return Some(Ok(RawRow::arrow(RowId::row(&self.file, self.next_row), batch, *next - 1)));
            }
            self.batch = None;
            if self.failed {
                return None;
            }
            match self.next_batch() {
                Ok(Some(batch)) => self.batch = Some((Arc::new(batch), 0)),
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
    guard::guarded("its messages do not match its schema", read).map_err(|reason| damaged(path, reason))
}
