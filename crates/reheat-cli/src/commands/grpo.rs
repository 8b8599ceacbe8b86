//! `reheat grpo`: group relative policy optimisation.

use std::sync::LazyLock;

use reheat_data::{Prepared, Prompt};
use reheat_model::Qwen2;
use reheat_train::{Grpo, GrpoConfig, GrpoLossType};

use crate::{
    fault::Fault,
    progress::Watch,
    settings::{Fact, HasTable, Resolved, Table},
    training::{
        self, EvaluationSettings, Rows, Setup, SharedSettings, TrainingArgs, TrainingCommand,
        rollouts::{self, RolloutCommand},
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
    training: TrainingArgs<GrpoSettings>,
}

pub(super) fn run(args: &GrpoArgs) -> anyhow::Result<()> {
    training::run(&args.training)
}

/// The settings of `reheat grpo` that other commands do not have.
#[derive(Debug)]
pub(crate) struct GrpoSettings {
    rollouts: RolloutCommand,
    loss: GrpoConfig,
}

impl HasTable for GrpoSettings {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> = LazyLock::new(rollouts::table::<GrpoConfig>);
        &TABLE
    }
}

impl TrainingCommand for GrpoSettings {
    const NAME: &'static str = "grpo";
    const TITLE: &'static str = "group relative policy optimisation";
    type Example = Prompt;
    type Method = Grpo;

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

    fn method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Grpo> {
        let rollouts = self.rollouts.setup(prompts, model, setup, self.loss.beta)?;
        Ok(Grpo::new(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn evaluation_method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Grpo> {
        let rollouts = self.rollouts.evaluation_setup(prompts, model, setup, self.loss.beta)?;
        Ok(Grpo::for_evaluation(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn watch(&self, shared: &SharedSettings) -> Option<Watch> {
        // Those of the likelihood itself are no mean of advantages.
        let is_mean = !matches!(self.loss.loss_type, GrpoLossType::Cispo | GrpoLossType::Vespo);
        Some(rollouts::watch(self.rollouts.table(shared), is_mean))
    }
}
