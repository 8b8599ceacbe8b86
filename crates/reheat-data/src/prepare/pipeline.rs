//! Rows to items, by many threads: the part that every training method shares.

use std::{collections::HashMap, sync::Arc};

use rayon::prelude::*;

use super::{OnBadRow, PrepareOptions, Prepared, Report};
use crate::{
    DataError, Dataset, Detection, Example, Format, Row, RowId, RowProblem, detect,
    format::{ConvertOptions, Converter},
    tokenize::Encoder,
};

/// What a training method makes of examples.
pub(super) trait Recipe: Sync {
    /// What it trains on.
    type Item: Send;

    /// The formats that it can use, and how they are called together.
    const FORMATS: &'static [Format];
    const NEEDED: &'static str;

    fn encoder(&self) -> &Encoder<'_>;

    /// Refuses a dataset whose rows can't be used as the settings ask, by what one of them became.
    fn check(&self, row: &RowId, format: Format, example: &Example) -> Result<(), DataError>;

    /// What an example becomes, cut to its length.
    fn items(&self, example: Example) -> Outcomes<Self::Item>;
}

/// What became of an example.
pub(super) enum Outcome<T> {
    Item { item: T, size: Size },
    LeftOut { problem: RowProblem, size: Size },
}

/// What became of a row's examples, or why it has none.
type Outcomes<T> = Result<Vec<Outcome<T>>, RowProblem>;

/// How much an example is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) tokens: usize,
    pub(super) trained_tokens: usize,
    pub(super) tokens_cut: usize,
    pub(super) prompt_diverges: bool,
}

/// Reads the rows of a dataset and makes items of them.
pub(super) fn run<R: Recipe>(
    dataset: &Dataset,
    recipe: &R,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<R::Item>, DataError> {
    let mut prepared = Prepared { examples: Vec::new(), report: Report::default() };
    let mut rows = dataset.rows();
    let mut converters: HashMap<Origin, Converter> = HashMap::new();
    loop {
        let chunk = rows.next_chunk()?;
        prepared.report.filtered = rows.num_filtered();
        prepared.report.not_sampled = rows.num_not_sampled();
        if chunk.is_empty() {
            break;
        }
        let mut parsed: Vec<_> = chunk
            .into_par_iter()
            .map(|row| {
                let part = row.part();
                let (id, row) = row.parse();
                (Origin { part, file: id.file().into() }, id, row)
            })
            .collect();
        for (origin, id, row) in &mut parsed {
            if let Ok(first) = row
                && !converters.contains_key(origin)
            {
                match told(id, first, recipe, options) {
                    Ok(detection) => {
                        converters.insert(origin.clone(), Converter::new(&detection, ConvertOptions::default()));
                        prepared.report.files.push((id.file().to_owned(), detection));
                    }
                    // The next row of the file may tell.
                    Err(DataError::Row { problem, .. }) if options.on_bad_row == OnBadRow::Skip => *row = Err(problem),
                    Err(error) => return Err(error),
                }
            }
        }
        let results: Vec<(RowId, Outcomes<R::Item>)> = parsed
            .into_par_iter()
            .map(|(origin, id, row)| {
                let outcomes = row.and_then(|row| {
                    let converter = converters.get(&origin).expect("a row that parses has told the format");
                    let mut outcomes = Vec::with_capacity(1);
                    for example in converter.convert(row)? {
                        outcomes.extend(recipe.items(example)?);
                    }
                    Ok(outcomes)
                });
                (id, outcomes)
            })
            .collect();
        for (id, outcomes) in results {
            prepared.take(id, outcomes, options.on_bad_row)?;
        }
        progress(prepared.report.rows);
    }
    if let Some(path) = &options.rejected {
        prepared.report.write_rejected(dataset, path)?;
    }
    prepared.report.check(dataset)?;
    Ok(prepared)
}

/// Rows of one format: those of a file, in one dataset of a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    part: usize,
    file: Arc<str>,
}

/// The format of a file's rows, by the setting or by looking at one.
fn told<R: Recipe>(id: &RowId, row: &Row, recipe: &R, options: &PrepareOptions) -> Result<Detection, DataError> {
    let detection = match options.format {
        Some(format) => Detection::given(format, row, &options.dataset_text_field),
        None => detect(id, row, R::FORMATS, &options.dataset_text_field)?,
    };
    if !R::FORMATS.contains(&detection.format) {
        let found = detection.format.description();
        return Err(DataError::WrongKind { row: id.clone(), found, needed: R::NEEDED });
    }
    // One row is converted to see what its file takes.
    let sample = Converter::new(&detection, ConvertOptions::default()).convert(row.clone()).unwrap_or_default();
    if let Some(example) = sample.first() {
        let encoder = recipe.encoder();
        if example.is_conversational() && encoder.template.is_none() {
            return Err(DataError::NoTemplate { row: id.clone(), format: detection.format });
        }
        if example.is_text() && encoder.tokenizer.special_tokens().eos().is_none() {
            return Err(DataError::NoEos { row: id.clone(), format: detection.format });
        }
        recipe.check(id, detection.format, example)?;
    }
    Ok(detection)
}

impl<T> Prepared<T> {
    fn take(&mut self, row: RowId, outcomes: Outcomes<T>, on_bad_row: OnBadRow) -> Result<(), DataError> {
        let report = &mut self.report;
        let index = report.rows;
        report.rows += 1;
        let outcomes = match (outcomes, on_bad_row) {
            (Ok(outcomes), _) => outcomes,
            (Err(problem), OnBadRow::Error) => return Err(DataError::Row { row, problem }),
            (Err(problem), OnBadRow::Skip) => {
                report.leave_out(index, row, &problem);
                return Ok(());
            }
        };
        for outcome in outcomes {
            let (Outcome::Item { size, .. } | Outcome::LeftOut { size, .. }) = &outcome;
            report.truncated += u64::from(size.tokens_cut > 0);
            report.tokens_cut += size.tokens_cut as u64;
            report.diverging_prompts += u64::from(size.prompt_diverges);
            match outcome {
                Outcome::Item { item, size } => {
                    report.examples += 1;
                    report.tokens += size.tokens as u64;
                    report.trained_tokens += size.trained_tokens as u64;
                    report.without_trained_token += u64::from(size.trained_tokens == 0);
                    self.examples.push(item);
                }
                Outcome::LeftOut { problem, .. } => {
                    report.without_trained_token += u64::from(matches!(problem, RowProblem::NothingLearned));
                    report.leave_out(index, row.clone(), &problem);
                }
            }
        }
        Ok(())
    }
}
