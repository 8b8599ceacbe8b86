//! What a row becomes: the settings that every command has that prepares rows for training.

use std::path::PathBuf;

use reheat_chat::ControlTokens;
use reheat_data::{OnBadRow, Overlong, PackingStrategy, PrepareOptions, TruncationMode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// What a row becomes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrepareSettings {
    /// What the columns mean: messages, sharegpt, prompt_completion, alpaca, text, tokens …; told from the rows when absent.
    #[schemars(extend("x-flag" = "format"))]
    pub(crate) dataset_format: Option<String>,
    /// Column of plain text.
    pub(crate) dataset_text_field: String,
    /// Longest sequence in tokens; with packing, the length of a row.
    pub(crate) max_length: Option<usize>,
    /// What happens to longer sequences. The tokens that are lost are reported.
    #[schemars(with = "OverlongSchema")]
    pub(crate) overlong: Overlong,
    /// Which end stays of a sequence that is cut.
    #[schemars(with = "TruncationSchema")]
    pub(crate) truncation_mode: TruncationMode,
    /// Loss on completions alone; where rows have a prompt and a completion, that is the default.
    pub(crate) completion_only_loss: Option<bool>,
    /// Loss on what the assistant wrote alone.
    pub(crate) assistant_only_loss: bool,
    /// What a message says that spells a control token such as <|im_end|>: the characters (`literal`), or the token,
    /// as in transformers (`recognized`).
    #[schemars(with = "ControlTokensSchema")]
    pub(crate) control_tokens: ControlTokens,
    /// Several sequences to a row of `max_length` tokens.
    pub(crate) packing: bool,
    /// How sequences are packed.
    #[schemars(with = "PackingSchema")]
    pub(crate) packing_strategy: PackingStrategy,
    /// Sequences that are packed together; all of them when absent. TRL packs each 1000 apart.
    pub(crate) packing_batch_size: Option<usize>,
    /// What happens when a row can't be used: the run stops, or the row is left out, counted and written to
    /// `rejected.jsonl`.
    #[schemars(with = "BadRowSchema")]
    pub(crate) on_bad_row: OnBadRow,
    /// Folder that keeps tokenised rows, so that a further run with the same bytes, tokenizer, template and settings
    /// finds them made.
    pub(crate) dataset_cache_dir: Option<String>,
}

/// What a row of answers to a prompt becomes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AnswerSettings {
    /// What the columns mean: preference, unpaired_preference; told from the rows when absent.
    #[schemars(extend("x-flag" = "format"))]
    pub(crate) dataset_format: Option<String>,
    /// Longest prompt with an answer in tokens. Rows whose prompt alone is that long are left out.
    pub(crate) max_length: Option<usize>,
    /// What happens to longer answers. The tokens that are lost are reported.
    #[schemars(with = "OverlongSchema")]
    pub(crate) overlong: Overlong,
    /// What a message says that spells a control token such as <|im_end|>: the characters (`literal`), or the token,
    /// as in transformers (`recognized`).
    #[schemars(with = "ControlTokensSchema")]
    pub(crate) control_tokens: ControlTokens,
    /// What happens when a row can't be used: the run stops, or the row is left out, counted and written to
    /// `rejected.jsonl`.
    #[schemars(with = "BadRowSchema")]
    pub(crate) on_bad_row: OnBadRow,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        let PrepareSettings { max_length, overlong, control_tokens, on_bad_row, .. } = PrepareSettings::default();
        Self { dataset_format: None, max_length, overlong, control_tokens, on_bad_row }
    }
}

impl AnswerSettings {
    /// The settings as the library takes them. Rows that are left out are written to `rejected`.
    pub(crate) fn options(&self, rejected: Option<PathBuf>) -> anyhow::Result<PrepareOptions> {
        let Self { dataset_format, max_length, overlong, control_tokens, on_bad_row } = self.clone();
        let rest = PrepareSettings::default();
        PrepareSettings { dataset_format, max_length, overlong, control_tokens, on_bad_row, ..rest }.options(rejected)
    }
}

/// What a row becomes that is to be completed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PromptSettings {
    /// What the columns mean: prompt_only, question_answer, messages …; told from the rows when absent.
    #[schemars(extend("x-flag" = "format"))]
    pub(crate) dataset_format: Option<String>,
    /// Longest prompt in tokens; rows with a longer one are left out and counted. No limit when absent.
    pub(crate) max_prompt_length: Option<usize>,
    /// What a message says that spells a control token such as <|im_end|>: the characters (`literal`), or the token,
    /// as in transformers (`recognized`).
    #[schemars(with = "ControlTokensSchema")]
    pub(crate) control_tokens: ControlTokens,
    /// What happens when a row can't be used: the run stops, or the row is left out, counted and written to
    /// `rejected.jsonl`.
    #[schemars(with = "BadRowSchema")]
    pub(crate) on_bad_row: OnBadRow,
}

impl Default for PromptSettings {
    fn default() -> Self {
        let PrepareSettings { control_tokens, on_bad_row, .. } = PrepareSettings::default();
        Self { dataset_format: None, max_prompt_length: None, control_tokens, on_bad_row }
    }
}

impl PromptSettings {
    /// The settings as the library takes them. Rows that are left out are written to `rejected`.
    pub(crate) fn options(&self, rejected: Option<PathBuf>) -> anyhow::Result<PrepareOptions> {
        let Self { dataset_format, max_prompt_length: max_length, control_tokens, on_bad_row } = self.clone();
        let (overlong, rest) = (Overlong::Drop, PrepareSettings::default());
        PrepareSettings { dataset_format, max_length, overlong, control_tokens, on_bad_row, ..rest }.options(rejected)
    }
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "the values of `Overlong`, whose crate has no schemas")]
enum OverlongSchema {
    Truncate,
    Drop,
    Error,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "the values of `TruncationMode`, whose crate has no schemas")]
enum TruncationSchema {
    KeepStart,
    KeepEnd,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "the values of `ControlTokens`, whose crate has no schemas")]
enum ControlTokensSchema {
    Literal,
    Recognized,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "the values of `PackingStrategy`, whose crate has no schemas")]
enum PackingSchema {
    Bfd,
    BfdSplit,
    Wrapped,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "the values of `OnBadRow`, whose crate has no schemas")]
enum BadRowSchema {
    Error,
    Skip,
}

impl Default for PrepareSettings {
    fn default() -> Self {
        let options = PrepareOptions::default();
        Self {
            dataset_format: None,
            dataset_text_field: options.dataset_text_field,
            max_length: options.max_length,
            overlong: options.overlong,
            truncation_mode: options.truncation_mode,
            completion_only_loss: None,
            assistant_only_loss: options.assistant_only_loss,
            control_tokens: options.control_tokens,
            packing: false,
            packing_strategy: PackingStrategy::Bfd,
            packing_batch_size: options.packing_batch_size,
            on_bad_row: options.on_bad_row,
            dataset_cache_dir: None,
        }
    }
}

impl PrepareSettings {
    /// The settings as the library takes them. Rows that are left out are written to `rejected`.
    pub(crate) fn options(&self, rejected: Option<PathBuf>) -> anyhow::Result<PrepareOptions> {
        if !self.packing && self.packing_batch_size.is_some() {
            return Err(Fault::input("packing_batch_size has no effect without packing").hint("add --packing").into());
        }
        Ok(PrepareOptions {
            format: self.dataset_format.as_deref().map(str::parse).transpose()?,
            dataset_text_field: self.dataset_text_field.clone(),
            max_length: self.max_length,
            overlong: self.overlong,
            truncation_mode: self.truncation_mode,
            completion_only_loss: self.completion_only_loss.unwrap_or(true),
            assistant_only_loss: self.assistant_only_loss,
            tools: None,
            control_tokens: self.control_tokens,
            packing: self.packing.then_some(self.packing_strategy),
            packing_batch_size: self.packing_batch_size,
            on_bad_row: self.on_bad_row,
            rejected,
            cache: self.dataset_cache_dir.as_ref().map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::Table;

    #[test]
    fn every_choice_is_one_that_the_library_knows() {
        let table = Table::default().with::<PrepareSettings>("Data");
        for (key, values) in [
            ("overlong", ["truncate", "drop", "error"].as_slice()),
            ("truncation_mode", &["keep_start", "keep_end"]),
            ("control_tokens", &["literal", "recognized"]),
            ("packing_strategy", &["bfd", "bfd_split", "wrapped"]),
            ("on_bad_row", &["error", "skip"]),
        ] {
            let field = table.field(key).unwrap();
            for value in values {
                assert_eq!(field.accept(&json!(value)), Ok(json!(value)), "{key}");
            }
            assert!(field.accept(&json!("other")).is_err());
        }
    }

    #[test]
    fn packing_has_a_strategy_only_where_it_is_on() {
        let options = |settings: Value| serde_json::from_value::<PrepareSettings>(settings).unwrap().options(None);
        assert_eq!(options(json!({"packing_strategy": "wrapped"})).unwrap().packing, None);
        let packed = options(json!({"packing": true, "packing_strategy": "bfd-requeue"})).unwrap();
        assert_eq!(packed.packing, Some(PackingStrategy::BfdSplit));
        assert!(options(json!({"packing_batch_size": 1000})).is_err());
    }
}
