//! `reheat kto`: Kahneman-Tversky optimisation.

use std::sync::LazyLock;

use reheat_data::{Prepared, UnpairedCompletion, prepare_unpaired};
use reheat_model::Qwen2;
use reheat_train::{Kto, KtoConfig};
use serde_json::json;

use super::dpo::precomputed;
use crate::{
    fault::Fault,
    settings::{AnswerSettings, HasTable, Resolved, Table},
    training::{self, EvaluationSettings, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand},
};

/// Train a model on answers that are good or bad on their own.
///
/// Rows have a prompt, a `completion` and a `label`; a row with a better and a worse answer counts as two. Keys of the
/// config file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat kto --model runs/sft --dataset judged.jsonl --output-dir runs/kto
  reheat kto --model runs/sft --dataset preferences.jsonl --undesirable-weight 0.5
  reheat kto --config kto.yaml --dry-run")]
pub(crate) struct KtoArgs {
    #[command(flatten)]
    training: TrainingArgs<KtoSettings>,
}

pub(super) fn run(args: &KtoArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat kto` that other commands do not have.
#[derive(Debug)]
pub(crate) struct KtoSettings {
    data: AnswerSettings,
    evaluation: EvaluationSettings,
    loss: KtoConfig,
}

impl HasTable for KtoSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            let own = |table: Table| {
                table.with::<AnswerSettings>("Data").with::<EvaluationSettings>("Evaluation").with::<KtoConfig>("Loss")
            };
            training::table(own)
                // TRL turns all dropout off.
                .with_default("lora_dropout", json!(0.0))
                .with_default("learning_rate", json!(1e-6))
                .with_default("train_sampling_strategy", json!("sequential"))
        });
        &TABLE
    }
}

impl TrainingCommand for KtoSettings {
    const NAME: &'static str = "kto";
    const TITLE: &'static str = "Kahneman-Tversky optimisation";
    type Example = UnpairedCompletion;
    type Method = Kto;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self { data: resolved.extract()?, evaluation: resolved.extract()?, loss: resolved.extract()? })
    }

    fn faults(&self, shared: &SharedSettings) -> Vec<String> {
        self.loss.faults_with(shared.training.per_device_train_batch_size)
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<UnpairedCompletion>> {
        let (tokenizer, template) = (&rows.companions.tokenizer, rows.companions.template.as_ref());
        let options = self.data.options(rows.rejected)?;
        Ok(prepare_unpaired(&rows.dataset, tokenizer, template, &options, rows.progress)?)
    }

    /// In an evaluation too, an answer is compared with those that it would have beside it in training.
    fn method(&self, answers: Vec<UnpairedCompletion>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Kto> {
        let good = answers.iter().filter(|answer| answer.label).count();
        eprintln!("{good} good answers, {} bad", answers.len() - good);
        let batch_size = setup.settings.training.per_device_train_batch_size;
        let max_length = self.data.max_length;
        let reference = precomputed(model, &Kto::pairs(&answers, batch_size, max_length), None, batch_size)?;
        Ok(Kto::new(&answers, batch_size, max_length, self.loss.clone(), reference)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{assert_options_of_every_trainer, assert_page, section};

    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-preference-options.md");
        // Options of TRL 1.16's KTOConfig beside those of every trainer.
        assert_eq!(assert_page(section(page, "KTOConfig"), &[KtoSettings::table()]), 17);
        assert_options_of_every_trainer(&[KtoSettings::table()]);
    }
}
