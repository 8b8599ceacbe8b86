//! Settings of the loop, the same for every method, under the names of transformers' `TrainingArguments`.

use std::fmt;

use burn::tensor::DType;
use reheat_data::TrainSamplingStrategy;
use reheat_kernels::Compute;
use reheat_model::WeightDtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LrSchedulerKwargs, LrSchedulerType, OptimizerNames, ParameterGroup, SgdArgs};

/// When something is done while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IntervalStrategy {
    /// Never.
    #[default]
    No,
    /// Every so many steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
}

/// When checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategy {
    /// Never; only the final model is saved.
    No,
    /// Every `save_steps` steps.
    #[default]
    Steps,
    /// At the end of each epoch.
    Epoch,
    /// After each evaluation that is better than all before.
    Best,
}

/// A type of numbers while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainingDtype {
    /// 32 bits.
    #[default]
    Float32,
    /// 16 bits: the range of float32 with 8 bits of precision.
    Bfloat16,
}

impl fmt::Display for TrainingDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        })
    }
}

impl TrainingDtype {
    /// How products are computed with this type, for a model that must agree with the trained one.
    pub fn compute(self) -> Compute {
        match self {
            Self::Float32 => Compute::F32,
            Self::Bfloat16 => Compute::Bf16,
        }
    }

    pub(crate) fn of_tensors(self) -> DType {
        match self {
            Self::Float32 => DType::F32,
            Self::Bfloat16 => DType::BF16,
        }
    }
}

/// Settings of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainingConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Passes over the dataset; a fraction ends in mid-epoch.
    pub num_train_epochs: f64,
    /// Optimizer steps; above 0 it takes the place of `num_train_epochs`.
    pub max_steps: i64,
    /// Rows per forward pass. Changes memory and speed, never the gradient of a step.
    pub per_device_train_batch_size: usize,
    /// Forward passes per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Run blocks again in the backward pass instead of keeping their activations: less memory, more work.
    pub gradient_checkpointing: bool,
    /// Shape of the learning rate after warm-up.
    pub lr_scheduler_type: LrSchedulerType,
    /// What the shape needs beside these, such as `{"min_lr_rate": 0.1}`.
    #[schemars(with = "serde_json::Value")]
    pub lr_scheduler_kwargs: Option<LrSchedulerKwargs>,
    /// Which optimizer.
    pub optim: OptimizerNames,
    /// Update each block as soon as its gradient is there, in full fine-tuning with one forward pass per step: no more
    /// than one block's gradients are held. With a `max_grad_norm`, gradients are taken twice, first for their norm; the
    /// results are the same.
    pub optimizer_in_backward: bool,
    /// Momentum of SGD and Muon; 0 and 0.95 when absent.
    pub optim_momentum: Option<f64>,
    /// Further settings of SGD as transformers takes them: `momentum=0.9, dampening=0, nesterov=true`.
    pub optim_args: Option<String>,
    /// Parameters with a learning rate or weight decay of their own, for the config file: a list of `parameters` (a name
    /// with `*` for any characters), `learning_rate` and `weight_decay`. The first that matches counts.
    #[schemars(with = "serde_json::Value")]
    pub parameter_groups: Option<Vec<ParameterGroup>>,
    /// Steps of linear warm-up; below 1, the share of all steps.
    pub warmup_steps: f64,
    /// Decoupled weight decay; norms and biases never decay.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// AdamW's addition to the root of the second moment.
    pub adam_epsilon: f64,
    /// Largest L2 norm of the whole gradient; 0 leaves it as it is.
    pub max_grad_norm: f64,
    /// Strength of the uniform noise on the embeddings while training (NEFTune); none when absent.
    pub neftune_noise_alpha: Option<f64>,
    /// Order in which an epoch visits the rows.
    #[schemars(with = "SamplingSchema")]
    pub train_sampling_strategy: TrainSamplingStrategy,
    /// Seed of everything random.
    pub seed: u64,
    /// When rows are logged.
    pub logging_strategy: IntervalStrategy,
    /// Steps between logged rows.
    pub logging_steps: u64,
    /// Log the first step as well.
    pub logging_first_step: bool,
    /// When the evaluation rows are measured.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations; those between logged rows when absent.
    pub eval_steps: Option<u64>,
    /// Steps, or with `eval_strategy` `epoch` epochs, before which nothing is evaluated.
    pub eval_delay: f64,
    /// Evaluate before the first step.
    pub eval_on_start: bool,
    /// Rows per forward pass of an evaluation. Changes memory and speed, never the numbers.
    pub per_device_eval_batch_size: usize,
    /// What makes an evaluation better, such as `loss` or `mean_token_accuracy`; `loss` when absent.
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better; when absent, so unless it is a loss or a perplexity.
    pub greater_is_better: Option<bool>,
    /// End with the weights of the best evaluation.
    pub load_best_model_at_end: bool,
    /// Stop after so many evaluations in a row that are not better than the best.
    pub early_stopping_patience: Option<u64>,
    /// By how much an evaluation has to be better to count as such for early stopping.
    pub early_stopping_threshold: f64,
    /// When checkpoints are written.
    pub save_strategy: SaveStrategy,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// Checkpoints to keep, the newest; all when absent.
    pub save_total_limit: Option<usize>,
    /// Save the model without what a run needs to go on: smaller checkpoints that cannot be resumed.
    pub save_only_model: bool,
    /// Type in which the factors of matrix products meet; sums, norms, losses and weights are float32.
    pub dtype: TrainingDtype,
    /// Type in which the optimizer keeps its moments; bfloat16 takes half the memory and is rounded stochastically.
    pub optim_dtype: TrainingDtype,
    /// Type of the numbers in saved models; trained weights are float32 while training.
    #[schemars(with = "DtypeSchema")]
    pub save_dtype: WeightDtype,
}

/// The values of [`TrainSamplingStrategy`], whose crate knows nothing of schemas.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "stands for the values in the schema")]
enum SamplingSchema {
    Random,
    Sequential,
}

/// The values of [`WeightDtype`], whose crate knows nothing of schemas.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "stands for the values in the schema")]
enum DtypeSchema {
    Float32,
    Float16,
    Bfloat16,
}

impl Default for TrainingConfig {
    /// The defaults of TRL 1.16's `SFTConfig`.
    fn default() -> Self {
        Self {
            learning_rate: 2e-5,
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            gradient_checkpointing: true,
            lr_scheduler_type: LrSchedulerType::Linear,
            lr_scheduler_kwargs: None,
            optim: OptimizerNames::AdamwTorchFused,
            optimizer_in_backward: false,
            optim_momentum: None,
            optim_args: None,
            parameter_groups: None,
            warmup_steps: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            neftune_noise_alpha: None,
            train_sampling_strategy: TrainSamplingStrategy::Random,
            seed: 42,
            logging_strategy: IntervalStrategy::Steps,
            logging_steps: 10,
            logging_first_step: false,
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            eval_delay: 0.0,
            eval_on_start: false,
            per_device_eval_batch_size: 8,
            metric_for_best_model: None,
            greater_is_better: None,
            load_best_model_at_end: false,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            save_strategy: SaveStrategy::Steps,
            save_steps: 500,
            save_total_limit: None,
            dtype: TrainingDtype::Float32,
            optim_dtype: TrainingDtype::Float32,
            save_only_model: false,
            save_dtype: WeightDtype::F32,
        }
    }
}

impl TrainingConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, message: String| {
            if !holds {
                faults.push(message);
            }
        };
        let share = |value: f64| (0.0..1.0).contains(&value);
        let at_least_0 = |value: f64| value.is_finite() && value >= 0.0;
        require(at_least_0(self.learning_rate), format!("learning_rate is {}, expected 0 or more", self.learning_rate));
        require(
            self.max_steps > 0 || (self.num_train_epochs.is_finite() && self.num_train_epochs > 0.0),
            format!("num_train_epochs is {}, expected more than 0", self.num_train_epochs),
        );
        for (key, value) in [
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size),
        ] {
            require(value > 0, format!("{key} is 0, expected 1 or more"));
        }
        require(at_least_0(self.warmup_steps), format!("warmup_steps is {}, expected 0 or more", self.warmup_steps));
        require(
            !self.optimizer_in_backward || self.gradient_accumulation_steps <= 1,
            "optimizer_in_backward updates the model in the one backward pass of a step: set gradient_accumulation_steps \
             to 1"
                .into(),
        );
        if let Some(momentum) = self.optim_momentum {
            require(share(momentum), format!("optim_momentum is {momentum}, expected 0 or more and below 1"));
            let has_momentum = matches!(self.optim, OptimizerNames::Sgd | OptimizerNames::Muon);
            require(has_momentum, "optim_momentum belongs to sgd and muon".into());
        }
        match self.sgd_args() {
            Ok(args) if args.momentum.is_some() && self.optim_momentum.is_some() => {
                require(false, "optim_args and optim_momentum both set the momentum".into());
            }
            Ok(args) => require(
                args == SgdArgs::default() || self.optim == OptimizerNames::Sgd,
                "optim_args belongs to sgd; other optimizers have settings by name, such as adam_beta1".into(),
            ),
            Err(fault) => require(false, format!("optim_args: {fault}")),
        }
        let bf16_moments = self.optim_dtype != TrainingDtype::Float32;
        let has_adamw = !matches!(self.optim, OptimizerNames::Lion | OptimizerNames::Sgd | OptimizerNames::Adafactor);
        require(!bf16_moments || has_adamw, "optim_dtype other than float32 belongs to AdamW".into());
        require(at_least_0(self.weight_decay), format!("weight_decay is {}, expected 0 or more", self.weight_decay));
        require(share(self.adam_beta1), format!("adam_beta1 is {}, expected 0 or more and below 1", self.adam_beta1));
        require(share(self.adam_beta2), format!("adam_beta2 is {}, expected 0 or more and below 1", self.adam_beta2));
        require(at_least_0(self.adam_epsilon), format!("adam_epsilon is {}, expected 0 or more", self.adam_epsilon));
        require(at_least_0(self.max_grad_norm), format!("max_grad_norm is {}, expected 0 or more", self.max_grad_norm));
        if let Some(alpha) = self.neftune_noise_alpha {
            require(at_least_0(alpha), format!("neftune_noise_alpha is {alpha}, expected 0 or more"));
        }
        require(self.logging_steps > 0, "logging_steps is 0, expected 1 or more".into());
        require(
            self.save_strategy != SaveStrategy::Steps || self.save_steps > 0,
            "save_steps is 0, expected 1 or more".into(),
        );
        require(self.eval_steps != Some(0), "eval_steps is 0, expected 1 or more".into());
        require(at_least_0(self.eval_delay), format!("eval_delay is {}, expected 0 or more", self.eval_delay));
        require(self.early_stopping_patience != Some(0), "early_stopping_patience is 0, expected 1 or more".into());
        let threshold = self.early_stopping_threshold;
        require(at_least_0(threshold), format!("early_stopping_threshold is {threshold}, expected 0 or more"));
        let evaluates = self.eval_strategy != IntervalStrategy::No;
        for (key, set) in [
            ("load_best_model_at_end", self.load_best_model_at_end),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
            ("save_strategy best", self.save_strategy == SaveStrategy::Best),
        ] {
            require(!set || evaluates, format!("{key} needs evaluations: set eval_strategy to steps or epoch"));
        }
        require(
            !self.load_best_model_at_end || !evaluates || self.saves_every_evaluation(),
            "load_best_model_at_end needs a checkpoint at every evaluation: give save_strategy and eval_strategy the same \
             value and save_steps a divisor of eval_steps, or set save_strategy to best"
                .into(),
        );
        require(self.save_total_limit != Some(0), "save_total_limit is 0, expected 1 or more".into());
        let kwargs = self.lr_scheduler_kwargs.unwrap_or_default();
        faults.extend(kwargs.faults(self.lr_scheduler_type, self.learning_rate));
        faults.extend(self.parameter_groups.iter().flatten().filter_map(ParameterGroup::fault));
        faults
    }

    /// What `optim_args` says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn sgd_args(&self) -> Result<SgdArgs, String> {
        self.optim_args.as_deref().unwrap_or_default().parse()
    }

    /// Steps between evaluations with `eval_strategy` `steps`.
    pub fn resolved_eval_steps(&self) -> u64 {
        self.eval_steps.unwrap_or(self.logging_steps)
    }

    /// Whether there is a checkpoint of every model that was evaluated.
    fn saves_every_evaluation(&self) -> bool {
        match (self.save_strategy, self.eval_strategy) {
            (SaveStrategy::Best, _) | (SaveStrategy::Epoch, IntervalStrategy::Epoch) => true,
            (SaveStrategy::Steps, IntervalStrategy::Steps) => {
                self.resolved_eval_steps().is_multiple_of(self.save_steps.max(1))
            }
            _ => false,
        }
    }

    /// Whether an evaluation with `value` is better than one with `best`, by more than `threshold`.
    pub(crate) fn is_better(&self, metric: &str, value: f64, best: f64, threshold: f64) -> bool {
        let lower_is_better = metric.ends_with("loss") || metric.ends_with("perplexity");
        let greater = self.greater_is_better.unwrap_or(!lower_is_better);
        if greater { value > best + threshold } else { value < best - threshold }
    }

    /// Rows per optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.per_device_train_batch_size * self.gradient_accumulation_steps
    }

    /// Optimizer steps of an epoch over `num_rows`; the last may be smaller.
    ///
    /// As in transformers 5.23 an epoch is cut into micro-batches, and those into steps.
    pub fn steps_per_epoch(&self, num_rows: usize) -> u64 {
        let micro_batches = num_rows.div_ceil(self.per_device_train_batch_size);
        micro_batches.div_ceil(self.gradient_accumulation_steps) as u64
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self, num_rows: usize) -> u64 {
        match u64::try_from(self.max_steps) {
            Ok(steps) if steps > 0 => steps,
            // As transformers rounds: a started step counts.
            _ => (self.num_train_epochs * self.steps_per_epoch(num_rows) as f64).ceil() as u64,
        }
    }

    /// Warm-up in steps; a value below 1 is a share of `total_steps`, rounded up as in transformers 5.23.
    pub fn resolved_warmup_steps(&self, total_steps: u64) -> u64 {
        if self.warmup_steps < 1.0 {
            (self.warmup_steps * total_steps as f64).ceil() as u64
        } else {
            self.warmup_steps as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(TrainingConfig::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_reported_with_its_value() {
        let config =
            TrainingConfig { learning_rate: f64::NAN, adam_beta2: 1.0, logging_steps: 0, ..TrainingConfig::default() };
        assert_eq!(
            config.faults(),
            [
                "learning_rate is NaN, expected 0 or more",
                "adam_beta2 is 1, expected 0 or more and below 1",
                "logging_steps is 0, expected 1 or more",
            ]
        );
    }

    #[test]
    fn the_best_model_must_have_been_saved() {
        let faults = |config: TrainingConfig| config.faults();
        let best = TrainingConfig {
            eval_strategy: IntervalStrategy::Steps,
            eval_steps: Some(100),
            save_steps: 50,
            load_best_model_at_end: true,
            ..TrainingConfig::default()
        };
        assert!(faults(best.clone()).is_empty());
        let fault = faults(TrainingConfig { save_steps: 30, ..best.clone() });
        assert!(fault[0].starts_with("load_best_model_at_end needs a checkpoint at every evaluation"), "{fault:?}");
        let fault = faults(TrainingConfig { eval_strategy: IntervalStrategy::No, ..best });
        assert_eq!(fault, ["load_best_model_at_end needs evaluations: set eval_strategy to steps or epoch"]);
    }

    #[test]
    fn less_loss_and_more_accuracy_are_better() {
        let config = TrainingConfig::default();
        assert!(config.is_better("loss", 1.0, 2.0, 0.0) && !config.is_better("loss", 2.0, 2.0, 0.0));
        assert!(config.is_better("mean_token_accuracy", 0.5, 0.4, 0.0));
        assert!(!config.is_better("mean_token_accuracy", 0.5, 0.4, 0.2));
        let reversed = TrainingConfig { greater_is_better: Some(true), ..config };
        assert!(reversed.is_better("loss", 2.0, 1.0, 0.0));
    }

    #[test]
    fn a_started_step_counts() {
        let config = TrainingConfig {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            num_train_epochs: 1.5,
            ..TrainingConfig::default()
        };
        assert_eq!(config.steps_per_epoch(9), 3); // 5 micro-batches
        assert_eq!(config.total_steps(9), 5);
    }

    #[test]
    fn warmup_below_one_is_a_share() {
        let config = TrainingConfig { warmup_steps: 0.05, ..TrainingConfig::default() };
        assert_eq!(config.resolved_warmup_steps(30), 2);
        assert_eq!(TrainingConfig { warmup_steps: 3.0, ..TrainingConfig::default() }.resolved_warmup_steps(30), 3);
    }
}
