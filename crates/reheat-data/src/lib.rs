//! Files of conversations to tokenised, packed batches in host memory.

mod row; // one row, and where it stands
mod read; // files to rows
mod batch; // sequences laid end to end
mod order; // the order of an epoch
mod error;

pub use self::{
    batch::{Batch, IGNORE_INDEX, Sequence},
    error::{DataError, RowProblem},
    order::{TrainSamplingStrategy, epoch_order},
    row::{Row, RowId},
};
