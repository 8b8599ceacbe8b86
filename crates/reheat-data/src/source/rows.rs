//! The rows of a dataset, one after the other: read, filtered, sampled, shuffled. Nothing here holds more than a buffer.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    dataset::{Draw, Part, Segment},
    operations::Operations,
};
use crate::{
    DataError,
    read::{self, RawRow, RawRows, TextUnit},
};

/// Most rows of a chunk.
const CHUNK_ROWS: usize = 512;

/// No more rows join a chunk that has as many bytes of text. With one row of the largest size on top, it bounds what a
/// chunk holds.
const CHUNK_BYTES: usize = 32 << 20;

/// Most bytes of text in the shuffle's buffer, which holds fewer rows where they are long.
const SHUFFLE_BYTES: usize = 256 << 20;

type BoxedRows = Box<dyn Iterator<Item = Result<RawRow, DataError>> + Send>;

/// The rows of a [`Dataset`](super::Dataset), in order. After an error there are none.
pub struct Rows {
    rows: BoxedRows,
    filtered: Arc<AtomicU64>,
    not_sampled: Arc<AtomicU64>,
    failed: bool,
}

impl Rows {
    /// The next rows, a few hundred or some megabytes of them, to be worked on by many threads; none at the end.
    ///
    /// # Errors
    /// If a file can't be read any further.
    pub fn next_chunk(&mut self) -> Result<Vec<RawRow>, DataError> {
        match take_chunk(self) {
            (rows, None) => Ok(rows),
            (_, Some(error)) => Err(error),
        }
    }

    /// Rows that the filter left out so far.
    #[must_use]
    pub fn num_filtered(&self) -> u64 {
        self.filtered.load(Ordering::Relaxed)
    }

    /// Rows that were not drawn so far.
    #[must_use]
    pub fn num_not_sampled(&self) -> u64 {
        self.not_sampled.load(Ordering::Relaxed)
    }
}

impl Iterator for Rows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.rows.next();
        self.failed = matches!(row, Some(Err(_)));
        row
    }
}

/// How the rows of all parts follow each other.
pub(super) struct Arrangement {
    pub(super) draw: Option<Draw>,
    /// Rows in the shuffle's buffer.
    pub(super) shuffle: Option<usize>,
    pub(super) seed: u64,
}

/// The rows of the parts. `arrangement` applies to all of them together.
pub(super) fn rows(parts: &[Arc<Part>], arrangement: &Arrangement) -> Rows {
    let (filtered, not_sampled) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let rng = |stream: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(arrangement.seed);
        rng.set_stream(stream);
        rng
    };
    let counters = (Arc::clone(&filtered), Arc::clone(&not_sampled));
    let numbered: Vec<_> =
        parts.iter().cloned().enumerate().map(|(index, part)| (index, part, rng(index as u64))).collect();
    let mut rows: BoxedRows = Box::new(numbered.into_iter().flat_map(move |(index, part, rng)| {
        let mut rows = filtered_rows(&part, &counters.0);
        if let Some(draw) = part.draw {
            rows = Box::new(Drawn::new(rows, draw, rng, Arc::clone(&counters.1)));
        }
        if let Some(take) = part.take {
            rows = Box::new(rows.take(usize::try_from(take).unwrap_or(usize::MAX)));
        }
        rows.map(move |row| row.map(|row| row.in_part(index)))
    }));
    // Streams of their own: past the parts', and the last.
    if let Some(draw) = arrangement.draw {
        rows = Box::new(Drawn::new(rows, draw, rng(parts.len() as u64), Arc::clone(&not_sampled)));
    }
    if let Some(size) = arrangement.shuffle {
        rows = Box::new(Shuffled { rows, buffer: Vec::new(), bytes: 0, size, rng: rng(u64::MAX), finished: false });
    }
    Rows { rows, filtered, not_sampled, failed: false }
}

/// The rows of a part that its filter keeps.
pub(super) fn filtered_rows(part: &Arc<Part>, filtered: &Arc<AtomicU64>) -> BoxedRows {
    let operations = Arc::clone(&part.operations);
    let reads = Arc::clone(&operations);
    let rows = part.segments.clone().into_iter().flat_map(move |segment| SegmentRows::new(segment, Some(&reads)));
    if operations.filter.is_some() {
        let filtered = Arc::clone(filtered);
        return Box::new(Filtered { rows, operations, filtered, kept: Vec::new().into_iter(), error: None });
    }
    if operations.keep_rows() {
        return Box::new(rows);
    }
    Box::new(rows.map(move |row| row.map(|row| row.with(&operations))))
}

/// Rows up to the bounds of a chunk, and the error that ended them.
fn take_chunk(rows: &mut impl Iterator<Item = Result<RawRow, DataError>>) -> (Vec<RawRow>, Option<DataError>) {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
        match rows.next() {
            None => break,
            Some(Ok(row)) => {
                bytes += row.bytes();
                chunk.push(row);
            }
            Some(Err(error)) => return (chunk, Some(error)),
        }
    }
    (chunk, None)
}

/// The rows of some files, from one row to another, counted through all files.
pub(super) struct SegmentRows {
    files: VecDeque<PathBuf>,
    /// Say which columns are read; all where there are none.
    operations: Option<Arc<Operations>>,
    current: Option<RawRows>,
    skip: u64,
    left: u64,
}

impl SegmentRows {
    pub(super) fn new(segment: Segment, operations: Option<&Arc<Operations>>) -> Self {
        let Segment { files, range } = segment;
        let left = range.end.saturating_sub(range.start);
        Self { files: files.into(), operations: operations.cloned(), current: None, skip: range.start, left }
    }

    fn next_row(&mut self) -> Result<Option<RawRow>, DataError> {
        while self.left > 0 {
            let Some(rows) = &mut self.current else {
                let Some(file) = self.files.pop_front() else { return Ok(None) };
                let keep = |column: &str| self.operations.as_ref().is_none_or(|operations| operations.reads(column));
                let mut rows = read::open(&file, TextUnit::Line, &keep)?;
                self.skip -= rows.skip_rows(self.skip)?;
                self.current = Some(rows);
                continue;
            };
            match rows.next().transpose()? {
                Some(row) => {
                    self.left -= 1;
                    return Ok(Some(row));
                }
                None => self.current = None,
            }
        }
        Ok(None)
    }
}

impl Iterator for SegmentRows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// Rows that a filter keeps; they are parsed here, by many threads.
struct Filtered<I> {
    rows: I,
    operations: Arc<Operations>,
    filtered: Arc<AtomicU64>,
    kept: std::vec::IntoIter<RawRow>,
    error: Option<DataError>,
}

impl<I: Iterator<Item = Result<RawRow, DataError>>> Iterator for Filtered<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.kept.next() {
                return Some(Ok(row));
            }
            if let Some(error) = self.error.take() {
                return Some(Err(error));
            }
            let chunk;
            (chunk, self.error) = take_chunk(&mut self.rows);
            if chunk.is_empty() && self.error.is_none() {
                return None;
            }
            let length = chunk.len();
            let operations = &self.operations;
            let kept: Vec<RawRow> = chunk.into_par_iter().filter_map(|row| row.judged_by(operations)).collect();
            self.filtered.fetch_add((length - kept.len()) as u64, Ordering::Relaxed);
            self.kept = kept.into_iter();
        }
    }
}

/// Exactly as many rows as asked for, each as probable as any other, in their order (Knuth, TAOCP 3.4.2, algorithm S).
struct Drawn<I> {
    rows: I,
    left: Draw,
    rng: ChaCha8Rng,
    not_sampled: Arc<AtomicU64>,
}

impl<I> Drawn<I> {
    fn new(rows: I, left: Draw, rng: ChaCha8Rng, not_sampled: Arc<AtomicU64>) -> Self {
        Self { rows, left, rng, not_sampled }
    }
}

impl<I: Iterator<Item = Result<RawRow, DataError>>> Iterator for Drawn<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let row = match self.rows.next()? {
                Ok(row) => row,
                error => return Some(error),
            };
            let Draw { rows, of } = &mut self.left;
            let is_drawn = *rows > 0 && self.rng.random_range(0..(*of).max(1)) < *rows;
            *of = of.saturating_sub(1);
            if is_drawn {
                *rows -= 1;
                return Some(Ok(row));
            }
            self.not_sampled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Rows in random order, as far as a buffer reaches: each comes from a random place of the buffer, which is filled up
/// from the file. Where all rows fit, every order is as probable as any other.
struct Shuffled<I> {
    rows: I,
    buffer: Vec<RawRow>,
    bytes: usize,
    size: usize,
    rng: ChaCha8Rng,
    finished: bool,
}

impl<I: Iterator<Item = Result<RawRow, DataError>>> Iterator for Shuffled<I> {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.finished && self.buffer.len() < self.size.max(1) && self.bytes < SHUFFLE_BYTES {
            match self.rows.next() {
                Some(Ok(row)) => {
                    self.bytes += row.bytes();
                    self.buffer.push(row);
                }
                Some(error) => return Some(error),
                None => self.finished = true,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let row = self.buffer.swap_remove(self.rng.random_range(0..self.buffer.len()));
        self.bytes -= row.bytes();
        Some(Ok(row))
    }
}
