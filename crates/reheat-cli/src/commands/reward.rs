//! `reheat reward`: reward models.

use std::sync::LazyLock;

use reheat_data::{Prepared, RewardPair, prepare_reward};
use reheat_model::Qwen2;
use reheat_train::{RewardConfig, RewardTraining};
use serde_json::json;

use crate::{
    fault::Fault,
    settings::{AnswerSettings, Fact, HasTable, Resolved, Table},
    training::{
        self, Companions, EvaluationSettings, Next, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand,
    },
};

/// Train a model that says how good an answer is.
///
/// Rows have a prompt, a `chosen` and a `rejected` answer, and optionally a `margin`. The model gets a head of one
/// number and is saved as transformers' Qwen2ForSequenceClassification. Keys of the config file are TRL's names; flags
/// come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat reward --model runs/sft --dataset preferences.jsonl --output-dir runs/reward
  reheat reward --model runs/sft --dataset preferences.jsonl --center-rewards-coefficient 0.01
  reheat reward --model runs/sft --dataset preferences.jsonl --use-peft --lora-r 16
  reheat reward --config reward.yaml --dry-run")]
pub(crate) struct RewardArgs {
    #[command(flatten)]
    training: TrainingArgs<RewardSettings>,
}

pub(super) fn run(args: &RewardArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat reward` that other commands do not have.
#[derive(Debug)]
pub(crate) struct RewardSettings {
    data: AnswerSettings,
    evaluation: EvaluationSettings,
    loss: RewardConfig,
}

impl HasTable for RewardSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            training::table(|table| {
                table
                    .with::<AnswerSettings>("Data")
                    .with::<EvaluationSettings>("Evaluation")
                    .with::<RewardConfig>("Loss")
            })
            // TRL leaves longer pairs out.
            .with_default("overlong", json!("drop"))
            .with_default("learning_rate", json!(1e-4))
        });
        &TABLE
    }
}

impl TrainingCommand for RewardSettings {
    const NAME: &'static str = "reward";
    const TITLE: &'static str = "reward modelling";
    const NEXT: Next = Next::Judge;
    type Example = RewardPair;
    type Method = RewardTraining;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self { data: resolved.extract()?, evaluation: resolved.extract()?, loss: resolved.extract()? })
    }

    fn faults(&self, shared: &SharedSettings) -> Vec<String> {
        let mut faults = self.loss.faults();
        if !shared.output.sample_prompts.is_empty() {
            faults.push("sample_prompts: a reward model answers with a number".into());
        }
        faults
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<RewardPair>> {
        let (tokenizer, template) = (&rows.companions.tokenizer, rows.companions.template.as_ref());
        let options = self.data.options(rows.rejected)?;
        Ok(prepare_reward(&rows.dataset, tokenizer, template, &options, rows.progress)?)
    }

    fn facts(&self, _pairs: usize, _shared: &SharedSettings) -> Vec<Fact> {
        vec![Fact {
            name: "head",
            value: "one number, at the last token".into(),
            reason: Some("drawn from the seed where the model has none".into()),
        }]
    }

    fn with_head(&self, model: Qwen2, shared: &SharedSettings, companions: &Companions) -> anyhow::Result<Qwen2> {
        if model.lora_config().is_some() && model.score.is_none() {
            return Err(Fault::input("the adapter is one of a language model, without a head for scores")
                .hint("make a model of it first: reheat merge --model DIR --output-dir DIR")
                .into());
        }
        let mut model = model.with_score_head(shared.training.seed);
        // transformers finds the last token of a padded sequence by it.
        if let Some(pad) = companions.tokenizer.pad_id() {
            model.config_mut().set("pad_token_id", pad.into());
        }
        Ok(model)
    }

    fn method(&self, pairs: Vec<RewardPair>, _model: &Qwen2, _setup: &Setup) -> anyhow::Result<RewardTraining> {
        Ok(RewardTraining::new(pairs, self.loss.clone())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{assert_options_of_every_trainer, assert_page, section};

    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-preference-options.md");
        // Options of TRL 1.16's RewardConfig beside those of every trainer.
        assert_eq!(assert_page(section(page, "RewardConfig"), &[RewardSettings::table()]), 11);
        assert_options_of_every_trainer(&[RewardSettings::table()]);
    }
}
