//! Rows to examples: which columns mean what, and the many spellings people have for the same thing.

mod example; // what a row turns into
mod detect; // which format rows have, and why
mod convert; // a row of a known format to examples
mod messages; // messages in OpenAI's and ShareGPT's spelling
mod preference;
mod value; // values out of rows, with errors that name them

pub(crate) use self::{
    convert::{ConvertOptions, Converter},
    detect::Layout,
    preference::extract_prompt,
};
pub use self::{
    detect::{Detection, detect},
    example::{Context, Example, Message, Turns},
};

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::DataError;

/// What the columns of a row mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// `messages`: a list of objects with `role` and `content`.
    Messages,
    /// `conversations`: a list of objects with `from` and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `prompt` and `completion`, both text or both messages.
    PromptCompletion,
    /// `question` and `answer`, or another pair of such names.
    QuestionAnswer,
    /// `instruction`, `output`, and perhaps `input`, `history` and `system`.
    Alpaca,
    /// `chosen` and `rejected`, with or without `prompt`.
    Preference,
    /// `prompt`, `completion` and `label`, which says whether the completion is good.
    UnpairedPreference,
    /// `prompt` alone.
    PromptOnly,
    /// `prompt`, `completions` and `labels`: an answer in steps, each right or wrong.
    Stepwise,
    /// `text`.
    Text,
    /// `input_ids`, with or without `labels`.
    Tokens,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 11] = [
        Self::Messages,
        Self::ShareGpt,
        Self::PromptCompletion,
        Self::QuestionAnswer,
        Self::Alpaca,
        Self::Preference,
        Self::UnpairedPreference,
        Self::PromptOnly,
        Self::Stepwise,
        Self::Text,
        Self::Tokens,
    ];

    /// The name under which settings know the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::PromptCompletion => "prompt_completion",
            Self::QuestionAnswer => "question_answer",
            Self::Alpaca => "alpaca",
            Self::Preference => "preference",
            Self::UnpairedPreference => "unpaired_preference",
            Self::PromptOnly => "prompt_only",
            Self::Stepwise => "stepwise",
            Self::Text => "text",
            Self::Tokens => "tokens",
        }
    }

    /// What rows of this format are, in words.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Messages | Self::ShareGpt => "conversations",
            Self::PromptCompletion => "prompts with completions",
            Self::QuestionAnswer => "questions with answers",
            Self::Alpaca => "instructions with outputs",
            Self::Preference => "preferences",
            Self::UnpairedPreference => "answers with a label",
            Self::PromptOnly => "prompts without an answer",
            Self::Stepwise => "answers in labelled steps",
            Self::Text => "text",
            Self::Tokens => "tokens",
        }
    }

    /// The columns that make a row one of this format.
    pub(crate) fn columns(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::ShareGpt => "conversations",
            Self::PromptCompletion => "prompt + completion",
            Self::QuestionAnswer => "question + answer",
            Self::Alpaca => "instruction + output",
            Self::Preference => "chosen + rejected",
            Self::UnpairedPreference => "prompt + completion + label",
            Self::PromptOnly => "prompt",
            Self::Stepwise => "prompt + completions + labels",
            Self::Text => "text",
            Self::Tokens => "input_ids",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let plain = name.to_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|format| format.name() == plain).ok_or_else(|| DataError::Setting {
            setting: "format",
            value: name.to_owned(),
            reason: format!("expected one of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_one_name_everywhere() {
        for format in Format::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        assert!("chatml".parse::<Format>().unwrap_err().to_string().contains("sharegpt"));
    }
}
