//! The libraries' errors know their remedies; here the command line asks them.

use std::{error::Error as StdError, io};

use reheat_chat::ChatError;
use reheat_data::DataError;
use reheat_generate::GenerateError;
use reheat_model::ModelError;
use reheat_tokenizer::TokenizerError;
use reheat_train::TrainError;

use super::Kind;

/// What one error in a chain says about itself.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) kind: Option<Kind>,
    pub(super) hints: Vec<String>,
}

impl Facts {
    fn new(kind: Kind, hint: Option<impl Into<String>>) -> Self {
        Self { kind: Some(kind), hints: hint.map(Into::into).into_iter().collect() }
    }
}

pub(super) fn facts(error: &(dyn StdError + 'static)) -> Facts {
    if let Some(error) = error.downcast_ref::<TokenizerError>() {
        let kind = if matches!(error, TokenizerError::Write { .. }) { Kind::Failed } else { Kind::Input };
        Facts::new(kind, error.hint())
    } else if let Some(error) = error.downcast_ref::<ModelError>() {
        let kind = if matches!(error, ModelError::Write { .. }) { Kind::Failed } else { Kind::Input };
        Facts::new(kind, error.hint())
    } else if let Some(error) = error.downcast_ref::<ChatError>() {
        let kind = if matches!(error, ChatError::Write { .. }) { Kind::Failed } else { Kind::Input };
        Facts::new(kind, error.hint())
    } else if let Some(error) = error.downcast_ref::<DataError>() {
        let kind = if matches!(error, DataError::Write { .. }) { Kind::Failed } else { Kind::Input };
        Facts::new(kind, error.hint())
    } else if let Some(error) = error.downcast_ref::<GenerateError>() {
        let kind = if matches!(error, GenerateError::NotANumber { .. }) { Kind::Failed } else { Kind::Input };
        Facts::new(kind, error.hint())
    } else if let Some(error) = error.downcast_ref::<TrainError>() {
        use TrainError::{Model, NotFinite, Write};
        let failed = matches!(error, NotFinite { .. } | Write { .. } | Model(ModelError::Write { .. }));
        Facts::new(if failed { Kind::Failed } else { Kind::Input }, error.hint())
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        io_facts(error)
    } else {
        Facts::default()
    }
}

fn io_facts(error: &io::Error) -> Facts {
    use io::ErrorKind as K;
    match error.kind() {
        K::NotFound | K::IsADirectory | K::NotADirectory | K::InvalidData | K::UnexpectedEof => {
            Facts::new(Kind::Input, None::<String>)
        }
        K::StorageFull | K::QuotaExceeded => {
            Facts::new(Kind::Failed, Some("free some space, or write elsewhere with --output-dir"))
        }
        K::PermissionDenied | K::ReadOnlyFilesystem => Facts::new(Kind::Input, None::<String>),
        _ => Facts::default(),
    }
}
