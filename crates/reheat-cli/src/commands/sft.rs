//! `reheat sft`: supervised fine-tuning.

use std::sync::LazyLock;

use reheat_data::{Prepared, Sequence, prepare_sft};
use reheat_model::Qwen2;
use reheat_train::{Sft, SftConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    settings::{HasTable, PrepareSettings, Resolved, Table},
    training::{self, EvaluationSettings, Purpose, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand},
};

/// Fine-tune a model on conversations, prompts with completions, or plain text.
///
/// Keys of the config file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --output-dir runs/sft
  reheat sft --model Qwen/Qwen2.5-0.5B --dataset trl-lib/Capybara
  reheat sft --config sft.yaml --learning-rate 1e-5 --dry-run
  reheat sft --model ./Qwen2.5-0.5B --dataset 'my-data:train[:10%]' --filter \"score >= 4\"
  reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --use-peft --learning-rate 2e-4
  reheat sft --model ./Qwen2.5-0.5B --dataset a.jsonl b.parquet --assistant-only-loss --num-train-epochs 1")]
pub(crate) struct SftArgs {
    #[command(flatten)]
    training: TrainingArgs<SftSettings>,
}

pub(super) fn run(args: &SftArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat sft` that other commands do not have.
#[derive(Debug)]
pub(crate) struct SftSettings {
    data: PrepareSettings,
    evaluation: EvaluationSettings,
    eval_packing: EvalPacking,
    loss: SftConfig,
}

/// How rows to evaluate with are packed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct EvalPacking {
    /// Pack the rows to evaluate with; as the others when absent.
    eval_packing: Option<bool>,
}

impl HasTable for SftSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            training::table(|table| {
                table
                    .with::<PrepareSettings>("Data")
                    .with::<EvaluationSettings>("Evaluation")
                    .with::<EvalPacking>("Evaluation")
                    .with::<SftConfig>("Loss")
            })
        });
        &TABLE
    }
}

impl TrainingCommand for SftSettings {
    const NAME: &'static str = "sft";
    const TITLE: &'static str = "supervised fine-tuning";
    type Example = Sequence;
    type Method = Sft;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self {
            data: resolved.extract()?,
            evaluation: resolved.extract()?,
            eval_packing: resolved.extract()?,
            loss: resolved.extract()?,
        })
    }

    fn faults(&self, _shared: &SharedSettings) -> Vec<String> {
        self.loss.faults()
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<Sequence>> {
        let mut data = self.data.clone();
        if let (Purpose::Evaluation, Some(packing)) = (rows.purpose, self.eval_packing.eval_packing) {
            data.packing = packing;
        }
        let (tokenizer, template) = (&rows.companions.tokenizer, rows.companions.template.as_ref());
        Ok(prepare_sft(&rows.dataset, tokenizer, template, &data.options(rows.rejected)?, rows.progress)?)
    }

    fn method(&self, examples: Vec<Sequence>, _model: &Qwen2, _setup: &Setup) -> anyhow::Result<Sft> {
        Ok(Sft::new(examples, self.loss.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::assert_page;

    /// `docs/reference/trl-options.md` against the settings, row by row.
    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-options.md");
        // Options of TRL 1.16's ScriptArguments, ModelConfig and SFTConfig.
        assert_eq!(assert_page(page, &[SftSettings::table()]), 6 + 19 + 135);
    }
}
