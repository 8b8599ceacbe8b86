//! Files to sequences: every row is read, told apart, rendered, tokenised and cut, and what is lost is counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rayon::prelude::*;
use reheat_chat::ChatTemplate;
use reheat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::format::{ConvertOptions, Converter};
use crate::read::RawRow;
use crate::tokenize::{LossRules, SftTokenizer};
use crate::{DataError, Dataset, Detection, Format, RowId, RowProblem, Sequence, detect};

/// The formats that supervised fine-tuning can use.
const SFT_FORMATS: [Format; 7] = [
    Format::Messages,
    Format::ShareGpt,
    Format::PromptCompletion,
    Format::QuestionAnswer,
    Format::Alpaca,
    Format::Text,
    Format::Tokens,
];

/// What happens when a row can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Preparation stops with the row's place and fault.
    #[default]
    Error,
    /// The row is left out, counted and listed.
    Skip,
}

/// How rows become sequences, under TRL's names where TRL has one.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// What the columns mean; told from the rows when absent.
    pub format: Option<Format>,
    /// The column of plain text. Default `text`.
    pub dataset_text_field: String,
    /// Longest sequence in tokens; the rest is cut and counted. `None` cuts nothing. Default 1024.
    pub max_length: Option<usize>,
    /// Loss on completions alone, where rows have a prompt and a completion. Default yes.
    pub completion_only_loss: bool,
    /// Loss on what the assistant wrote alone. Default no.
    pub assistant_only_loss: bool,
    /// What happens when a row can't be used. Default an error.
    pub on_bad_row: OnBadRow,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            format: None,
            dataset_text_field: "text".into(),
            max_length: Some(1024),
            completion_only_loss: true,
            assistant_only_loss: false,
            on_bad_row: OnBadRow::Error,
        }
    }
}

/// A row that was left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkippedRow {
    /// Where it stands.
    pub row: RowId,
    /// What is wrong with it.
    pub problem: String,
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Each file with the format of its rows and why.
    pub files: Vec<(String, Detection)>,
    /// Rows read.
    pub rows: u64,
    /// Rows that the dataset's filter left out before that.
    pub filtered: u64,
    /// Rows that were not drawn for the dataset's samples.
    pub not_sampled: u64,
    /// Rows left out, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// The rows left out.
    pub skipped_rows: Vec<SkippedRow>,
    /// Sequences made.
    pub sequences: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Tokens whose prediction is learned.
    pub trained_tokens: u64,
    /// Sequences that were cut.
    pub truncated: u64,
    /// Tokens that were cut off.
    pub tokens_cut: u64,
    /// Sequences without a token to learn; they stay and weigh nothing.
    pub without_trained_token: u64,
}

/// Sequences and what became of the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// In the order of the files.
    pub sequences: Vec<Sequence>,
    /// What was read, left out and cut.
    pub report: Report,
}

/// Reads a dataset and makes sequences for supervised fine-tuning.
///
/// `progress` is told the number of rows done so far, from the thread that calls.
///
/// # Errors
/// If a file can't be read; a row has no known format or can't be used (unless such rows are skipped); rows are
/// conversations and there is no template; or no sequence is left with a token to learn.
pub fn prepare_sft(
    dataset: &Dataset,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Prepared, DataError> {
    if options.max_length == Some(0) {
        return Err(DataError::Setting {
            setting: "max_length",
            value: "0".into(),
            reason: "expected 1 or more".into(),
        });
    }
    let loss = LossRules { completion_only: options.completion_only_loss, assistant_only: options.assistant_only_loss };
    let tokenizer = SftTokenizer { tokenizer, template, loss };
    let mut prepared = Prepared { sequences: Vec::new(), report: Report::default() };
    prepare_rows(dataset, &tokenizer, options, &mut prepared, progress)?;
    let report = &prepared.report;
    if report.rows == 0 && report.filtered == 0 {
        return Err(DataError::Empty { files: dataset.name().to_owned() });
    }
    if report.trained_tokens == 0 {
        let mut reasons: Vec<String> =
            report.skipped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if report.without_trained_token > 0 {
            reasons.push(format!("{} without a token to learn", report.without_trained_token));
        }
        if report.filtered > 0 {
            reasons.push(format!("{} left out by the filter", report.filtered));
        }
        let rows = report.rows + report.filtered;
        return Err(DataError::NothingLeft { rows, files: dataset.name().to_owned(), reasons: reasons.join(", ") });
    }
    Ok(prepared)
}

fn prepare_rows(
    dataset: &Dataset,
    tokenizer: &SftTokenizer,
    options: &PrepareOptions,
    prepared: &mut Prepared,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DataError> {
    let mut rows = dataset.rows();
    let mut converters: HashMap<Origin, Converter> = HashMap::new();
    loop {
        let chunk: Vec<RawRow> = rows.next_chunk()?;
        prepared.report.filtered = rows.num_filtered();
        prepared.report.not_sampled = rows.num_not_sampled();
        if chunk.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = chunk
            .into_par_iter()
            .map(|row| {
                let part = row.part();
                let (id, row) = row.parse();
                (Origin { part, file: id.file().into() }, id, row)
            })
            .collect();
        for (origin, id, row) in &rows {
            if let Ok(row) = row
                && !converters.contains_key(origin)
            {
                let detection = told(id, row, tokenizer, options)?;
                converters.insert(origin.clone(), Converter::new(&detection, ConvertOptions::default()));
                prepared.report.files.push((id.file().to_owned(), detection));
            }
        }
        let results: Vec<(RowId, Result<Vec<Cut>, RowProblem>)> = rows
            .into_par_iter()
            .map(|(origin, id, row)| {
                let cuts = row.and_then(|row| {
                    let converter = converters.get(&origin).expect("a row that parses has told the format");
                    let examples = converter.convert(row)?;
                    examples.into_iter().map(|example| cut(tokenizer.sequence(example)?, options.max_length)).collect()
                });
                (id, cuts)
            })
            .collect();
        for (id, cuts) in results {
            prepared.take(id, cuts, options.on_bad_row)?;
        }
        progress(prepared.report.rows);
    }
}

/// Rows of one format: those of a file, in one dataset of a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    part: usize,
    file: Arc<str>,
}

/// The format of a file's rows, by the setting or by looking at one.
fn told(
    id: &RowId,
    row: &crate::Row,
    tokenizer: &SftTokenizer,
    options: &PrepareOptions,
) -> Result<Detection, DataError> {
    let detection = match options.format {
        Some(format) => Detection::given(format, row, &options.dataset_text_field),
        None => detect(id, row, &SFT_FORMATS, &options.dataset_text_field)?,
    };
    // One row is converted to see whether its file takes a template.
    let sample = Converter::new(&detection, ConvertOptions::default()).convert(row.clone());
    let conversational = sample.is_ok_and(|examples| examples.iter().any(crate::Example::is_conversational));
    if conversational && tokenizer.template.is_none() {
        return Err(DataError::NoTemplate { row: id.clone(), format: detection.format });
    }
    Ok(detection)
}

/// A sequence and how many tokens it lost.
struct Cut {
    sequence: Sequence,
    tokens_cut: usize,
}

fn cut(mut sequence: Sequence, max_length: Option<usize>) -> Result<Cut, RowProblem> {
    let tokens = sequence.input_ids.len();
    let kept = max_length.map_or(tokens, |max_length| tokens.min(max_length));
    sequence.input_ids.truncate(kept);
    sequence.labels.truncate(kept);
    Ok(Cut { sequence, tokens_cut: tokens - kept })
}

impl Prepared {
    fn take(&mut self, row: RowId, cuts: Result<Vec<Cut>, RowProblem>, on_bad_row: OnBadRow) -> Result<(), DataError> {
        let report = &mut self.report;
        report.rows += 1;
        let cuts = match (cuts, on_bad_row) {
            (Ok(cuts), _) => cuts,
            (Err(problem), OnBadRow::Error) => return Err(DataError::Row { row, problem }),
            (Err(problem), OnBadRow::Skip) => {
                *report.skipped.entry(problem.reason()).or_default() += 1;
                report.skipped_rows.push(SkippedRow { row, problem: problem.to_string() });
                return Ok(());
            }
        };
        for Cut { sequence, tokens_cut } in cuts {
            report.sequences += 1;
            report.tokens += sequence.input_ids.len() as u64;
            report.trained_tokens += sequence.num_items() as u64;
            report.truncated += u64::from(tokens_cut > 0);
            report.tokens_cut += tokens_cut as u64;
            report.without_trained_token += u64::from(sequence.num_items() == 0);
            self.sequences.push(sequence);
        }
        Ok(())
    }
}
