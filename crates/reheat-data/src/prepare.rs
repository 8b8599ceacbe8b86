//! Datasets to what training takes: every row is read, told apart, rendered, tokenised and cut, and what is lost is
//! counted.

mod pipeline; // rows to items, by many threads
mod cache; // what was made, on disk
mod report; // what became of the rows
mod sft;
mod preference;
mod prompts;
mod preview; // rows one by one, as they will be trained

pub(crate) use self::preview::AnyKind;
pub use self::{
    preference::{
        PreferencePair, RewardPair, UnpairedCompletion, prepare_preference, prepare_reward, prepare_unpaired,
    },
    preview::{LengthReport, PreviewedRow, lengths, preview},
    prompts::{Prompt, prepare_prompts},
    report::{Prepared, Report, SkippedRow},
    sft::prepare_sft,
};

use std::path::PathBuf;

use reheat_chat::ControlTokens;
use serde::{Deserialize, Serialize};

use crate::{DataError, Format, PackOptions, PackingStrategy};

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

/// What happens to a row with more than `max_length` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// It is cut, and the lost tokens are counted.
    #[default]
    Truncate,
    /// It is left out and counted.
    Drop,
    /// It can't be used: see [`OnBadRow`].
    Error,
}

/// Which end of a sequence that is cut stays, under TRL's name and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// The beginning.
    #[default]
    KeepStart,
    /// The end.
    KeepEnd,
}

/// How rows become sequences, under TRL's names where TRL has one.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// What the columns mean; told from the rows when absent.
    pub format: Option<Format>,
    /// The column of plain text. Default `text`.
    pub dataset_text_field: String,
    /// Longest sequence in tokens, or prompt where answers are yet to be written. `None` cuts nothing. Default 1024.
    pub max_length: Option<usize>,
    /// What happens to longer ones. Default: they are cut.
    pub overlong: Overlong,
    /// Which end stays of those that are cut. Default the beginning; of prompts it is always the end.
    pub truncation_mode: TruncationMode,
    /// Loss on completions alone, where rows have a prompt and a completion. Default yes.
    pub completion_only_loss: bool,
    /// Loss on what the assistant wrote alone. Default no.
    pub assistant_only_loss: bool,
    /// JSON schemas of the tools that prompts of messages declare where their row names none. Default none.
    pub tools: Option<Vec<serde_json::Value>>,
    /// What control tokens in messages are. Default text, so that a message can't end its own turn.
    pub control_tokens: ControlTokens,
    /// Several sequences to a row of `max_length` tokens. Default none.
    pub packing: Option<PackingStrategy>,
    /// Sequences that are packed together; all of them when absent. TRL packs each 1000 apart.
    pub packing_batch_size: Option<usize>,
    /// What happens when a row can't be used. Default an error.
    pub on_bad_row: OnBadRow,
    /// Where the rows that are left out are written, as JSON lines with the reason. The file is made only if there are
    /// any.
    pub rejected: Option<PathBuf>,
    /// A folder that keeps what is made, so that it isn't made again as long as no byte of the dataset, the tokenizer,
    /// the template or the settings changes. Not used where the template asks for the time. Default none.
    pub cache: Option<PathBuf>,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            format: None,
            dataset_text_field: "text".into(),
            max_length: Some(1024),
            overlong: Overlong::Truncate,
            truncation_mode: TruncationMode::KeepStart,
            completion_only_loss: true,
            assistant_only_loss: false,
            tools: None,
            control_tokens: ControlTokens::Literal,
            packing: None,
            packing_batch_size: None,
            on_bad_row: OnBadRow::Error,
            rejected: None,
            cache: None,
        }
    }
}

impl PrepareOptions {
    fn check(&self) -> Result<(), DataError> {
        let wrong = |setting, value: &str, reason: &str| {
            Err(DataError::Setting { setting, value: value.into(), reason: reason.into() })
        };
        match (self.max_length, self.packing) {
            (Some(0), _) => wrong("max_length", "0", "expected 1 or more"),
            (None, Some(_)) => wrong("max_length", "none", "packing needs the length of a row"),
            _ => Ok(()),
        }
    }

    fn pack_options(&self) -> Option<PackOptions> {
        let (strategy, max_length) = (self.packing?, self.max_length?);
        Some(PackOptions { strategy, max_length, batch_size: self.packing_batch_size })
    }

    /// Longest sequence before packing: packing itself splits what is longer, or cuts it.
    fn cut_at(&self) -> Option<usize> {
        match self.packing {
            Some(PackingStrategy::BfdSplit | PackingStrategy::Wrapped) => None,
            Some(PackingStrategy::Bfd) | None => self.max_length,
        }
    }
}
