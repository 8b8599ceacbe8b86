//! `reheat rloo`: REINFORCE leave-one-out.

use std::sync::LazyLock;

use reheat_train::RlooConfig;
use serde_json::json;

use crate::{
    settings::Table,
    training::{
        self, TrainingArgs,
        rollouts::{self, RolloutLoss, RolloutSettings},
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
    training: TrainingArgs<RolloutSettings<RlooConfig>>,
}

pub(super) fn run(args: &RlooArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

impl RolloutLoss for RlooConfig {
    const NAME: &'static str = "rloo";
    const TITLE: &'static str = "REINFORCE leave-one-out";
    type Objective = Self;

    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> =
            LazyLock::new(|| rollouts::table::<RlooConfig>().with_default("num_generations", json!(2)));
        &TABLE
    }
}

#[cfg(test)]
mod tests {
    use reheat_train::GrpoConfig;

    use super::*;
    use crate::settings::{assert_options_of_every_trainer, assert_page};

    #[test]
    fn the_page_of_trl_options_tells_the_truth() {
        let page = include_str!("../../../../docs/reference/trl-grpo-options.md");
        // Options of TRL 1.16's GRPOScriptArguments, GRPOConfig and RLOOConfig that are theirs alone.
        let tables = [GrpoConfig::table(), RlooConfig::table()];
        assert_eq!(assert_page(page, &tables), 2 + 77 + 2);
        assert_options_of_every_trainer(&tables);
    }
}
