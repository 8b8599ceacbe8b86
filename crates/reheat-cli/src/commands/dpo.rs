//! `reheat dpo`: direct preference optimisation.

use std::path::PathBuf;
use std::sync::LazyLock;

use reheat_data::{PreferencePair, Prepared, prepare_preference};
use reheat_model::Qwen2;
use reheat_train::{Dpo, DpoConfig, DpoWatch, Reference, TrainingConfig, precompute_reference};
use serde_json::json;

use crate::{
    fault::Fault,
    progress::{self, Watch},
    settings::{AnswerSettings, Fact, HasTable, Resolved, Table},
    training::{self, EvaluationSettings, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand},
};

/// Train a model to prefer the better of two answers.
///
/// Rows have a prompt, a `chosen` and a `rejected` answer, in any format that tells them. Keys of the config file are
/// TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat dpo --model runs/sft --dataset preferences.jsonl --output-dir runs/dpo
  reheat dpo --model runs/sft --dataset preferences.jsonl --beta 0.05 --loss-type sigmoid sft --loss-weights 1 0.2
  reheat dpo --config dpo.yaml --dry-run")]
pub(crate) struct DpoArgs {
    #[command(flatten)]
    training: TrainingArgs<DpoSettings>,
}

pub(super) fn run(args: &DpoArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat dpo` that other commands do not have.
#[derive(Debug)]
pub(crate) struct DpoSettings {
    data: AnswerSettings,
    evaluation: EvaluationSettings,
    loss: DpoConfig,
}

impl HasTable for DpoSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            let own = |table: Table| {
                table.with::<AnswerSettings>("Data").with::<EvaluationSettings>("Evaluation").with::<DpoConfig>("Loss")
            };
            training::table(own)
                // TRL turns all dropout off.
                .with_default("lora_dropout", json!(0.0))
                .with_default("learning_rate", json!(1e-6))
        });
        &TABLE
    }
}

impl TrainingCommand for DpoSettings {
    const NAME: &'static str = "dpo";
    const TITLE: &'static str = "direct preference optimisation";
    type Example = PreferencePair;
    type Method = Dpo;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self { data: resolved.extract()?, evaluation: resolved.extract()?, loss: resolved.extract()? })
    }

    fn faults(&self, _shared: &SharedSettings) -> Vec<String> {
        self.loss.faults()
    }

    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        self.loss.without_effect()
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<PreferencePair>> {
        let (tokenizer, template) = (&rows.companions.tokenizer, rows.companions.template.as_ref());
        let options = self.data.options(rows.rejected)?;
        Ok(prepare_preference(&rows.dataset, tokenizer, template, &options, rows.progress)?)
    }

    fn facts(&self, _pairs: usize, shared: &SharedSettings) -> Vec<Fact> {
        vec![ReferenceKind::of(&self.loss, shared.peft.use_peft).fact()]
    }

    fn method(&self, pairs: Vec<PreferencePair>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Dpo> {
        let kind = ReferenceKind::of(&self.loss, setup.settings.peft.use_peft);
        let reference = kind.make(model, &pairs, &self.loss, &setup.settings.training)?;
        Ok(Dpo::new(pairs, self.loss.clone(), reference)?)
    }

    fn watch(&self, _shared: &SharedSettings) -> Option<Watch> {
        let mut watch = DpoWatch::new(&self.loss);
        Some(Box::new(move |row| watch.observe(row).map(|notice| notice.to_string())))
    }
}

/// How the reference is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReferenceKind {
    Precomputed,
    WithoutTraining,
    Copy,
    FollowingCopy,
}

impl ReferenceKind {
    fn of(method: &DpoConfig, use_peft: bool) -> Self {
        match (method.sync_ref_model, method.precompute_ref_log_probs) {
            (true, _) => Self::FollowingCopy,
            (false, Some(false)) if use_peft => Self::WithoutTraining,
            (false, Some(false)) => Self::Copy,
            (false, _) => Self::Precomputed,
        }
    }

    fn fact(self) -> Fact {
        let (value, reason) = match self {
            Self::Precomputed => ("log-probabilities", "computed before training: no second model in memory"),
            Self::WithoutTraining => ("the model with its adapters as they were", "shares the weights of the base"),
            Self::Copy => ("a frozen copy of the model", "precompute_ref_log_probs is false"),
            Self::FollowingCopy => ("a copy of the model that follows it", "sync_ref_model is true"),
        };
        Fact { name: "reference", value: value.into(), reason: Some(reason.into()) }
    }

    fn make(
        self,
        model: &Qwen2,
        pairs: &[PreferencePair],
        method: &DpoConfig,
        config: &TrainingConfig,
    ) -> anyhow::Result<Reference> {
        if self != Self::Precomputed {
            // Tensors are shared until one is changed: of a model with adapters, only those become two.
            return Ok(Reference::Model(Box::new(model.clone())));
        }
        let batch_size = method.precompute_ref_batch_size.unwrap_or(config.per_device_train_batch_size);
        precomputed(model, pairs, method.ld_alpha, batch_size)
    }
}

/// The reference's log-probabilities, from the cache or computed with their number on a bar.
pub(super) fn precomputed(
    model: &Qwen2,
    pairs: &[PreferencePair],
    ld_alpha: Option<f64>,
    batch_size: usize,
) -> anyhow::Result<Reference> {
    let bar = progress::count_bar("reference log-probabilities", pairs.len() as u64);
    let cache = cache_dir().map(|dir| dir.join("reference"));
    let known = precompute_reference(model, pairs, ld_alpha, batch_size, cache.as_deref(), &mut |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(Reference::Precomputed(known?))
}

/// `$REHEAT_CACHE`, or `reheat` in the user's cache folder; `None` where there is no such folder.
fn cache_dir() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("REHEAT_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("reheat")))
        .or_else(|| folder("HOME").map(|dir| dir.join(".cache/reheat")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{assert_options_of_every_trainer, assert_page, section};

    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-preference-options.md");
        // Options of TRL 1.16's DPOConfig beside those of every trainer.
        assert_eq!(assert_page(section(page, "DPOConfig"), &[DpoSettings::table()]), 25);
        assert_options_of_every_trainer(&[DpoSettings::table()]);
    }
}
