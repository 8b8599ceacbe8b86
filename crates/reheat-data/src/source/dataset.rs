//! Datasets opened: files found, splits and slices resolved, shares worked out.

use std::{
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    operations::Operations,
    rows::{self, Arrangement, Rows, SegmentRows, filtered_rows},
    spec::{DatasetSpec, Sample},
};
use crate::{
    DataError, Row, RowId,
    read::{self, RawRow},
};

/// Rows of each dataset in which the columns that the settings name must appear.
const FIRST_ROWS: usize = 1000;

/// Datasets read one after the other, and what is done to their rows together: sampled, then shuffled.
///
/// As TRL's `DatasetMixtureConfig`. Its datasets need not have the same columns: each row is told apart for itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetMixture {
    /// The datasets.
    pub datasets: Vec<DatasetSpec>,
    /// How many rows of all of them are kept, drawn from the seed, in their order.
    pub sample: Option<Sample>,
    /// Whether rows come in random order. Default no.
    pub shuffle: bool,
    /// Rows among which the order is random; fewer where they are so long that memory would not hold them (256 MiB).
    /// Default 10,000.
    pub shuffle_buffer_size: usize,
    /// Where samples and order are drawn from. Default 42.
    pub seed: u64,
}

impl Default for DatasetMixture {
    fn default() -> Self {
        Self { datasets: Vec::new(), sample: None, shuffle: false, shuffle_buffer_size: 10_000, seed: 42 }
    }
}

impl From<DatasetSpec> for DatasetMixture {
    fn from(spec: DatasetSpec) -> Self {
        Self { datasets: vec![spec], ..Self::default() }
    }
}

/// Rows of files, ready to be read as often as wanted, with the same rows in the same order each time.
pub struct Dataset {
    parts: Vec<Arc<Part>>,
    arrangement: Arrangement,
    name: String,
    notes: Vec<String>,
}

/// The rows of one dataset.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) segments: Vec<Segment>,
    pub(super) operations: Arc<Operations>,
    pub(super) draw: Option<Draw>,
    /// The share of a mixture: so many of the first rows.
    pub(super) take: Option<u64>,
}

/// A slice of the rows of some files.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) files: Vec<PathBuf>,
    pub(super) range: Range<u64>,
}

/// So many rows out of so many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub(super) rows: u64,
    pub(super) of: u64,
}

impl Dataset {
    /// Finds the files and works out which of their rows are meant.
    ///
    /// Reads the first rows where settings name columns, and counts rows where a share, a percentage or a boundary
    /// from the end makes that necessary.
    ///
    /// # Errors
    /// If there is no such dataset, configuration, split or column; a setting can't be understood; or a file can't be
    /// read.
    pub fn open(mixture: &DatasetMixture) -> Result<Self, DataError> {
        let mut notes = Vec::new();
        let mut parts = Vec::new();
        for spec in &mixture.datasets {
            parts.push(Part::open(spec.clone().normalized(), &mut notes)?);
        }
        share(&mixture.datasets, &mut parts)?;
        let draw = match mixture.sample {
            Some(sample) => {
                let of = parts.iter().map(Part::count).sum::<Result<u64, _>>()?;
                Some(Draw { rows: sample.of(of), of })
            }
            None => None,
        };
        let shuffle = mixture.shuffle.then_some(mixture.shuffle_buffer_size);
        let arrangement = Arrangement { draw, shuffle, seed: mixture.seed };
        let name = mixture.datasets.iter().map(|spec| format!("`{}`", spec.path)).collect::<Vec<_>>().join(", ");
        Ok(Self { parts: parts.into_iter().map(Arc::new).collect(), arrangement, name, notes })
    }

    /// The files of the dataset, each once, in the order in which they are read.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = Vec::new();
        for file in self.parts.iter().flat_map(|part| &part.segments).flat_map(|segment| &segment.files) {
            if !files.contains(&file.as_path()) {
                files.push(file);
            }
        }
        files
    }

    /// What a person should know: files beside the data that are not read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The paths as they were given, in backticks.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A digest of every byte of the files, and of which of their rows are meant.
    pub(crate) fn digest(&self) -> Result<[u8; 32], DataError> {
        let Arrangement { draw, shuffle, seed } = &self.arrangement;
        let mut digest = Sha256::new();
        digest.update(format!("{:?} {draw:?} {shuffle:?} {seed}", self.parts));
        for file in self.files() {
            let mut bytes = File::open(file).map_err(DataError::read(file))?;
            io::copy(&mut bytes, &mut digest).map_err(DataError::read(file))?;
            // Where one file ends and the next begins.
            digest.update(file.as_os_str().as_encoded_bytes());
        }
        Ok(digest.finalize().into())
    }

    /// The rows from the first on.
    #[must_use]
    pub fn rows(&self) -> Rows {
        rows::rows(&self.parts, &self.arrangement)
    }
}

impl Part {
    fn open(spec: DatasetSpec, notes: &mut Vec<String>) -> Result<Self, DataError> {
        let expr = spec.split_expr()?;
        let operations = Arc::new(Operations::of(&spec)?);
        let splits = spec.splits()?;
        notes.extend(splits.notes.iter().filter(|note| !notes.contains(note)).cloned().collect::<Vec<_>>());
        let mut segments = Vec::new();
        for part in expr.parts {
            let Some((_, files)) = splits.files.iter().find(|(name, _)| *name == part.name) else {
                return Err(DataError::UnknownSplit { path: spec.path, split: part.name, available: splits.names() });
            };
            let num_rows = if part.slice.needs_count() { count_files(files)? } else { u64::MAX };
            segments.push(Segment { files: files.clone(), range: part.slice.resolve(num_rows) });
        }
        let mut part = Self { segments, operations, draw: None, take: None };
        part.check_columns()?;
        if let Some(sample) = spec.sample {
            let of = part.count()?;
            part.draw = Some(Draw { rows: sample.of(of), of });
        }
        Ok(part)
    }

    fn check_columns(&self) -> Result<(), DataError> {
        if !self.operations.name_columns() {
            return Ok(());
        }
        let checked = self.operations.check(&self.first_rows(Some(&self.operations))?);
        // Now that they are to be listed, all columns are looked at.
        checked.or_else(|_| self.operations.check(&self.first_rows(None)?))
    }

    /// The first rows with the columns that the operations read, or with all of them.
    fn first_rows(&self, operations: Option<&Arc<Operations>>) -> Result<Vec<(RowId, Row)>, DataError> {
        let segments = self.segments.iter().cloned();
        let mut first_rows = Vec::new();
        for row in segments.flat_map(|segment| SegmentRows::new(segment, operations)).take(FIRST_ROWS) {
            if let (id, Ok(row)) = row?.parse() {
                first_rows.push((id, row));
            }
        }
        Ok(first_rows)
    }

    /// How many rows there are, by reading them where nothing else tells.
    fn count(&self) -> Result<u64, DataError> {
        let count = match (self.draw, self.operations.filter.is_some()) {
            (Some(draw), _) => draw.rows,
            (None, false) => {
                let mut rows = 0;
                for Segment { files, range } in &self.segments {
                    let end = range.end.min(count_files(files)?);
                    rows += end.saturating_sub(range.start);
                }
                rows
            }
            (None, true) => {
                let part = Arc::new(Self {
                    segments: self.segments.clone(),
                    operations: Arc::clone(&self.operations),
                    draw: None,
                    take: None,
                });
                let rows = filtered_rows(&part, &Arc::new(AtomicU64::new(0)));
                rows.map(|row: Result<RawRow, _>| row.map(|_| 1)).sum::<Result<u64, _>>()?
            }
        };
        Ok(self.take.map_or(count, |take| take.min(count)))
    }
}

fn count_files(files: &[PathBuf]) -> Result<u64, DataError> {
    files.iter().map(|file| read::count(file)).sum()
}

/// Works out how many rows of each dataset make the mixture (TRL 1.16, `get_dataset`).
fn share(specs: &[DatasetSpec], parts: &mut [Part]) -> Result<(), DataError> {
    if specs.iter().all(|spec| spec.fraction.is_none()) {
        return Ok(());
    }
    let wrong =
        |value: &str, reason: String| DataError::Setting { setting: "fraction", value: value.to_owned(), reason };
    let mut fractions = Vec::new();
    for spec in specs {
        let Some(fraction) = spec.fraction else {
            return Err(wrong(
                "none",
                format!("`{}` has none; all datasets of a mixture have one, or none has", spec.path),
            ));
        };
        if !(fraction.is_finite() && fraction >= 0.0) {
            return Err(wrong(&fraction.to_string(), "expected 0 or more".to_owned()));
        }
        fractions.push(fraction);
    }
    let sum: f64 = fractions.iter().sum();
    if sum <= 0.0 {
        return Err(wrong("0", "at least one dataset needs more".to_owned()));
    }
    let lengths = parts.iter().map(Part::count).collect::<Result<Vec<_>, _>>()?;
    for (part, take) in parts.iter_mut().zip(shares(&fractions, &lengths)) {
        part.take = Some(take);
    }
    Ok(())
}

/// How many of the first rows of each dataset make the largest mixture in which no row comes twice.
fn shares(fractions: &[f64], lengths: &[u64]) -> Vec<u64> {
    let sum: f64 = fractions.iter().sum();
    let weights: Vec<f64> = fractions.iter().map(|fraction| fraction / sum).collect();
    let totals = weights.iter().zip(lengths).filter(|(weight, _)| **weight > 0.0);
    let total = totals.map(|(weight, length)| *length as f64 / weight).fold(f64::INFINITY, f64::min);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the number of rows")]
    let take = |(weight, length): (&f64, &u64)| ((weight * total).round_ties_even() as u64).min(*length);
    weights.iter().zip(lengths).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values by the formula in TRL's `get_dataset`, evaluated in Python.
    #[test]
    fn the_smallest_dataset_for_its_share_bounds_the_mixture() {
        assert_eq!(shares(&[0.5, 0.5], &[100, 1000]), [100, 100]);
        assert_eq!(shares(&[3.0, 1.0], &[100, 1000]), [100, 33]);
        assert_eq!(shares(&[0.7, 0.2, 0.1], &[1000, 50, 1000]), [175, 50, 25]);
        assert_eq!(shares(&[1.0, 0.0], &[10, 10]), [10, 0]);
        assert_eq!(shares(&[1.0, 1.0], &[0, 10]), [0, 0]);
    }
}
