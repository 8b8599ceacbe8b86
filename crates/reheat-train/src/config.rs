//! Settings of the loop, the same for every method, under the names of transformers' `TrainingArguments`.

use burn::tensor::DType;
use reheat_data::TrainSamplingStrategy;
use reheat_kernels::Compute;
use reheat_model::WeightDtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LrSchedulerType;

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

impl TrainingDtype {
    pub(crate) fn compute(self) -> Compute {
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
    /// Order in which an epoch visits the rows.
    #[schemars(with = "SamplingSchema")]
    pub train_sampling_strategy: TrainSamplingStrategy,
    /// Seed of everything random.
    pub seed: u64,
    /// Steps between logged rows.
    pub logging_steps: u64,
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
            warmup_steps: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            train_sampling_strategy: TrainSamplingStrategy::Random,
            seed: 42,
            logging_steps: 10,
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
        ] {
            require(value > 0, format!("{key} is 0, expected 1 or more"));
        }
        require(at_least_0(self.warmup_steps), format!("warmup_steps is {}, expected 0 or more", self.warmup_steps));
        require(at_least_0(self.weight_decay), format!("weight_decay is {}, expected 0 or more", self.weight_decay));
        require(share(self.adam_beta1), format!("adam_beta1 is {}, expected 0 or more and below 1", self.adam_beta1));
        require(share(self.adam_beta2), format!("adam_beta2 is {}, expected 0 or more and below 1", self.adam_beta2));
        require(at_least_0(self.adam_epsilon), format!("adam_epsilon is {}, expected 0 or more", self.adam_epsilon));
        require(at_least_0(self.max_grad_norm), format!("max_grad_norm is {}, expected 0 or more", self.max_grad_norm));
        require(self.logging_steps > 0, "logging_steps is 0, expected 1 or more".into());
        require(
            self.save_strategy != SaveStrategy::Steps || self.save_steps > 0,
            "save_steps is 0, expected 1 or more".into(),
        );
        require(self.save_total_limit != Some(0), "save_total_limit is 0, expected 1 or more".into());
        faults
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
