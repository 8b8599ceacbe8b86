//! Rows to items, by many threads: the part that every training method shares.

use rayon::prelude::*;
use reheat_chat::{ChatTemplate, ToolSupport};

use super::{
    OnBadRow, PrepareOptions, Prepared, Report,
    cache::{self, Record},
};
use crate::{
    Conversion, ConversionOptions, ConvertedRow, DataError, Dataset, Detection, Example, Format, RowId, RowProblem,
    tokenize::Encoder,
};

/// What a training method makes of examples.
pub(super) trait Recipe: Sync {
    /// What it trains on.
    type Item: Send;

    /// The formats that it can use, and how they are called together.
    const FORMATS: &'static [Format];
    const NEEDED: &'static str;

    /// Whether examples hold what is learned; not so where answers are yet to be written.
    const LEARNS: bool = true;

    fn encoder(&self) -> &Encoder<'_>;

    /// Rows to examples.
    fn conversion(dataset: &Dataset, options: ConversionOptions) -> Conversion {
        Conversion::wanting(Self::FORMATS, dataset, options)
    }

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

impl<T> Outcome<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Item { item, size } => Outcome::Item { item: change(item), size },
            Self::LeftOut { problem, size } => Outcome::LeftOut { problem, size },
        }
    }

    fn size_mut(&mut self) -> &mut Size {
        let (Self::Item { size, .. } | Self::LeftOut { size, .. }) = self;
        size
    }
}

/// What became of a row's examples, or why it has none.
pub(super) type Outcomes<T> = Result<Vec<Outcome<T>>, RowProblem>;

/// A row's place and what became of it.
type Row<T> = (RowId, Outcomes<T>);

/// How much an example is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) tokens: usize,
    pub(super) trained_tokens: usize,
    pub(super) tokens_cut: usize,
    pub(super) prompt_diverges: bool,
    pub(super) hides_tools: bool,
}

/// The rows of a dataset on their way to items.
pub(super) struct Pipeline<'a, R> {
    recipe: &'a R,
    conversion: Conversion,
    /// What the template prints of tools, if there is a template.
    tools: Option<ToolSupport>,
}

impl<'a, R: Recipe> Pipeline<'a, R> {
    pub(super) fn new(dataset: &Dataset, recipe: &'a R, options: &PrepareOptions) -> Self {
        let options = ConversionOptions {
            format: options.format,
            dataset_text_field: options.dataset_text_field.clone(),
            on_bad_row: options.on_bad_row,
        };
        let tools = recipe.encoder().template.map(ChatTemplate::tool_support);
        Self { recipe, conversion: R::conversion(dataset, options), tools }
    }

    /// Rows that the dataset's filter left out so far.
    pub(super) fn num_filtered(&self) -> u64 {
        self.conversion.num_filtered()
    }

    /// What the next rows became; nothing at the end.
    pub(super) fn next_chunk(&mut self) -> Result<Vec<Row<R::Item>>, DataError> {
        let (recipe, tools) = (self.recipe, self.tools);
        let rows =
            self.conversion.next_chunk_checked(&mut |id, detection, example| check(recipe, id, detection, example))?;
        let items = |(id, examples): ConvertedRow| {
            let outcomes = examples.and_then(|examples| {
                let mut outcomes = Vec::with_capacity(examples.len());
                for example in examples {
                    let hides_tools = tools.is_some_and(|tools| hides(tools, &example));
                    let mut made = recipe.items(example)?;
                    made.iter_mut().for_each(|outcome| outcome.size_mut().hides_tools = hides_tools);
                    outcomes.append(&mut made);
                }
                Ok(outcomes)
            });
            (id, outcomes)
        };
        Ok(rows.into_par_iter().map(items).collect())
    }
}

/// Reads the rows of a dataset and makes items of them.
pub(super) fn run<R: Recipe>(
    dataset: &Dataset,
    recipe: &R,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<R::Item>, DataError>
where
    R::Item: Record,
{
    let entry = cache::entry(dataset, recipe, options)?;
    let kept = entry.as_deref().map_or(Ok(None), cache::load)?;
    let is_kept = kept.is_some();
    let prepared = match kept {
        Some(prepared) => prepared,
        None => read(dataset, recipe, options, progress)?,
    };
    progress(prepared.report.rows);
    if let Some(path) = &options.rejected {
        prepared.report.write_rejected(dataset, path)?;
    }
    prepared.report.check(dataset, R::LEARNS)?;
    if let (Some(entry), false) = (entry, is_kept) {
        cache::store(&entry, &prepared)?;
    }
    Ok(prepared)
}

fn read<R: Recipe>(
    dataset: &Dataset,
    recipe: &R,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared<R::Item>, DataError> {
    let mut prepared = Prepared { examples: Vec::new(), report: Report::default() };
    let mut pipeline = Pipeline::new(dataset, recipe, options);
    loop {
        let rows = pipeline.next_chunk()?;
        if rows.is_empty() {
            break;
        }
        for (id, outcomes) in rows {
            prepared.take::<R>(id, outcomes, options.on_bad_row)?;
        }
        progress(prepared.report.rows);
    }
    let report = &mut prepared.report;
    report.filtered = pipeline.conversion.num_filtered();
    report.not_sampled = pipeline.conversion.num_not_sampled();
    report.files = pipeline.conversion.into_files();
    Ok(prepared)
}

/// Whether a template leaves out tools of an example, or calls of them.
fn hides(tools: ToolSupport, example: &Example) -> bool {
    let hides_calls = !tools.calls && example.calls_tools();
    hides_calls || (!tools.declarations && example.is_conversational() && example.declares_tools())
}

/// Refuses a file whose rows can't be used, by what its first row became.
fn check<R: Recipe>(recipe: &R, id: &RowId, detection: &Detection, example: Option<&Example>) -> Result<(), DataError> {
    let format = detection.format;
    if !R::FORMATS.contains(&format) {
        return Err(DataError::WrongKind { row: id.clone(), found: format.description(), needed: R::NEEDED });
    }
    let Some(example) = example else { return Ok(()) };
    let encoder = recipe.encoder();
    if example.is_conversational() && encoder.template.is_none() {
        return Err(DataError::NoTemplate { row: id.clone(), format });
    }
    if R::LEARNS && example.is_text() && encoder.tokenizer.special_tokens().eos().is_none() {
        return Err(DataError::NoEos { row: id.clone(), format });
    }
    recipe.check(id, format, example)
}

impl<T: Send> Prepared<T> {
    fn take<R: Recipe<Item = T>>(
        &mut self,
        row: RowId,
        outcomes: Outcomes<T>,
        on_bad_row: OnBadRow,
    ) -> Result<(), DataError> {
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
            report.hidden_tools += u64::from(size.hides_tools);
            match outcome {
                Outcome::Item { item, size } => {
                    report.examples += 1;
                    report.tokens += size.tokens as u64;
                    report.trained_tokens += size.trained_tokens as u64;
                    report.without_trained_token += u64::from(R::LEARNS && size.trained_tokens == 0);
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
