//! Files of conversations to tokenised batches in host memory.
//!
//! A row travels `source` -> `read` -> `format` -> `tokenize` -> [`Sequence`] -> [`pack()`] -> [`Batch`]. Nothing here
//! knows tensors or devices, and nothing is lost without a count: see [`Report`].

mod row; // one row, and where it stands
mod read; // files to rows
mod source; // what people name, to files and rows of them
mod format; // rows to examples
mod tokenize; // examples to ids and labels
mod prepare; // files to sequences, with a report
mod batch; // sequences laid end to end
mod pack; // documents to full rows
mod order; // the order of an epoch
mod error;

pub use self::{
    batch::{Batch, IGNORE_INDEX, Sequence},
    error::{DataError, RowProblem},
    format::{Context, Detection, Example, Format, Message, Turns, detect},
    order::{TrainSamplingStrategy, epoch_order},
    pack::{PackOptions, PackReport, PackingStrategy, pack},
    prepare::{
        OnBadRow, Overlong, PreferencePair, PrepareOptions, Prepared, Report, SkippedRow, TruncationMode,
        UnpairedCompletion, prepare_preference, prepare_sft, prepare_unpaired,
    },
    read::{RawRow, panic_is_expected},
    row::{Row, RowId},
    source::{DataFiles, Dataset, DatasetMixture, DatasetSpec, Patterns, Rows, Sample, SplitFiles},
};
