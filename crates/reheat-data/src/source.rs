//! What `--dataset` may name: files, patterns, folders as people and the Hub lay them out, splits and slices of these,
//! and several of them mixed.

mod spec; // what a person writes
mod split; // train[:10%]+validation
mod layout; // files of a folder to splits
mod readme; // a folder's own word on its files
mod filter; // score >= 4 and lang = 'en'
mod operations; // what is done to a row
mod dataset; // what is written becomes files and ranges of rows
mod rows; // the rows of these

pub(crate) use self::operations::Operations;
pub use self::{
    dataset::{Dataset, DatasetMixture},
    readme::{DataFiles, Patterns, SplitFiles},
    rows::Rows,
    spec::{Chosen, DatasetSpec, Sample},
};
