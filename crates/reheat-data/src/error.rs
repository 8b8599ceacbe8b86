use std::{io, path::PathBuf};

use reheat_chat::ChatError;
use reheat_tokenizer::TokenizerError;

use crate::{Dataset, Format, RowId};

/// What can go wrong between a dataset's files and its batches.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing lies at the path, or no file matches the pattern.
    #[error("dataset `{path}` does not exist")]
    NotFound {
        /// The path or pattern.
        path: String,
    },
    /// A path exists and holds no file that could be data.
    #[error("`{}` holds no data files", .path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// A file can't be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither its content nor its name says what a file is.
    #[error("`{}` is no data file that can be recognised: {found}", .path.display())]
    UnknownFile {
        /// The file.
        path: PathBuf,
        /// What its beginning looks like.
        found: String,
    },
    /// A file isn't what it says it is.
    #[error("`{}` is damaged or not {kind}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What the reader found.
        reason: String,
    },
    /// A row can't be used.
    #[error("{row}: {problem}")]
    Row {
        /// The row.
        row: RowId,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// The rows fit several formats.
    #[error("{row}: the columns {columns} fit several formats: {candidates}")]
    AmbiguousFormat {
        /// The row that was looked at.
        row: RowId,
        /// Its columns.
        columns: String,
        /// The formats that they fit.
        candidates: String,
    },
    /// The rows are of a kind that the caller can't use.
    #[error("{row}: the rows are {found}, and needed are {needed}")]
    WrongKind {
        /// The row that was looked at.
        row: RowId,
        /// What the rows are.
        found: &'static str,
        /// What the caller can use.
        needed: &'static str,
    },
    /// There is no row at all.
    #[error("dataset {files} has no rows")]
    Empty {
        /// The files that were read.
        files: String,
    },
    /// There are rows, and nothing of them is left to train on.
    #[error("none of the {rows} rows of {files} can be used: {reasons}")]
    NothingLeft {
        /// Rows read.
        rows: u64,
        /// The files that were read.
        files: String,
        /// How many rows were lost for which reason.
        reasons: String,
    },
    /// A split was asked for that the dataset doesn't have.
    #[error("`{path}` has no split `{split}`, only {available}")]
    UnknownSplit {
        /// The dataset.
        path: String,
        /// The split that was asked for.
        split: String,
        /// The splits that exist.
        available: String,
    },
    /// A configuration was asked for that the dataset doesn't have.
    #[error("`{path}` has no configuration `{name}`, only {available}")]
    UnknownConfig {
        /// The dataset.
        path: String,
        /// The configuration that was asked for.
        name: String,
        /// The configurations that exist.
        available: String,
    },
    /// A dataset has several configurations and doesn't say which is meant.
    #[error("`{path}` has several configurations: {available}")]
    ConfigNeeded {
        /// The dataset.
        path: String,
        /// The configurations that exist.
        available: String,
    },
    /// The front matter of a dataset's `README.md` can't be understood.
    #[error("`{}`: {reason}", .path.display())]
    Readme {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting can't be understood or is out of range.
    #[error("{setting} `{value}`: {reason}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A column was named that the rows don't have.
    #[error("{row}: there is no column `{column}` to {purpose}, only {available}")]
    UnknownColumn {
        /// The row that was looked at.
        row: RowId,
        /// The column that was named.
        column: String,
        /// What for.
        purpose: &'static str,
        /// The columns that exist.
        available: String,
    },
    /// Rows of conversations, and no template to render them with.
    #[error("{row}: {format} rows are conversations, and the model has no chat template")]
    NoTemplate {
        /// The first such row.
        row: RowId,
        /// Their format.
        format: Format,
    },
    /// Rows of text, and loss asked for on what an assistant says.
    #[error("{row}: {format} rows are text, in which no assistant speaks, and the loss is to be on the assistant only")]
    NotConversational {
        /// The first such row.
        row: RowId,
        /// Their format.
        format: Format,
    },
    /// The chat template can't be used with this dataset.
    #[error("{row}: the chat template cannot be used here: {source}")]
    Template {
        /// The row at which it was found out.
        row: RowId,
        /// What is wrong.
        #[source]
        source: Box<ChatError>,
    },
    /// The tokenizer lacks what preparing the rows needs.
    #[error("{row}: {format} rows end with the end-of-sequence token, and the tokenizer has none")]
    NoEos {
        /// The first such row.
        row: RowId,
        /// Their format.
        format: Format,
    },
}

impl DataError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFound { .. } => "check the path; a pattern such as `data/*.jsonl` must match at least one file",
            Self::NoFiles { .. } => {
                "data files end in .jsonl, .json, .parquet, .csv, .tsv, .arrow or .txt, also with .gz or .zst"
            }
            Self::UnknownFile { .. } => {
                "rename the file so that it ends in .jsonl, .json, .parquet, .csv, .tsv, .arrow or .txt"
            }
            Self::Damaged { .. } => "fetch or write the file again",
            Self::Row { problem, .. } => return problem.hint(),
            Self::AmbiguousFormat { .. } => "say which with --format",
            Self::UnknownSplit { .. } => "name one of them with --split, or behind the dataset: `my-data:test[:100]`",
            Self::UnknownConfig { .. } | Self::ConfigNeeded { .. } => "name one of them with --dataset-config",
            Self::WrongKind { .. } => {
                "`reheat data inspect` shows what the rows are; --rename old=new or --format reads them as something else"
            }
            Self::NothingLeft { .. } => "`reheat data inspect` shows the rows and what is wrong with them",
            Self::NoTemplate { .. } => "give a template with --chat-template FILE",
            Self::Template { .. } => return None,
            Self::NotConversational { .. } => "leave --assistant-only-loss out, or convert the rows to conversations",
            Self::NoEos { .. } => "name one of its tokens with --eos-token",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            // Only decompressors give this kind.
            io::ErrorKind::InvalidData => Self::Damaged { path, kind: "compressed data", reason: source.to_string() },
            _ => Self::Read { path, source },
        }
    }

    /// No row of a dataset was read: it has none, or its filter keeps none.
    pub(crate) fn no_rows(dataset: &Dataset, filtered: u64) -> Self {
        let files = dataset.name().to_owned();
        match filtered {
            0 => Self::Empty { files },
            rows => Self::NothingLeft { rows, files, reasons: format!("{rows} left out by the filter") },
        }
    }
}

/// Why one row can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    /// The text isn't JSON.
    #[error("not JSON: {reason}")]
    NotJson {
        /// Where and why parsing stopped.
        reason: String,
    },
    /// The bytes aren't UTF-8.
    #[error("byte {byte} of the row is not UTF-8")]
    NotUtf8 {
        /// Position of the first such byte in the row, from 0.
        byte: usize,
    },
    /// The line isn't CSV, or has another number of cells than the header.
    #[error("not a row of this table: {reason}")]
    NotCsv {
        /// What is wrong.
        reason: String,
    },
    /// The row's values can't be decoded.
    #[error("the row cannot be decoded: {reason}")]
    Undecodable {
        /// What is wrong.
        reason: String,
    },
    /// Renaming would give two columns one name.
    #[error("two columns would be called `{column}`")]
    ColumnTwice {
        /// The name.
        column: String,
    },
    /// An integer of which digits would be lost.
    #[error("the integer {integer} is beyond 64 bits")]
    WideInteger {
        /// The integer.
        integer: String,
    },
    /// JSON, but no object.
    #[error("a row must be an object, found {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// More bytes than a row may have.
    #[error("the row has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// No known format has these columns.
    #[error("no format has the columns {columns}; known are {known}")]
    UnknownFormat {
        /// The row's columns.
        columns: String,
        /// The columns that the formats have.
        known: String,
    },
    /// A column that the format needs isn't there.
    #[error("column `{field}` is missing, the row has {columns}")]
    MissingField {
        /// The column.
        field: String,
        /// The row's columns.
        columns: String,
    },
    /// A value has another type than the format asks for.
    #[error("`{field}` must be {expected}, found {found}")]
    WrongType {
        /// The value, as a path into the row.
        field: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A message has neither `role` nor `content`, but ShareGPT's keys.
    #[error("`{field}` has ShareGPT's `from` and `value`, expected `role` and `content`")]
    ShareGptMessage {
        /// The message, as a path into the row.
        field: String,
    },
    /// A role that no template knows.
    #[error("role `{role}` is unknown, expected one of {expected}")]
    UnknownRole {
        /// The role.
        role: String,
        /// The roles that exist.
        expected: String,
    },
    /// Something that needs content has none.
    #[error("`{field}` is empty")]
    Empty {
        /// The value, as a path into the row.
        field: String,
    },
    /// The two answers of a preference differ in more than the answer.
    #[error("`chosen` and `rejected` have no answer left after their common prompt")]
    SameAnswers,
    /// Lists that must have the same length don't.
    #[error("`{left}` has {left_length} items and `{right}` {right_length}")]
    LengthMismatch {
        /// One list.
        left: &'static str,
        /// Its length.
        left_length: usize,
        /// The other list.
        right: &'static str,
        /// Its length.
        right_length: usize,
    },
    /// A token id that the model doesn't have.
    #[error("`{field}` has the value {value}, outside of 0 to {limit}")]
    OutOfRange {
        /// The value, as a path into the row.
        field: String,
        /// What it is.
        value: i64,
        /// The largest value allowed.
        limit: i64,
    },
    /// Longer than the model may read, where that isn't allowed.
    #[error("the row has {tokens} tokens, max_length is {max_length}")]
    Overlong {
        /// Its length.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// A prompt longer than is asked for.
    #[error("the prompt has {tokens} tokens, max_prompt_length is {max_prompt_length}")]
    PromptOverlong {
        /// Its length.
        tokens: usize,
        /// The limit.
        max_prompt_length: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt alone has {tokens} tokens, max_length is {max_length}")]
    PromptTooLong {
        /// Its length.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// None of the row's tokens carries loss.
    #[error("no token of the row is learned")]
    NothingLearned,
    /// Messages have weights, and the template doesn't tell its text apart by message.
    #[error("messages have weights, and the chat template's generation markers don't tell them apart")]
    WeightsWithoutMessages,
    /// A conversation, and no template to render it with.
    #[error("the row is a conversation, and the model has no chat template")]
    NoTemplate,
    /// Text, and loss asked for on what an assistant says.
    #[error("the row is text, in which no assistant speaks, and the loss is to be on the assistant only")]
    NotConversational,
    /// Text without a token to end it.
    #[error("text ends with the end-of-sequence token, and the tokenizer has none")]
    NoEos,
    /// The template fails on the row.
    #[error("the chat template cannot render the row: {0}")]
    Render(#[source] Box<ChatError>),
    /// The tokenizer fails on the row.
    #[error("the row cannot be tokenized: {0}")]
    Tokenize(#[source] Box<TokenizerError>),
}

impl RowProblem {
    /// The reason in two or three words, the same for every row that fails alike.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not JSON",
            Self::NotUtf8 { .. } => "not UTF-8",
            Self::NotCsv { .. } => "not CSV",
            Self::Undecodable { .. } => "undecodable",
            Self::ColumnTwice { .. } => "two columns of one name",
            Self::WideInteger { .. } => "integer beyond 64 bits",
            Self::NotAnObject { .. } => "not an object",
            Self::TooLarge { .. } => "too large",
            Self::UnknownFormat { .. } => "unknown format",
            Self::MissingField { .. } => "missing column",
            Self::WrongType { .. } => "wrong type",
            Self::ShareGptMessage { .. } => "ShareGPT message",
            Self::UnknownRole { .. } => "unknown role",
            Self::Empty { .. } => "empty",
            Self::SameAnswers => "same answers",
            Self::LengthMismatch { .. } => "unequal lengths",
            Self::OutOfRange { .. } => "out of range",
            Self::Overlong { .. } | Self::PromptOverlong { .. } => "overlong",
            Self::PromptTooLong { .. } => "no room for an answer",
            Self::NothingLearned => "nothing to learn",
            Self::WeightsWithoutMessages => "weights without messages",
            Self::NoTemplate => "no chat template",
            Self::NotConversational => "not a conversation",
            Self::NoEos => "no end-of-sequence token",
            Self::Render(_) => "template failed",
            Self::Tokenize(_) => "tokenizer failed",
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownFormat { .. } => "rename columns with --rename old=new, or name the format with --format",
            Self::MissingField { .. } => "rename columns with --rename old=new; --on-bad-row skip leaves such rows out",
            Self::ShareGptMessage { .. } | Self::UnknownRole { .. } => "convert ShareGPT rows with --format sharegpt",
            Self::Overlong { .. } => "--overlong truncate cuts such rows, --overlong drop leaves them out",
            Self::PromptOverlong { .. } => "a larger --max-prompt-length keeps such rows",
            Self::WideInteger { .. } => "write it as a string; --on-bad-row skip leaves such rows out",
            Self::NoTemplate => "give a template with --chat-template FILE",
            Self::NoEos => "name one of its tokens with --eos-token",
            Self::NotAnObject { .. } => {
                "text without columns is read from a .txt file, a line each, or a JSON list of strings"
            }
            Self::Render(error) => return error.hint().map(str::to_owned),
            _ => "--on-bad-row skip leaves such rows out, counts them and writes them to a file",
        };
        Some(hint.to_owned())
    }
}
