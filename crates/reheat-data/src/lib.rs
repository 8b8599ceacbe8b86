//! Files of conversations to tokenised, packed batches in host memory.

mod batch; // sequences laid end to end
mod order; // the order of an epoch

pub use self::{
    batch::{Batch, IGNORE_INDEX, Sequence},
    order::{TrainSamplingStrategy, epoch_order},
};
