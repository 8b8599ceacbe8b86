//! The rows of a dataset to examples: the format of each file is told at its first rows.

use std::{collections::HashMap, sync::Arc};

use rayon::prelude::*;
use serde_json::Value;

use crate::{
    DataError, Dataset, Detection, Example, Format, OnBadRow, Row, RowId, RowProblem, Rows, detect,
    format::{ConvertOptions, Converter},
};

/// How rows become examples.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversionOptions {
    /// What the columns mean; told from the first rows of each file when absent.
    pub format: Option<Format>,
    /// The column of plain text. Default `text`.
    pub dataset_text_field: String,
    /// Whether the first row of a file that fits no format ends the conversion, or is one more bad row. Other bad rows
    /// never do; they come with their problem. Default an error.
    pub on_bad_row: OnBadRow,
}

impl Default for ConversionOptions {
    fn default() -> Self {
        Self { format: None, dataset_text_field: "text".into(), on_bad_row: OnBadRow::Error }
    }
}

/// The examples of a dataset's rows, in order.
///
/// ```no_run
/// use reheat_data::{Conversion, ConversionOptions, Dataset, DatasetSpec};
///
/// let dataset = Dataset::open(&DatasetSpec::new("chats.json").into())?;
/// let mut conversion = Conversion::new(&dataset, ConversionOptions::default());
/// loop {
///     let rows = conversion.next_chunk()?;
///     if rows.is_empty() {
///         break;
///     }
///     for (row, examples) in rows {
///         println!("{row}: {:?}", examples?);
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Conversion {
    rows: Rows,
    options: ConversionOptions,
    /// Decide where rows fit several formats.
    wanted: &'static [Format],
    /// Rows with answers become what they answer.
    without_answers: bool,
    converters: HashMap<Origin, Converter>,
    files: Vec<(String, Detection)>,
}

/// A row's place with its examples, or with why it has none.
pub type ConvertedRow = (RowId, Result<Vec<Example>, RowProblem>);

/// Judges a file's format by the row that told it and the first example of that row.
type Check<'a> = dyn FnMut(&RowId, &Detection, Option<&Example>) -> Result<(), DataError> + 'a;

/// A row with where it is from, or why it can't be read.
struct Parsed {
    origin: Origin,
    id: RowId,
    row: Result<Row, RowProblem>,
}

/// Rows of one format: those of a file, in one dataset of a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    part: usize,
    file: Arc<str>,
}

impl Conversion {
    /// Starts at the first row.
    #[must_use]
    pub fn new(dataset: &Dataset, options: ConversionOptions) -> Self {
        Self::wanting(&[], dataset, options)
    }

    /// Where rows fit several formats, the `wanted` ones are meant.
    pub(crate) fn wanting(wanted: &'static [Format], dataset: &Dataset, options: ConversionOptions) -> Self {
        let (converters, files) = (HashMap::new(), Vec::new());
        Self { rows: dataset.rows(), options, wanted, without_answers: false, converters, files }
    }

    /// Of rows with answers, what they answer. A prompt beside them is what is meant.
    pub(crate) fn without_answers(dataset: &Dataset, options: ConversionOptions) -> Self {
        Self { without_answers: true, ..Self::wanting(&[Format::PromptOnly], dataset, options) }
    }

    /// The examples of the next rows, a few hundred of them; none at the end.
    ///
    /// # Errors
    /// If a file can't be read any further, or it can't be told which format its rows have.
    pub fn next_chunk(&mut self) -> Result<Vec<ConvertedRow>, DataError> {
        self.next(&mut |_| {}, &mut |_, _, _| Ok(()))
    }

    /// As [`next_chunk`](Self::next_chunk). `look` sees each row before it is converted.
    pub(crate) fn next_chunk_looked_at(&mut self, look: &mut dyn FnMut(&Row)) -> Result<Vec<ConvertedRow>, DataError> {
        self.next(look, &mut |_, _, _| Ok(()))
    }

    /// As [`next_chunk`](Self::next_chunk). `check` sees each file's format when it is told, with the row that told
    /// it and its first example, and may refuse it.
    pub(crate) fn next_chunk_checked(&mut self, check: &mut Check) -> Result<Vec<ConvertedRow>, DataError> {
        self.next(&mut |_| {}, check)
    }

    fn next(&mut self, look: &mut dyn FnMut(&Row), check: &mut Check) -> Result<Vec<ConvertedRow>, DataError> {
        let chunk = self.rows.next_chunk()?;
        let mut parsed: Vec<_> = chunk
            .into_par_iter()
            .map(|row| {
                let part = row.part();
                let (id, row) = row.parse();
                Parsed { origin: Origin { part, file: id.file().into() }, id, row }
            })
            .collect();
        for index in 0..parsed.len() {
            let (Parsed { origin, id, row }, later) = {
                let (done, later) = parsed.split_at_mut(index + 1);
                (&mut done[index], later)
            };
            let Ok(first) = row else { continue };
            look(first);
            if self.converters.contains_key(origin) {
                continue;
            }
            let later =
                later.iter().filter(|later| later.origin == *origin).filter_map(|later| later.row.as_ref().ok());
            match self.tell(id, first, later) {
                Ok((detection, telling)) => {
                    let converter = Converter::new(&detection, ConvertOptions::default());
                    let sample = converter.convert(telling).unwrap_or_default();
                    check(id, &detection, sample.first())?;
                    self.converters.insert(origin.clone(), converter);
                    self.files.push((id.file().to_owned(), detection));
                }
                // The next row of the file may tell.
                Err(DataError::Row { problem, .. }) if self.options.on_bad_row == OnBadRow::Skip => *row = Err(problem),
                Err(error) => return Err(error),
            }
        }
        let convert = |Parsed { origin, id, row }| {
            let converter = self.converters.get(&origin);
            let examples = row.and_then(|row| converter.expect("a row that parses has told the format").convert(row));
            (id, examples)
        };
        Ok(parsed.into_par_iter().map(convert).collect())
    }

    /// The format of rows that begin with `first`, and the row that told it.
    ///
    /// The first row may be the one that lacks something. Where it alone fits no format, or there is a prompt and no
    /// answer in it, what it lacks is looked for in the rows after it.
    fn tell<'r>(
        &self,
        id: &RowId,
        first: &Row,
        later: impl Iterator<Item = &'r Row>,
    ) -> Result<(Detection, Row), DataError> {
        let told = self.tell_by(id, first);
        let may_lack = match &told {
            Ok(Detection { format, .. }) => {
                self.options.format.is_some() || (*format == Format::PromptOnly && !self.without_answers)
            }
            Err(error) => matches!(error, DataError::Row { .. }),
        };
        if may_lack {
            let whole = completed(first, later);
            if let Ok(detection) = self.tell_by(id, &whole) {
                return Ok((detection, whole));
            }
        }
        told.map(|detection| (detection, first.clone()))
    }

    fn tell_by(&self, id: &RowId, row: &Row) -> Result<Detection, DataError> {
        let text_column = &self.options.dataset_text_field;
        let detection = match self.options.format {
            Some(format) => Detection::given(format, row, text_column),
            None => detect(id, row, self.wanted, text_column)?,
        };
        Ok(if self.without_answers { detection.without_answers() } else { detection })
    }

    /// Each file met so far, with the format of its rows and why.
    #[must_use]
    pub fn files(&self) -> &[(String, Detection)] {
        &self.files
    }

    pub(crate) fn into_files(self) -> Vec<(String, Detection)> {
        self.files
    }

    /// Rows that the dataset's filter left out so far.
    #[must_use]
    pub fn num_filtered(&self) -> u64 {
        self.rows.num_filtered()
    }

    /// Rows that were not drawn so far.
    #[must_use]
    pub fn num_not_sampled(&self) -> u64 {
        self.rows.num_not_sampled()
    }
}

/// A row with values of later rows in the columns that it lacks, or that have nothing in them.
fn completed<'r>(row: &Row, later: impl Iterator<Item = &'r Row>) -> Row {
    let holds_nothing = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let mut whole = row.clone();
    for (column, value) in later.flatten() {
        if whole.get(column).is_none_or(holds_nothing) && !holds_nothing(value) {
            whole.insert(column.clone(), value.clone());
        }
    }
    whole
}
