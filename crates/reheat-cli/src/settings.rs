//! Settings of a run: flags over a YAML file over defaults, each value with its origin.
//!
//! A settings struct is declared once, with serde and a JSON schema; the flags, the accepted YAML keys, the help texts
//! and the checks all follow from it. Keys are TRL's names.

mod table; // a struct's fields as data
mod flags; // one flag per field
mod file; // a YAML file with line numbers
mod names; // names of other versions and tools
mod resolve; // three sources become one value each
mod plan; // what will be done, printed
mod dataset; // --dataset and what goes with it
mod prepare; // --max-length, --packing and what else a row becomes

#[cfg(test)]
pub(crate) use self::names::{assert_options_of_every_trainer, assert_page, section};
pub(crate) use self::{
    dataset::DatasetSettings,
    flags::{Flags, HasTable},
    names::{Foreign, foreign},
    plan::{Fact, Plan, write_yaml},
    prepare::{AnswerSettings, PrepareSettings, PromptSettings},
    resolve::{Origin, Resolved, resolve},
    table::Table,
};
