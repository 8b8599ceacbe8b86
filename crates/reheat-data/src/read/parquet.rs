//! Parquet, a few thousand rows of a row group at a time.

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use polars::prelude::{CompatLevel, DataFrame, ParallelStrategy, ParquetReader, PolarsResult, SerReader};
use polars_parquet::read::FileMetadata;

use super::{RawRow, arrow};
use crate::{DataError, Row, RowId};

/// Text that is decoded at once, estimated from the sizes in the footer.
const SLICE_BYTES: u64 = 32 << 20;

pub(crate) struct ParquetRows {
    path: PathBuf,
    file: Arc<str>,
    metadata: Arc<FileMetadata>,
    /// Slices that are still to be read: first row and number of rows.
    slices: VecDeque<(usize, usize)>,
    rows: std::vec::IntoIter<Row>,
    next_row: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, name: Arc<str>) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let file_bytes = file.metadata().map_err(DataError::read(path))?.len();
        let metadata = guarded(path, || {
            let mut reader = ParquetReader::new(file);
            reader.get_metadata().cloned()
        })?;
        check_footer(&metadata, file_bytes).map_err(|reason| damaged(path, reason))?;
        let slices = slices(&metadata);
        Ok(Self { path: path.to_owned(), file: name, metadata, slices, rows: Vec::new().into_iter(), next_row: 0 })
    }

    /// Passes over rows without decoding them and says how many there were.
    pub(super) fn skip_rows(&mut self, count: u64) -> u64 {
        let mut left = count - self.rows.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX)).count() as u64;
        while left > 0
            && let Some((first, length)) = self.slices.pop_front()
        {
            let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(length);
            left -= skipped as u64;
            if skipped < length {
                self.slices.push_front((first + skipped, length - skipped));
            }
        }
        self.next_row += count - left;
        count - left
    }

    fn read_slice(&self, slice: (usize, usize)) -> Result<Vec<Row>, DataError> {
        let file = File::open(&self.path).map_err(DataError::read(&self.path))?;
        let frame = guarded(&self.path, || {
            let mut reader = ParquetReader::new(file);
            reader.set_metadata(Arc::clone(&self.metadata));
            reader.with_slice(Some(slice)).read_parallel(ParallelStrategy::Columns).finish()
        })?;
        if frame.height() != slice.1 {
            let reason = format!("{} rows where the footer says {}", frame.height(), slice.1);
            return Err(damaged(&self.path, reason));
        }
        rows_of_frame(frame).map_err(|reason| damaged(&self.path, reason))
    }
}

impl Iterator for ParquetRows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                self.next_row += 1;
                return Some(Ok(RawRow::parsed(RowId::row(&self.file, self.next_row), row)));
            }
            let slice = self.slices.pop_front()?;
            match self.read_slice(slice) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => {
                    self.slices.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

fn rows_of_frame(frame: DataFrame) -> Result<Vec<Row>, String> {
    let names: Vec<&str> = frame.get_column_names().into_iter().map(|name| name.as_str()).collect();
    let columns: Vec<_> = frame
        .columns()
        .iter()
        .map(|column| column.as_materialized_series().rechunk().to_arrow(0, CompatLevel::newest()))
        .collect();
    arrow::rows(&names, &columns)
}

fn slices(metadata: &FileMetadata) -> VecDeque<(usize, usize)> {
    let mut slices = VecDeque::new();
    let mut first = 0;
    for group in &metadata.row_groups {
        let rows = group.num_rows();
        let parts = (group.total_byte_size() as u64).div_ceil(SLICE_BYTES).max(1) as usize;
        let step = rows.div_ceil(parts).max(1);
        let mut start = 0;
        while start < rows {
            let length = step.min(rows - start);
            slices.push_back((first + start, length));
            start += length;
        }
        first += rows;
    }
    slices
}

/// Refuses what no writer writes before the decoder allocates memory for it.
fn check_footer(metadata: &FileMetadata, file_bytes: u64) -> Result<(), String> {
    let mut num_rows = 0_usize;
    for (index, group) in metadata.row_groups.iter().enumerate() {
        num_rows = num_rows.checked_add(group.num_rows()).ok_or("the footer's row counts overflow")?;
        for column in group.parquet_columns() {
            let data = column.data_page_offset();
            let start = column.dictionary_page_offset().map_or(data, |dictionary| dictionary.min(data));
            let end = start.checked_add(column.compressed_size());
            let inside = start >= 4
                && column.compressed_size() >= 0
                && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= file_bytes);
            if !inside {
                return Err(format!("row group {index} has a column that lies outside of the file"));
            }
            if column.num_values() < 0 || (group.num_rows() > 0 && column.num_values() == 0) {
                return Err(format!("row group {index} has a column of {} values", column.num_values()));
            }
        }
    }
    if num_rows != metadata.num_rows {
        return Err(format!("the footer counts {} rows, its row groups {num_rows}", metadata.num_rows));
    }
    Ok(())
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::Damaged { path: path.to_owned(), kind: "Parquet", reason }
}

/// Runs the decoder, which panics on some damaged files where it should return an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
    arrow::guarded("its pages do not match its footer", read).map_err(|reason| damaged(path, reason))
}
