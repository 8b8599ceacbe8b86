//! Parquet, a few pages of each column at a time.
//!
//! Many files have one row group that is as large as they are, so a row group is never read whole: [`pages`] inflates
//! page by page, and the decoder of Polars is shown the pages that hold the next few hundred rows.

mod pages; // the pages of a column, one after the other
mod footer; // what a footer may not say

use std::{
    collections::VecDeque,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use polars_arrow::{array::Array, compute::concatenate::concatenate, datatypes::Field};
use polars_error::PolarsResult;
use polars_parquet::{
    parquet::{
        error::{ParquetError, ParquetResult},
        metadata::{ColumnChunkMetadata, FileMetadata},
    },
    read::{Filter, column_iter_to_arrays, infer_schema, read_metadata},
};

use self::pages::ColumnPages;
use super::{
    KeepColumn, RawRow,
    arrow::{self, Batch},
    guard,
};
use crate::{DataError, RowId};

/// Bytes of values that are decoded together, by the sizes in the footer.
const BATCH_BYTES: u64 = 16 << 20;

/// Most rows that are decoded together.
const BATCH_ROWS: u64 = 4096;

/// Most bytes of inflated pages at hand, for all columns together.
const WINDOW_BYTES: u64 = 1 << 30;

pub(crate) struct ParquetRows {
    path: PathBuf,
    name: Arc<str>,
    file: Arc<File>,
    metadata: Arc<FileMetadata>,
    /// The columns that are kept.
    fields: Vec<Field>,
    names: Arc<[String]>,
    /// Row groups that are still to be read.
    groups: VecDeque<usize>,
    /// Most rows that are decoded together.
    max_batch_rows: u64,
    /// The row group that is being read.
    group: Option<Group>,
    /// Rows of the next row group that are passed over.
    skip: u64,
    batch: Option<(Arc<Batch>, usize)>,
    next_row: u64,
}

/// A row group with its columns' pages.
struct Group {
    columns: Vec<Column>,
    num_rows: u64,
    batch_rows: u64,
    next_row: u64,
}

/// A column of the schema: the pages of each of its leaves.
struct Column {
    field: Field,
    leaves: Vec<ColumnPages>,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, name: Arc<str>, keep: KeepColumn) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(DataError::read(path))?;
        let file_bytes = file.metadata().map_err(DataError::read(path))?.len();
        let walked = footer::check_bytes(&mut file, file_bytes).map_err(DataError::read(path))?;
        walked.map_err(|reason| damaged(path, reason))?;
        let (metadata, schema) = guarded(path, || {
            let mut metadata = read_metadata(&mut file)?;
            // Among them is an Arrow schema, which the decoder would follow by recursion and without need.
            metadata.key_value_metadata = None;
            let schema = infer_schema(&metadata)?;
            Ok((metadata, schema))
        })?;
        footer::check(&metadata, file_bytes).map_err(|reason| damaged(path, reason))?;
        let fields = arrow::kept(&schema, keep).map_err(|reason| damaged(path, reason))?;
        let groups = (0..metadata.row_groups.len()).collect();
        Ok(Self {
            path: path.to_owned(),
            name,
            file: Arc::new(file),
            metadata: Arc::new(metadata),
            names: arrow::names(&fields),
            fields,
            groups,
            max_batch_rows: BATCH_ROWS,
            group: None,
            skip: 0,
            batch: None,
            next_row: 0,
        })
    }

    /// Passes over rows without decoding them and says how many there were.
    pub(super) fn skip_rows(&mut self, count: u64) -> u64 {
        let mut left = count;
        let mut pass = |rows: u64| {
            let passed = rows.min(left);
            left -= passed;
            passed
        };
        if let Some((batch, next)) = &mut self.batch {
            #[expect(clippy::cast_possible_truncation, reason = "at most the rows of the batch")]
            let passed = pass((batch.num_rows - *next) as u64) as usize;
            *next += passed;
        }
        if let Some(group) = &mut self.group {
            group.next_row += pass(group.num_rows - group.next_row);
        }
        // What is left is 0 unless the group at hand is at its end.
        let mut at_end = self.group.as_ref().is_none_or(|group| group.next_row == group.num_rows);
        while at_end && let Some(&group) = self.groups.front() {
            let rows = self.metadata.row_groups[group].num_rows() as u64 - self.skip;
            let passed = pass(rows);
            at_end = passed == rows;
            if at_end {
                self.skip = 0;
                self.groups.pop_front();
            } else {
                self.skip += passed;
            }
        }
        self.next_row += count - left;
        count - left
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        loop {
            if let Some(group) = &mut self.group
                && group.next_row < group.num_rows
            {
                let (columns, num_rows) = guarded(&self.path, || Ok(group.next_columns()?))?;
                return Ok(Some(Batch { names: Arc::clone(&self.names), columns, num_rows }));
            }
            let Some(index) = self.groups.pop_front() else { return Ok(None) };
            let mut group = Group::open(&self.file, &self.metadata, index, &self.fields, self.max_batch_rows);
            group.next_row = std::mem::take(&mut self.skip);
            self.group = Some(group);
        }
    }
}

impl Iterator for ParquetRows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((batch, next)) = &mut self.batch
                && *next < batch.num_rows
            {
                *next += 1;
                self.next_row += 1;
                return Some(Ok(RawRow::arrow(RowId::row(&self.name, self.next_row), batch, *next - 1)));
            }
            self.batch = None;
            match self.next_batch() {
                Ok(Some(batch)) => self.batch = Some((Arc::new(batch), 0)),
                Ok(None) => return None,
                Err(error) => {
                    (self.group, self.groups) = (None, VecDeque::new());
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Group {
    fn open(file: &Arc<File>, metadata: &FileMetadata, index: usize, fields: &[Field], max_batch_rows: u64) -> Self {
        let group = &metadata.row_groups[index];
        let mut bytes = 1_u64;
        let mut of_field = |field: &Field| {
            let columns = group.parquet_columns().iter();
            let leaves = columns.filter(|column| column.descriptor().path_in_schema.first() == Some(&field.name));
            let mut open = |column| {
                bytes =
                    bytes.saturating_add(u64::try_from(ColumnChunkMetadata::uncompressed_size(column)).unwrap_or(0));
                ColumnPages::open(file, column)
            };
            Column { field: field.clone(), leaves: leaves.map(&mut open).collect() }
        };
        let columns = fields.iter().map(&mut of_field).collect();
        let num_rows = group.num_rows() as u64;
        let batch_rows = (num_rows.saturating_mul(BATCH_BYTES) / bytes).clamp(1, max_batch_rows);
        Self { columns, num_rows, batch_rows, next_row: 0 }
    }

    /// The next rows, column by column, and how many there are.
    fn next_columns(&mut self) -> ParquetResult<(Vec<Box<dyn Array>>, usize)> {
        let rows = self.next_row..self.num_rows.min(self.next_row + self.batch_rows);
        let mut bytes = WINDOW_BYTES;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            for leaf in &mut column.leaves {
                bytes = bytes.saturating_sub(leaf.advance(&rows, bytes)?);
            }
            arrays.push(column.decode(&rows)?);
        }
        self.next_row = rows.end;
        let num_rows = usize::try_from(rows.end - rows.start).map_err(|_| ParquetError::WouldOverAllocate)?;
        Ok((arrays, num_rows))
    }
}

impl Column {
    /// The rows out of the leaves' windows.
    fn decode(&self, rows: &Range<u64>) -> ParquetResult<Box<dyn Array>> {
        let first_row = self.leaves.iter().map(ColumnPages::first_row).min().unwrap_or(rows.start);
        let pages = self.leaves.iter().map(|leaf| leaf.decompressor(first_row)).collect::<ParquetResult<Vec<_>>>()?;
        let types = self.leaves.iter().map(ColumnPages::primitive_type).collect();
        let in_window = |row: u64| usize::try_from(row - first_row).map_err(|_| ParquetError::WouldOverAllocate);
        let range = in_window(rows.start)?..in_window(rows.end)?;
        let wanted = range.len();
        let (arrays, _) = column_iter_to_arrays(pages, types, self.field.clone(), Some(Filter::Range(range)))
            .map_err(|error| ParquetError::OutOfSpec(error.to_string()))?;
        let array = match <[_; 1]>::try_from(arrays) {
            Ok([array]) => array,
            Err(arrays) => concatenate(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())
                .map_err(|error| ParquetError::OutOfSpec(error.to_string()))?,
        };
        if array.len() != wanted {
            return Err(ParquetError::OutOfSpec(format!("{} rows where {wanted} should be", array.len())));
        }
        Ok(array)
    }
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::Damaged { path: path.to_owned(), kind: "Parquet", reason }
}

/// Runs the decoder, which panics on some damaged files where it should return an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
    guard::guarded("its pages do not match its footer", read).map_err(|reason| damaged(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

    fn open(name: &str, max_batch_rows: u64) -> ParquetRows {
        let path = Path::new(FIXTURES).join(name);
        ParquetRows { max_batch_rows, ..ParquetRows::open(&path, name.into(), &|_| true).unwrap() }
    }

    fn json(row: Result<RawRow, DataError>) -> String {
        serde_json::to_string(&row.unwrap().parse().1.unwrap()).unwrap()
    }

    fn files() -> Vec<String> {
        let names = std::fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: Vec<_> = names.filter(|name| name.ends_with(".parquet")).collect();
        assert!(files.len() >= 9, "{files:?}");
        files
    }

    fn expected() -> Vec<String> {
        let text = std::fs::read_to_string(Path::new(FIXTURES).join("rows.jsonl")).unwrap();
        let compact = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap().to_string();
        text.lines().map(compact).collect()
    }

    /// pyarrow's files of one table, however they are paged, in batches that begin and end inside of pages.
    #[test]
    fn rows_are_the_same_however_they_are_written_and_read() {
        let expected = expected();
        for file in files() {
            for max_batch_rows in [1, 4, 7, BATCH_ROWS] {
                let rows: Vec<_> = open(&file, max_batch_rows).map(json).collect();
                for (index, (found, expected)) in rows.iter().zip(&expected).enumerate() {
                    assert_eq!(found, expected, "{file}, row {index}, {max_batch_rows} at a time");
                }
                assert_eq!(rows.len(), expected.len(), "{file}, {max_batch_rows} at a time");
            }
        }
    }

    /// A column that isn't kept is not even looked at: its pages may be damaged, and its type unknown.
    #[test]
    fn columns_that_are_not_kept_are_not_read() {
        let expected: Vec<serde_json::Value> =
            expected().iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let columns: Vec<&String> = expected[0].as_object().unwrap().keys().collect();
        for file in files() {
            let path = Path::new(FIXTURES).join(&file);
            for kept in [&columns[..1], &columns[1..], &[]] {
                let keep = |column: &str| kept.iter().any(|kept| *kept == column);
                let rows = ParquetRows::open(&path, "f".into(), &keep).unwrap();
                assert_eq!(rows.fields.len(), kept.len(), "{file}");
                let rows: Vec<_> = rows.map(|row| row.unwrap().parse().1.unwrap()).collect();
                assert_eq!(rows.len(), expected.len(), "{file}");
                for (found, expected) in rows.iter().zip(&expected) {
                    let expected = expected.as_object().unwrap().iter().filter(|(column, _)| keep(column));
                    assert!(found.iter().eq(expected), "{file}");
                }
            }
        }
    }

    #[test]
    fn rows_that_are_passed_over_are_counted() {
        let expected = expected();
        for file in files() {
            for (skip, more) in [(0, 0), (5, 1), (13, 20), (59, 0), (60, 0)] {
                let mut rows = open(&file, 4);
                assert_eq!(rows.skip_rows(skip), skip, "{file}");
                let mut left = expected[usize::try_from(skip).unwrap()..].iter();
                if more > 0 {
                    let row = rows.next().unwrap().unwrap();
                    assert_eq!(row.id().number(), skip + 1, "{file}");
                    assert_eq!(&json(Ok(row)), left.next().unwrap(), "{file}");
                    assert_eq!(rows.skip_rows(more), more, "{file}");
                    left.nth(usize::try_from(more).unwrap() - 1);
                }
                assert_eq!(
                    rows.map(json).collect::<Vec<_>>(),
                    left.cloned().collect::<Vec<_>>(),
                    "{file} {skip} {more}"
                );
            }
            assert_eq!(open(&file, 4).skip_rows(1000), 60);
        }
    }
}
