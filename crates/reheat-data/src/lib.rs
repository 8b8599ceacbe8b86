//! Files of conversations to tokenised batches in host memory.
//!
//! A row travels `source` -> `read` -> `format` -> `tokenize` -> [`Sequence`] -> [`pack()`] -> [`Batch`]. Nothing here
//! knows tensors or devices, and nothing is lost without a count: see [`Report`].

mod row; // one row, and where it stands
mod read; // files to rows
mod source; // what people name, to files and rows of them
mod format; // rows to examples
mod conversion; // datasets to examples
mod tokenize; // examples to ids and labels
mod prepare; // datasets to what training takes, with a report
mod inspect; // what a dataset holds
mod spread; // quantities in numbers
mod write; // examples to files
mod labels; // what each token is learned as
mod batch; // sequences laid end to end
mod pack; // documents to full rows
mod order; // the order of an epoch
mod error;

pub use self::{
    batch::{Batch, IGNORE_INDEX, Sequence},
    conversion::{Conversion, ConversionOptions, ConvertedRow},
    error::{DataError, RowProblem},
    format::{Context, Detection, Example, Format, Message, Turns, detect},
    inspect::{Column, Finding, InspectedFile, Inspection, inspect},
    order::{TrainSamplingStrategy, epoch_order},
    pack::{PackOptions, PackReport, PackingStrategy, pack},
    prepare::{
        LengthReport, OnBadRow, Overlong, PreferencePair, PrepareOptions, Prepared, PreviewedRow, Prompt, Report,
        RewardPair, SkippedRow, TruncationMode, UnpairedCompletion, lengths, prepare_preference, prepare_prompts,
        prepare_reward, prepare_sft, prepare_unpaired, preview,
    },
    read::{RawRow, panic_is_expected},
    row::{Row, RowId},
    source::{Chosen, DataFiles, Dataset, DatasetMixture, DatasetSpec, Patterns, Rows, Sample, SplitFiles},
    spread::Spread,
    write::{ConvertOptions, ConvertTo, convert},
};
