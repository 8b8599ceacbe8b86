//! What `grpo` and `rloo` have in common: all but their losses.

use std::cell::RefCell;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use reheat_data::{Prepared, Prompt, prepare_prompts};
use reheat_model::{LoadOptions, Qwen2};
use reheat_train::{
    LogRow, ModelReward, Reward, RewardContext, RewardError, RewardSpec, RolloutConfig, RolloutObjective, RolloutSetup,
    RolloutTraining, Tool, Tools, TrainError, build_rewards, program_tools, share_rewards,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    EvaluationSettings, Rows, Setup, SharedSettings, TrainingCommand,
    completions::{CompletionsLog, CompletionsTable},
};
use crate::{
    commands::ModelArg,
    fault::Fault,
    progress::Watch,
    settings::{Fact, HasTable, PromptSettings, Resolved, Table},
    talk,
};

/// The table of a command that learns from completions; `Loss` holds the settings of its loss.
pub(crate) fn table<Loss>() -> Table
where
    Loss: JsonSchema + Serialize + DeserializeOwned + Default,
{
    super::table(|table| {
        table
            .with::<PromptSettings>("Data")
            .with::<EvaluationSettings>("Evaluation")
            .with::<RewardSettings>("Rewards")
            .with::<ToolSettings>("Tools")
            .with::<RolloutConfig>("Completions")
            .with::<Loss>("Loss")
    })
    // Completions are drawn without dropout: with it, another policy would be trained than the one that wrote.
    .with_default("lora_dropout", json!(0.0))
    .with_default("learning_rate", json!(1e-6))
}

/// The loss of a command that learns from completions, as its settings say it: what such commands differ in.
pub(crate) trait RolloutLoss:
    Debug + Clone + Default + Serialize + DeserializeOwned + Into<Self::Objective>
{
    /// Such as `grpo`.
    const NAME: &'static str;
    /// The name in full, for the model card.
    const TITLE: &'static str;
    /// What is minimised.
    type Objective: RolloutObjective;

    /// The settings of the command, made by [`table`].
    fn table() -> &'static Table;

    /// As [`TrainingCommand::without_effect`], of these settings.
    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    /// Whether the loss of a first pass over fresh completions is the mean of their advantages.
    fn is_mean_of_advantages(&self) -> bool {
        true
    }
}

/// The settings of a command that learns from completions which others do not have.
#[derive(Debug)]
pub(crate) struct RolloutSettings<L> {
    data: PromptSettings,
    evaluation: EvaluationSettings,
    rewards: RewardSettings,
    tools: ToolSettings,
    config: RolloutConfig,
    loss: L,
    /// Weight of the KL divergence from the reference.
    beta: f64,
    waiting: Waiting,
    /// Completions since the last table.
    log: CompletionsLog,
}

impl<L: RolloutLoss> HasTable for RolloutSettings<L> {
    fn table() -> &'static Table {
        L::table()
    }
}

impl<L: RolloutLoss> TrainingCommand for RolloutSettings<L> {
    const NAME: &'static str = L::NAME;
    const TITLE: &'static str = L::TITLE;
    type Example = Prompt;
    type Method = RolloutTraining<L::Objective>;

    fn extract(resolved: &Resolved) -> Result<Self, Fault> {
        let loss: L = resolved.extract()?;
        let objective: L::Objective = loss.clone().into();
        Ok(Self {
            data: resolved.extract()?,
            evaluation: resolved.extract()?,
            rewards: resolved.extract()?,
            tools: resolved.extract()?,
            config: resolved.extract()?,
            loss,
            beta: objective.beta(),
            waiting: Waiting::default(),
            log: CompletionsLog::default(),
        })
    }

    fn faults(&self, shared: &SharedSettings) -> Vec<String> {
        let objective: L::Objective = self.loss.clone().into();
        let mut faults = objective.faults();
        if self.rewards.reward_funcs.is_empty() {
            faults.push("--reward is missing: something has to judge the completions".into());
        } else if let Some(weights) = &self.config.reward_weights
            && weights.len() != self.rewards.reward_funcs.len()
        {
            let (given, wanted) = (weights.len(), self.rewards.reward_funcs.len());
            faults.push(format!("reward_weights has {given} values for {wanted} rewards"));
        }
        if self.config.sync_ref_model && self.beta == 0.0 {
            faults.push("sync_ref_model has no effect where beta is 0: there is no reference".into());
        }
        faults.extend(self.tools.faults());
        if self.config.max_tool_calling_iterations.is_some() && self.tools.tools.is_empty() {
            faults.push("max_tool_calling_iterations has no effect without --tool".into());
        }
        // What a batch size of 0 is to the loop is told already.
        if shared.training.faults().is_empty() {
            faults.extend(self.config.plan(&shared.training, 0).err().into_iter().flatten());
        }
        let wrong = self.rewards.reward_funcs.iter().filter_map(|reward| reward.check().err());
        faults.extend(wrong.map(|error| error.to_string()));
        faults
    }

    fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let follows = "without sync_ref_model";
        let settings = [
            ("num_completions_to_print", self.rewards.log_completions, "without log_completions"),
            ("log_unique_prompts", self.rewards.log_completions, "without log_completions"),
            ("tool_timeout_secs", !self.tools.tools.is_empty(), "without --tool"),
            ("num_generations_eval", self.evaluation.is_asked_for(), "without rows to evaluate with"),
            ("ref_model_mixup_alpha", self.config.sync_ref_model, follows),
            ("ref_model_sync_steps", self.config.sync_ref_model, follows),
        ];
        let idle = settings.into_iter().filter(|(_, has_effect, _)| !has_effect).map(|(key, _, why)| (key, why));
        idle.chain(self.loss.without_effect()).collect()
    }

    fn evaluation(&self) -> Option<&EvaluationSettings> {
        Some(&self.evaluation)
    }

    fn prepare(&self, rows: Rows) -> anyhow::Result<Prepared<Prompt>> {
        let mut options = self.data.options(rows.rejected)?;
        if !self.tools.tools.is_empty() {
            options.tools = Some(self.tools.start()?.iter().map(|tool| tool.schema().clone()).collect());
        }
        let (tokenizer, template) = (&rows.companions.tokenizer, rows.companions.template.as_ref());
        Ok(prepare_prompts(&rows.dataset, tokenizer, template, &options, rows.progress)?)
    }

    /// Completions, as often as they are trained on.
    fn num_rows(&self, prompts: usize, shared: &SharedSettings) -> anyhow::Result<usize> {
        let plan = self.config.plan(&shared.training, prompts);
        Ok(plan.map(|plan| plan.rows_per_epoch).map_err(|faults| {
            Fault::input(faults.join("; "))
                .hint("lower --per-device-train-batch-size or --steps-per-generation, or give more prompts")
        })?)
    }

    fn facts(&self, prompts: usize, shared: &SharedSettings) -> Vec<Fact> {
        let Ok(plan) = self.config.plan(&shared.training, prompts) else { return Vec::new() };
        let fact = |name, value: String| Fact { name, value: value.into(), reason: None };
        let mut facts = vec![
            fact("rewards", self.rewards.reward_funcs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            fact(
                "drawn at a time",
                format!(
                    "{} completions: {} of each of {} prompts",
                    plan.completions_per_generation, self.config.num_generations, plan.prompts_per_generation
                ),
            ),
        ];
        if !self.tools.tools.is_empty() {
            facts.push(fact("tools", self.tools.tools.join(", ")));
        }
        if plan.num_left_out > 0 {
            facts.push(Fact {
                name: "left out",
                value: format!("{} prompts of each epoch", plan.num_left_out).into(),
                reason: Some("the last of an epoch do not fill a batch; another epoch has another order".into()),
            });
        }
        let (value, reason) = match (self.beta, self.config.sync_ref_model, shared.peft.use_peft) {
            (0.0, ..) => ("none", "beta is 0"),
            (_, true, _) => ("a copy of the model that follows it", "sync_ref_model is true"),
            (_, false, true) => ("the model with its adapters as they were", "shares the weights of the base"),
            (_, false, false) => ("a frozen copy of the model", "beta is not 0"),
        };
        facts.push(Fact { name: "reference", value: value.into(), reason: Some(reason.into()) });
        facts
    }

    fn method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Self::Method> {
        let mut rollouts = self.setup(self.build_rewards(model)?, prompts, model, setup)?;
        if self.rewards.log_completions {
            rollouts.completions_fn = Some(self.log.writer(setup.output_dir.join("completions.jsonl")));
        }
        Ok(RolloutTraining::new(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn evaluation_method(&self, prompts: Vec<Prompt>, model: &Qwen2, setup: &Setup) -> anyhow::Result<Self::Method> {
        let rollouts = self.setup(self.waiting.0.take(), prompts, model, setup)?;
        Ok(RolloutTraining::for_evaluation(rollouts, self.loss.clone(), &setup.settings.training)?)
    }

    fn watch(&self, shared: &SharedSettings) -> Option<Watch> {
        let RewardSettings { log_completions, num_completions_to_print, log_unique_prompts, .. } = self.rewards;
        let every = shared.training.logging_steps;
        let table = log_completions.then(|| self.log.table(every, num_completions_to_print, log_unique_prompts));
        Some(watch(table, self.loss.is_mean_of_advantages()))
    }
}

impl<L: RolloutLoss> RolloutSettings<L> {
    /// The rewards for training; where there is an evaluation, they wait for it too.
    fn build_rewards(&self, model: &Qwen2) -> anyhow::Result<Vec<Box<dyn Reward>>> {
        let device = model.device();
        let context =
            RewardContext::new(talk::say).with_models(move |reward, dir| load_reward_model(reward, dir, &device));
        let rewards = build_rewards(&self.rewards.reward_funcs, &context)?;
        if !self.evaluation.is_asked_for() {
            return Ok(rewards);
        }
        let [rewards, waiting] = share_rewards(rewards);
        self.waiting.0.replace(waiting);
        Ok(rewards)
    }

    /// Prompts, rewards and a reference, ready for the method.
    fn setup(
        &self,
        rewards: Vec<Box<dyn Reward>>,
        prompts: Vec<Prompt>,
        model: &Qwen2,
        setup: &Setup,
    ) -> anyhow::Result<RolloutSetup> {
        let mut rollouts = RolloutSetup::new(prompts, setup.companions.tokenizer.clone(), rewards);
        rollouts.config = self.config.clone();
        // Tensors are shared until one is changed: of a model with adapters, only those become two.
        rollouts.reference = (self.beta != 0.0).then(|| Box::new(model.clone()));
        if !self.tools.tools.is_empty() {
            let template = setup.companions.template.clone().ok_or_else(|| {
                Fault::input("tools are called in conversations, and the model has no chat template")
                    .hint("name one with --chat-template FILE")
            })?;
            rollouts.tools = Some(Tools { tools: self.tools.start()?, template });
        }
        Ok(rollouts)
    }
}

/// What judges completions, and what is shown of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RewardSettings {
    /// Rewards, as NAME or NAME:ARGUMENTS: think_format, accuracy:COLUMN, contains:COLUMN, regex:PATTERN, length:TARGET,
    /// 'program:COMMAND' and more. May be given several times; the guide on rewards lists them all.
    #[schemars(with = "Vec<String>", extend("x-flag" = "reward", "x-commas" = false))]
    reward_funcs: Vec<RewardSpec>,
    /// Show a table of completions with every logged row, and keep all of them in `completions.jsonl`.
    log_completions: bool,
    /// Completions in such a table; all when absent.
    num_completions_to_print: Option<usize>,
    /// One completion of each prompt in such a table.
    log_unique_prompts: bool,
}

/// What the model may call in the course of a completion.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ToolSettings {
    /// Programs with tools, such as 'python3 tools.py', that answer lines of JSON; the guide on learning from rewards
    /// shows one. May be given several times.
    #[schemars(extend("x-flag" = "tool", "x-commas" = false))]
    tools: Vec<String>,
    /// Seconds that a program may take for a call, before it fails and the program is started again.
    tool_timeout_secs: u64,
}

impl Default for ToolSettings {
    fn default() -> Self {
        Self { tools: Vec::new(), tool_timeout_secs: 60 }
    }
}

impl ToolSettings {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.tool_timeout_secs == 0 {
            faults.push("tool_timeout_secs is 0, expected 1 or more".into());
        }
        if self.tools.iter().any(|command| command.trim().is_empty()) {
            faults.push("--tool is empty, expected a command such as 'python3 tools.py'".into());
        }
        faults
    }

    /// Starts the programs and asks what they have.
    fn start(&self) -> Result<Vec<Box<dyn Tool>>, TrainError> {
        let mut tools = Vec::new();
        for command in &self.tools {
            let timeout = Duration::from_secs(self.tool_timeout_secs);
            tools.extend(program_tools(command, timeout, Arc::new(|line: &str| eprintln!("{line}")))?);
        }
        Ok(tools)
    }
}

/// Rewards that wait for the evaluation, which asks the same as training does.
#[derive(Default)]
struct Waiting(RefCell<Vec<Box<dyn Reward>>>);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

/// Loads the reward model of a folder or name, which judges with its own tokenizer and template.
fn load_reward_model(reward: &str, dir: &str, device: &Device) -> Result<ModelReward, RewardError> {
    let load = || -> anyhow::Result<_> {
        let source = ModelArg::of(Path::new(dir)).open()?;
        let tokenizer = source.tokenizer()?;
        let template = source.training_template(None, &tokenizer)?;
        Ok((source.model_with(&LoadOptions::default(), device)?, tokenizer, template))
    };
    let (model, tokenizer, template) =
        load().map_err(|error| RewardError::Model { model: dir.into(), source: error.into() })?;
    ModelReward::new(reward, model, tokenizer, template)
}

/// Largest loss of a first step that means nothing.
const NEAR_0: f64 = 0.05;

/// Shows completions, and says once why the loss is near 0; `is_mean` where the loss of a first pass is the mean of the
/// advantages.
fn watch(mut table: Option<CompletionsTable>, is_mean: bool) -> Watch {
    Box::new(move |row: &LogRow| {
        let mut told = Vec::new();
        if row.step == 1 && is_mean {
            told.extend(why_near_0(row));
        }
        told.extend(table.as_mut().and_then(|table| table.observe(row.step)));
        (!told.is_empty()).then(|| told.join("\n"))
    })
}

fn why_near_0(row: &LogRow) -> Option<String> {
    if row.loss == 0.0 && row.grad_norm == 0.0 {
        let told = "loss and gradient are 0: all completions of a prompt have the same reward, and none is to be made likelier";
        return Some(told.into());
    }
    (row.loss.abs() < NEAR_0).then(|| {
        format!(
            "the loss is {:.4}: on the first pass over fresh completions it is the mean of their advantages, about 0 by \
             construction, and its gradient is not. `reward` shows what is learned",
            row.loss.abs()
        )
    })
}
