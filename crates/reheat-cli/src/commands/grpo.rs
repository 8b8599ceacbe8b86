//! `reheat grpo`: group relative policy optimisation.

use std::sync::LazyLock;

use reheat_train::{GrpoConfig, GrpoLossType, GrpoObjective};

use crate::{
    settings::Table,
    training::{
        self, TrainingArgs,
        rollouts::{self, RolloutLoss, RolloutSettings},
    },
};

/// Train a model on its own completions, judged by rewards.
///
/// Rows have a `prompt`; rewards judge what the model makes of it, and may read every other column. Keys of the config
/// file are TRL's names; flags come before the file, the file before the defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat grpo --model runs/sft --dataset prompts.jsonl --reward think_format --reward accuracy:answer
  reheat grpo --model runs/sft --dataset prompts.jsonl --reward 'program:python3 reward.py' --log-completions
  reheat grpo --model Qwen/Qwen2.5-0.5B-Instruct --dataset openai/gsm8k --reward accuracy:answer --use-peft
  reheat grpo --config grpo.yaml --dry-run")]
pub(crate) struct GrpoArgs {
    #[command(flatten)]
    training: TrainingArgs<RolloutSettings<GrpoConfig>>,
}

pub(super) fn run(args: &GrpoArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

impl RolloutLoss for GrpoConfig {
    const NAME: &'static str = "grpo";
    const TITLE: &'static str = "group relative policy optimisation";
    type Objective = GrpoObjective;

    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(rollouts::table::<GrpoConfig>);
        &TABLE
    }

    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        self.without_effect()
    }

    /// Losses of the likelihood itself are none.
    fn is_mean_of_advantages(&self) -> bool {
        !matches!(self.loss_type, GrpoLossType::Cispo | GrpoLossType::Vespo)
    }
}
