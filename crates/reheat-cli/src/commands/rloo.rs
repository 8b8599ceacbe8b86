//! `reheat rloo`: REINFORCE leave-one-out.

use std::sync::LazyLock;

use reheat_data::{Prepared, Prompt};
use reheat_model::Qwen2;
use reheat_train::{Rloo, RlooConfig};
use serde_json::json;

use crate::{
    fault::Fault,
    progress::Watch,
    settings::{Fact, HasTable, Resolved, Table},
    training::{
        self, EvaluationSettings, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand,
        rollouts::{self, RolloutCommand},
    },
};

/// Train a model on its own completions, each compared with the others of its prompt.
///
/// Rows have a `prompt`; rewards judge what the model makes of it, and may read every other column. Keys of the config
/// file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat rloo --model runs/sft --dataset prompts.jsonl --reward accuracy:answer --num-generations 4
  reheat rloo --model runs/sft --dataset prompts.jsonl --reward length:40 --beta 0 --normalize-advantages
  reheat rloo --config rloo.yaml --dry-run")]
pub(crate) struct RlooArgs {
    #[command(flatten)]
    training: TrainingArgs<RlooSettings>,
}

pub(super) fn run(args: &RlooArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat rloo` that other commands do not have.
#[derive(Debug)]
pub(crate) struct RlooSettings {
    rollouts: RolloutCommand,
    loss: RlooConfig,
}

impl HasTable for RlooSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> =
            LazyLock::new(|| rollouts::table::<RlooConfig>().with_default("num_generations", json!(2)));
        &TABLE
    }
}

impl TrainingCommand for RlooSettings {
    const NAME: &'static str = "rloo";
    const TITLE: &'static str = "REINFORCE leave-one-out";
    type Example = Prompt;
    type Method = Rloo;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        Ok(Self { rollouts: RolloutCommand::extract(resolved)?, loss: resolved.extract()? })
    }

    fn faults(&self, shared: &SharedSettings) -> Vec<String> {
        let mut faults = self.loss.faults();
        faults.extend(self.rollouts.faults(shared, self.loss.beta));
        faults
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.rollouts.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<Prompt>> {
        self.rollouts.prepare(rows)
    }

    fn num_rows(&self, prompts: usize, shared: &SharedSettings) -> anyhow::Result<usize> {
        self.rollouts.num_rows(prompts, shared)
    }

    fn facts(&self, prompts: usize, shared: &SharedSettings) -> Vec<Fact> {
        self.rollouts.facts(prompts, shared, self.loss.beta)
    }

    fn method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Rloo> {
        let rollouts = self.rollouts.setup(prompts, model, setup, self.loss.beta)?;
        Ok(Rloo::new(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn evaluation_method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Rloo> {
        let rollouts = self.rollouts.evaluation_setup(prompts, model, setup, self.loss.beta)?;
        Ok(Rloo::for_evaluation(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn watch(&self, shared: &SharedSettings) -> Option<Watch> {
        Some(rollouts::watch(self.rollouts.table(shared), true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::grpo::GrpoSettings, settings::assert_page};

    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-grpo-options.md");
        // Options of TRL 1.16's GRPOScriptArguments, GRPOConfig and RLOOConfig that are theirs alone.
        assert_eq!(assert_page(page, &[GrpoSettings::table(), RlooSettings::table()]), 2 + 77 + 2);
    }
}
