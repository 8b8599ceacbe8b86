//! The libraries' errors know their remedies; here the command line asks them.

use std::{error::Error as StdError, io};

use reheat_chat::ChatError;
use reheat_data::DataError;
use reheat_generate::GenerateError;
use reheat_hub::HubError;
use reheat_model::ModelError;
use reheat_tokenizer::TokenizerError;
use reheat_train::{RewardError, TrainError};

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
        Facts::new(input_unless(matches!(error, TokenizerError::Write { .. })), error.hint())
    } else if let Some(error) = error.downcast_ref::<ChatError>() {
        Facts::new(input_unless(matches!(error, ChatError::Write { .. })), error.hint())
    } else if let Some(error) = error.downcast_ref::<DataError>() {
        Facts::new(input_unless(matches!(error, DataError::Write { .. })), error.hint())
    } else if let Some(error) = error.downcast_ref::<ModelError>() {
        model_facts(error)
    } else if let Some(error) = error.downcast_ref::<GenerateError>() {
        Facts::new(input_unless(matches!(error, GenerateError::NotFinite { .. })), error.hint())
    } else if let Some(error) = error.downcast_ref::<TrainError>() {
        train_facts(error)
    } else if let Some(error) = error.downcast_ref::<RewardError>() {
        Facts::new(Kind::Input, error.hint())
    } else if let Some(error) = error.downcast_ref::<HubError>() {
        hub_facts(error)
    } else if let Some(error) = error.downcast_ref::<io::Error>() {
        io_facts(error)
    } else {
        Facts::default()
    }
}

fn input_unless(failed: bool) -> Kind {
    if failed { Kind::Failed } else { Kind::Input }
}

fn model_facts(error: &ModelError) -> Facts {
    Facts::new(input_unless(matches!(error, ModelError::Write { .. })), error.hint())
}

fn hub_facts(error: &HubError) -> Facts {
    let kind = match error {
        HubError::Stopped => Kind::Interrupted,
        _ => input_unless(!error.is_input()),
    };
    Facts::new(kind, error.hint())
}

fn train_facts(error: &TrainError) -> Facts {
    match error {
        // Transparent: the chain of causes never shows it by itself.
        TrainError::Model(error) => model_facts(error),
        _ => Facts::new(
            input_unless(matches!(error, TrainError::NotFinite { .. } | TrainError::Write { .. })),
            error.hint(),
        ),
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
