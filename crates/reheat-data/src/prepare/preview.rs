//! Rows of any kind one by one, as they will be trained: to look at them, and to measure them.

use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;
use serde::Serialize;

use super::{
    Overlong, PrepareOptions, Prepared, TruncationMode,
    pipeline::{Outcome, Outcomes, Pipeline, Recipe},
    preference::{Answers, explicit},
    prepare_sft,
    sft::Sft,
};
use crate::{DataError, Dataset, Example, Format, RowId, RowProblem, Sequence, Spread, tokenize::Encoder};

/// A row as it will be trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PreviewedRow {
    /// Where the row stands; several rows may be packed into one.
    pub row: Option<RowId>,
    /// What is trained, with its name where there are several: `chosen` and `rejected`.
    pub sequences: Vec<(&'static str, Sequence)>,
    /// Tokens that were cut off.
    pub tokens_cut: usize,
    /// Why the row, or a part of it, is left out.
    pub left_out: Option<String>,
}

/// The first `count` rows as they will be trained; with packing, the first packed rows of the whole dataset.
///
/// Rows of any format: preferences give two sequences, prompts one of which nothing is learned.
///
/// # Errors
/// As [`prepare_sft`], but for bad rows, which come with their problem.
pub fn preview(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    count: usize,
) -> Result<Vec<PreviewedRow>, DataError> {
    if options.packing.is_some() {
        let Prepared { examples, .. } = prepare_sft(dataset, tokenizer, template, options, &mut |_| {})?;
        let packed =
            |sequence| PreviewedRow { row: None, sequences: vec![("packed", sequence)], tokens_cut: 0, left_out: None };
        return Ok(examples.into_iter().take(count).map(packed).collect());
    }
    let recipe = AnyKind::new(tokenizer, template, options)?;
    let mut pipeline = Pipeline::new(dataset, &recipe, options);
    let mut previewed = Vec::new();
    while previewed.len() < count {
        let rows = pipeline.next_chunk()?;
        if rows.is_empty() {
            break;
        }
        previewed.extend(rows.into_iter().take(count - previewed.len()).map(|(id, outcomes)| shown(id, outcomes)));
    }
    if previewed.is_empty() && count > 0 {
        return Err(DataError::no_rows(dataset, pipeline.num_filtered()));
    }
    Ok(previewed)
}

fn shown(row: RowId, outcomes: Outcomes<Vec<(&'static str, Sequence)>>) -> PreviewedRow {
    let mut shown = PreviewedRow { row: Some(row), sequences: Vec::new(), tokens_cut: 0, left_out: None };
    match outcomes {
        Err(problem) => shown.left_out = Some(problem.to_string()),
        Ok(outcomes) => {
            for outcome in outcomes {
                match outcome {
                    Outcome::Item { item, size } => {
                        shown.sequences.extend(item);
                        shown.tokens_cut += size.tokens_cut;
                    }
                    Outcome::LeftOut { problem, .. } => shown.left_out = Some(problem.to_string()),
                }
            }
        }
    }
    shown
}

/// How long the sequences of a dataset are before anything is cut, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LengthReport {
    /// Rows read.
    pub rows: u64,
    /// Rows that can't be used.
    pub bad_rows: u64,
    /// The first of them, with its place and problem.
    pub first_bad_row: Option<String>,
    /// Length of each sequence. A preference has two.
    #[serde(skip)]
    pub lengths: Vec<u32>,
    /// The lengths in numbers.
    pub tokens: Option<Spread>,
    /// The longest sequence allowed, where there is a limit.
    pub max_length: Option<usize>,
    /// Sequences that are longer.
    pub over: u64,
    /// Their share, from 0 to 1.
    pub over_share: f64,
    /// Tokens that cutting them loses.
    pub tokens_cut: u64,
    /// Their share of all tokens, from 0 to 1.
    pub tokens_cut_share: f64,
}

/// Measures the sequences of a dataset of any format, and what `max_length` would cut.
///
/// # Errors
/// If a file can't be read, the format of its rows can't be told, or no row can be measured.
pub fn lengths(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<LengthReport, DataError> {
    let uncut = PrepareOptions { max_length: None, packing: None, overlong: Overlong::Truncate, ..options.clone() };
    let recipe = AnyKind::new(tokenizer, template, &uncut)?;
    let mut pipeline = Pipeline::new(dataset, &recipe, &uncut);
    let mut rows = 0;
    let mut bad_rows = 0;
    let mut first_bad_row = None;
    let mut lengths: Vec<u32> = Vec::new();
    loop {
        let chunk = pipeline.next_chunk()?;
        if chunk.is_empty() {
            break;
        }
        for (id, outcomes) in chunk {
            rows += 1;
            match outcomes {
                Ok(outcomes) => lengths.extend(outcomes.iter().flat_map(measured)),
                Err(problem) => {
                    bad_rows += 1;
                    first_bad_row.get_or_insert_with(|| format!("{id}: {problem}"));
                }
            }
        }
        progress(rows);
    }
    let tokens = Spread::of(&lengths);
    let Some(all) = &tokens else {
        return Err(match first_bad_row {
            Some(reasons) => DataError::NothingLeft { rows, files: dataset.name().to_owned(), reasons },
            None => DataError::no_rows(dataset, pipeline.num_filtered()),
        });
    };
    let limit = options.max_length.and_then(|length| u32::try_from(length).ok()).unwrap_or(u32::MAX);
    let over = lengths.iter().filter(|length| **length > limit);
    let tokens_cut: u64 = over.clone().map(|length| u64::from(length - limit)).sum();
    let over = over.count() as u64;
    Ok(LengthReport {
        rows,
        bad_rows,
        first_bad_row,
        max_length: options.max_length,
        over,
        over_share: over as f64 / lengths.len() as f64,
        tokens_cut,
        tokens_cut_share: tokens_cut as f64 / all.total.max(1) as f64,
        lengths,
        tokens,
    })
}

/// The lengths of an example's sequences.
fn measured(outcome: &Outcome<Vec<(&'static str, Sequence)>>) -> Vec<u32> {
    let short = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    match outcome {
        Outcome::Item { item, .. } => item.iter().map(|(_, sequence)| short(sequence.input_ids.len())).collect(),
        Outcome::LeftOut { size, .. } => vec![short(size.tokens)],
    }
}

/// Examples of every kind, each as its method would train it.
pub(crate) struct AnyKind<'a> {
    sft: Sft<'a>,
    answers: Answers<'a>,
}

impl<'a> AnyKind<'a> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
        options: &'a PrepareOptions,
    ) -> Result<Self, DataError> {
        // The end is kept of sequences alone; preferences say so when they are trained.
        let for_answers = PrepareOptions { truncation_mode: TruncationMode::KeepStart, ..options.clone() };
        let answers = Answers::new(tokenizer, template, &for_answers)?;
        let encoder = Encoder { tokenizer, template, control_tokens: options.control_tokens };
        Ok(Self { sft: Sft { encoder, options }, answers })
    }

    /// Tokens of each sequence of an example.
    pub(crate) fn token_counts(&self, example: Example) -> Result<Vec<u32>, RowProblem> {
        Ok(self.items(example)?.iter().flat_map(measured).collect())
    }
}

impl Recipe for AnyKind<'_> {
    type Item = Vec<(&'static str, Sequence)>;

    const FORMATS: &'static [Format] = &Format::ALL;
    const NEEDED: &'static str = "rows of a known format";

    fn encoder(&self) -> &Encoder<'_> {
        &self.sft.encoder
    }

    fn check(&self, row: &RowId, format: Format, example: &Example) -> Result<(), DataError> {
        let is_sft = Sft::FORMATS.contains(&format);
        if is_sft { self.sft.check(row, format, example) } else { Ok(()) }
    }

    fn items(&self, example: Example) -> Outcomes<Self::Item> {
        let one = |name| move |sequence: Sequence| vec![(name, sequence)];
        Ok(match example {
            Example::Preference { prompt, chosen, rejected, context, .. } => {
                let (prompt, answers) = explicit(prompt, chosen, rejected)?;
                let pair = self.answers.pair(&prompt, answers, &context)?;
                vec![pair.map(|pair| vec![("chosen", pair.chosen()), ("rejected", pair.rejected())])]
            }
            Example::UnpairedPreference { prompt, completion, label, context } => {
                let name = if label { "good" } else { "bad" };
                let single = self.answers.single(&prompt, completion, &context, label)?;
                vec![single.map(|single| one(name)(single.sequence()))]
            }
            Example::PromptOnly { prompt, context, .. } => {
                let input_ids = self.encoder().prompt(&prompt, &context)?;
                let len = input_ids.len();
                let item = one("prompt")(Sequence::new(input_ids).learned_from(len));
                vec![Outcome::Item { item, size: Default::default() }]
            }
            Example::Stepwise { prompt, completions, .. } => {
                let text = format!("{prompt}{}", completions.concat());
                self.sft.items(Example::Text { text })?.into_iter().map(|made| made.map(one("steps"))).collect()
            }
            other => self.sft.items(other)?.into_iter().map(|made| made.map(one("sequence"))).collect(),
        })
    }
}
