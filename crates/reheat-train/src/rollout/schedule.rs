//! Which completions a step trains on: prompts, groups, generation batches and micro-batches.

use reheat_data::{TrainSamplingStrategy, epoch_order};

use super::RolloutConfig;
use crate::TrainingConfig;

/// The order of a run, which follows from the settings and the number of prompts alone.
///
/// A *generation batch* is `num_generations` completions of each of some prompts, drawn by one model. It is cut into
/// `steps_per_generation` micro-batches of `per_device_train_batch_size` completions, which are trained on
/// `num_iterations` times, before the next is drawn. An epoch visits every prompt once, but for those that do not fill
/// a generation batch (TRL 1.16, `RepeatSampler` and `GRPOTrainer._prepare_inputs`).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    num_prompts: usize,
    pub(crate) num_generations: usize,
    micro_batch_size: usize,
    accumulation_steps: usize,
    pub(crate) steps_per_generation: usize,
    num_iterations: usize,
    pub(crate) strategy: TrainSamplingStrategy,
    seed: u64,
}

/// What the settings come to for so many prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolloutPlan {
    /// Prompts that are completed at a time.
    pub prompts_per_generation: usize,
    /// Completions that are drawn at a time.
    pub completions_per_generation: usize,
    /// Completions that an epoch trains on, each as often as it is: what the loop counts as rows.
    pub rows_per_epoch: usize,
    /// Prompts that an epoch leaves out, since they do not fill a generation batch.
    pub num_left_out: usize,
}

/// What one forward and backward pass trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MicroStep {
    /// Which generation batch, counted over the run.
    pub(crate) generation: u64,
    /// Which part of it.
    pub(crate) slice: usize,
    /// How often that part was trained on before.
    pub(crate) iteration: usize,
}

impl Schedule {
    /// All completions of an evaluation at a time, in the order of the prompts.
    pub(crate) fn of_evaluation(num_generations: usize, training: &TrainingConfig, num_prompts: usize) -> Self {
        Self {
            num_prompts,
            num_generations,
            micro_batch_size: num_prompts * num_generations,
            accumulation_steps: 1,
            steps_per_generation: 1,
            num_iterations: 1,
            strategy: TrainSamplingStrategy::Sequential,
            seed: training.seed,
        }
    }

    /// The order for so many prompts, or everything that is wrong with the settings together.
    pub(crate) fn new(
        config: &RolloutConfig,
        training: &TrainingConfig,
        num_prompts: usize,
    ) -> Result<Self, Vec<String>> {
        let micro_batch_size = training.per_device_train_batch_size;
        let mut faults = Vec::new();
        let steps_per_generation = match (config.generation_batch_size, config.steps_per_generation) {
            (Some(size), _) => {
                if !size.is_multiple_of(micro_batch_size) {
                    faults.push(format!(
                        "generation_batch_size is {size}, expected a multiple of per_device_train_batch_size, {micro_batch_size}"
                    ));
                }
                size / micro_batch_size
            }
            (None, Some(steps)) => steps,
            (None, None) => training.gradient_accumulation_steps,
        };
        let schedule = Self {
            num_prompts,
            num_generations: config.num_generations,
            micro_batch_size,
            accumulation_steps: training.gradient_accumulation_steps,
            steps_per_generation,
            num_iterations: config.num_iterations,
            strategy: training.train_sampling_strategy,
            seed: training.seed,
        };
        let size = schedule.generation_batch_size();
        if faults.is_empty() && !size.is_multiple_of(config.num_generations) {
            faults.push(format!(
                "{size} completions are drawn at a time (per_device_train_batch_size {micro_batch_size} times \
                 steps_per_generation {steps_per_generation}), expected a multiple of num_generations, {}",
                config.num_generations
            ));
        } else if faults.is_empty() && num_prompts > 0 && schedule.generations_per_epoch() == 0 {
            faults.push(format!(
                "{} prompts are drawn for at a time ({size} completions in groups of num_generations, {}), and the dataset \
                 has {num_prompts}",
                schedule.prompts_per_generation(),
                config.num_generations
            ));
        }
        if faults.is_empty() { Ok(schedule) } else { Err(faults) }
    }

    pub(crate) fn generation_batch_size(&self) -> usize {
        self.micro_batch_size * self.steps_per_generation
    }

    /// Completions of a generation batch, in a row, that belong to one optimizer step whatever the step.
    pub(crate) fn completions_per_step(&self) -> usize {
        match self.accumulation_steps {
            _ if self.is_aligned() => self.generation_batch_size(),
            steps if self.steps_per_generation.is_multiple_of(steps) => steps * self.micro_batch_size,
            _ => self.micro_batch_size,
        }
    }

    fn prompts_per_generation(&self) -> usize {
        self.generation_batch_size() / self.num_generations
    }

    fn generations_per_epoch(&self) -> usize {
        self.num_prompts / self.prompts_per_generation()
    }

    fn micro_steps_per_generation(&self) -> u64 {
        (self.steps_per_generation * self.num_iterations) as u64
    }

    fn micro_steps_per_epoch(&self) -> u64 {
        self.generations_per_epoch() as u64 * self.micro_steps_per_generation()
    }

    /// What a person may want to know of it.
    pub(crate) fn plan(&self) -> RolloutPlan {
        let prompts_per_generation = self.prompts_per_generation();
        RolloutPlan {
            prompts_per_generation,
            completions_per_generation: self.generation_batch_size(),
            rows_per_epoch: self.rows_per_epoch(),
            num_left_out: self.num_prompts - self.generations_per_epoch() * prompts_per_generation,
        }
    }

    /// Completions that an epoch trains on, each as often as it is.
    pub(crate) fn rows_per_epoch(&self) -> usize {
        self.generations_per_epoch() * self.generation_batch_size() * self.num_iterations
    }

    /// The forward and backward passes of the optimizer step after `step`. The last step of an epoch may have fewer.
    pub(crate) fn micro_steps(&self, step: u64) -> Vec<MicroStep> {
        let per_epoch = self.micro_steps_per_epoch();
        let per_step = self.accumulation_steps as u64;
        let steps_per_epoch = per_epoch.div_ceil(per_step);
        let (epoch, position) = (step / steps_per_epoch, step % steps_per_epoch);
        let start = epoch * per_epoch + position * per_step;
        let end = (start + per_step).min((epoch + 1) * per_epoch);
        let slices = self.steps_per_generation as u64;
        let place = |micro_step: u64| MicroStep {
            generation: micro_step / self.micro_steps_per_generation(),
            slice: (micro_step % slices) as usize,
            iteration: (micro_step % self.micro_steps_per_generation() / slices) as usize,
        };
        (start..end).map(place).collect()
    }

    /// The prompts of a generation batch.
    pub(crate) fn prompts(&self, generation: u64) -> Vec<usize> {
        let per_epoch = self.generations_per_epoch() as u64;
        let order = epoch_order(self.num_prompts, self.seed, generation / per_epoch, self.strategy);
        let start = (generation % per_epoch) as usize * self.prompts_per_generation();
        order[start..start + self.prompts_per_generation()].to_vec()
    }

    /// Whether every generation batch is drawn and used up within one optimizer step, so that the model that is trained
    /// is the one that drew.
    pub(crate) fn is_aligned(&self) -> bool {
        (self.accumulation_steps as u64).is_multiple_of(self.micro_steps_per_generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(
        [num_prompts, num_generations, micro_batch_size, accumulation_steps]: [usize; 4],
        steps_per_generation: Option<usize>,
        num_iterations: usize,
    ) -> Result<Schedule, Vec<String>> {
        let config =
            RolloutConfig { num_generations, steps_per_generation, num_iterations, ..RolloutConfig::default() };
        let training = TrainingConfig {
            per_device_train_batch_size: micro_batch_size,
            gradient_accumulation_steps: accumulation_steps,
            train_sampling_strategy: TrainSamplingStrategy::Sequential,
            ..TrainingConfig::default()
        };
        Schedule::new(&config, &training, num_prompts)
    }

    /// The example in the docstring of TRL's `RepeatSampler`: seven prompts, three at a time, groups of two.
    #[test]
    fn an_epoch_leaves_out_prompts_that_fill_no_batch() {
        let schedule = schedule([7, 2, 6, 1], None, 4).unwrap();
        assert_eq!((schedule.rows_per_epoch(), schedule.plan().num_left_out), (2 * 6 * 4, 1));
        let generations: Vec<u64> = (0..9).map(|step| schedule.micro_steps(step)[0].generation).collect();
        assert_eq!(generations, [0, 0, 0, 0, 1, 1, 1, 1, 2]);
        assert_eq!([schedule.prompts(0), schedule.prompts(1), schedule.prompts(2)], [[0, 1, 2], [3, 4, 5], [0, 1, 2]]);
    }

    /// The figure in TRL's `GRPOTrainer._get_train_sampler`: two passes a step, four passes a generation batch, here
    /// trained on twice.
    #[test]
    fn a_generation_batch_is_spread_over_steps_and_repeated() {
        let schedule = schedule([8, 3, 3, 2], Some(4), 2).unwrap();
        let places: Vec<_> = (0..5)
            .flat_map(|step| schedule.micro_steps(step))
            .map(|place| (place.generation, place.iteration, place.slice))
            .collect();
        let expected = [
            (0, 0, 0),
            (0, 0, 1),
            (0, 0, 2),
            (0, 0, 3),
            (0, 1, 0),
            (0, 1, 1),
            (0, 1, 2),
            (0, 1, 3),
            (1, 0, 0),
            (1, 0, 1),
        ];
        assert_eq!(places, expected);
        assert!(!schedule.is_aligned());
    }

    /// Three generation batches of two passes each, four passes a step: the epoch's second step has two.
    #[test]
    fn the_last_step_of_an_epoch_may_be_shorter() {
        let schedule = schedule([3, 2, 1, 4], Some(2), 1).unwrap();
        let lens: Vec<usize> = (0..4).map(|step| schedule.micro_steps(step).len()).collect();
        assert_eq!(lens, [4, 2, 4, 2]);
        assert_eq!(schedule.micro_steps(2)[0].generation, 3);
        assert!(schedule.is_aligned());
    }

    #[test]
    fn what_does_not_divide_is_told_with_both_numbers() {
        let faults = schedule([8, 3, 4, 1], None, 1).unwrap_err();
        assert_eq!(
            faults,
            [
                "4 completions are drawn at a time (per_device_train_batch_size 4 times steps_per_generation 1), expected a \
              multiple of num_generations, 3"
            ]
        );
        let faults = schedule([3, 2, 8, 1], None, 1).unwrap_err();
        assert_eq!(
            faults,
            [
                "4 prompts are drawn for at a time (8 completions in groups of num_generations, 2), and the dataset has 3"
            ]
        );
    }
}
