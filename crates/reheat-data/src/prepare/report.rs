//! What became of the rows.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use serde::Serialize;
use serde_json::json;

use crate::{DataError, Dataset, Detection, PackReport, RowId, RowProblem, Sequence};

/// A row that was left out, or a part of one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkippedRow {
    /// Where it stands.
    pub row: RowId,
    /// The reason in two or three words.
    pub reason: Cow<'static, str>,
    /// What is wrong with it.
    pub problem: String,
    /// Its place among the rows of the dataset, from 0.
    #[serde(skip)]
    pub(super) index: u64,
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
    /// Examples left out, by reason. A row is one example, unless it lists several.
    pub skipped: BTreeMap<Cow<'static, str>, u64>,
    /// The rows left out.
    pub skipped_rows: Vec<SkippedRow>,
    /// Examples that training takes, before they are packed: sequences, pairs of answers, or prompts.
    pub examples: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Tokens whose prediction is learned; none of prompts, whose answers are yet to be written.
    pub trained_tokens: u64,
    /// Examples that were cut.
    pub truncated: u64,
    /// Tokens that were cut off.
    pub tokens_cut: u64,
    /// Examples without a token to learn. They are left out; only where examples are packed they stay and weigh
    /// nothing, as in TRL.
    pub without_trained_token: u64,
    /// Prompts that end in other tokens alone than before their answer, so that a model that is asked sees another
    /// end than it was trained on. Templates do this, and words that are cut between prompt and answer.
    pub diverging_prompts: u64,
    /// Examples with tools, or calls of them, that the chat template does not print: a model learns nothing of them.
    pub hidden_tools: u64,
    /// What packing did, where it was asked for.
    pub packing: Option<PackReport>,
}

/// Examples and what became of the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared<T = Sequence> {
    /// In the order of the rows, unless they were packed.
    pub examples: Vec<T>,
    /// What was read, left out and cut.
    pub report: Report,
}

impl Report {
    pub(crate) fn leave_out(&mut self, index: u64, row: RowId, problem: &RowProblem) {
        let reason = Cow::Borrowed(problem.reason());
        *self.skipped.entry(reason.clone()).or_default() += 1;
        self.skipped_rows.push(SkippedRow { row, reason, problem: problem.to_string(), index });
    }

    /// An error where nothing is left to train on: no token that is learned, if examples hold any, or no example.
    pub(super) fn check(&self, dataset: &Dataset, learns: bool) -> Result<(), DataError> {
        if self.rows == 0 && self.filtered == 0 {
            return Err(DataError::Empty { files: dataset.name().to_owned() });
        }
        if if learns { self.trained_tokens > 0 } else { self.examples > 0 } {
            return Ok(());
        }
        let mut reasons: Vec<String> = self.skipped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let nothing = RowProblem::NothingLearned.reason();
        let kept = self.without_trained_token - self.skipped.get(nothing).copied().unwrap_or(0);
        if kept > 0 {
            reasons.push(format!("{kept} {nothing}"));
        }
        if self.filtered > 0 {
            reasons.push(format!("{} left out by the filter", self.filtered));
        }
        let rows = self.rows + self.filtered;
        Err(DataError::NothingLeft { rows, files: dataset.name().to_owned(), reasons: reasons.join(", ") })
    }

    /// Writes the rows that were left out as JSON lines: `row`, `reason`, `problem`, and `text`, the row as it was
    /// found. They are read once more for it, so that good rows cost nothing.
    pub(crate) fn write_rejected(&self, dataset: &Dataset, path: &Path) -> Result<(), DataError> {
        let mut left: VecDeque<&SkippedRow> = self.skipped_rows.iter().collect();
        if left.is_empty() {
            return Ok(());
        }
        let failed = |source: io::Error| DataError::Write { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        for (index, row) in dataset.rows().enumerate() {
            let row = row?;
            while left.front().is_some_and(|skipped| skipped.index == index as u64) {
                let Some(SkippedRow { row: id, reason, problem, .. }) = left.pop_front() else { break };
                let line = json!({ "row": id, "reason": reason, "problem": problem, "text": row.text() });
                writeln!(file, "{line}").map_err(failed)?;
            }
            if left.is_empty() {
                break;
            }
        }
        file.flush().map_err(failed)
    }
}
