//! Completions of a micro-batch: as sequences for the model, and side by side for the loss.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use reheat_data::Batch;
use reheat_kernels::TokenLogprobs;

use super::Completion;
use crate::Measures;
use crate::answers::Answers;

/// A completion with everything that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Index of its prompt in the dataset.
    pub(crate) prompt: usize,
    pub(crate) ids: Vec<u32>,
    /// Ids that tools wrote, ascending.
    pub(crate) tool_spans: Vec<Range<usize>>,
    /// Whether it was cut at the longest length.
    pub(crate) truncated: bool,
    /// Whether its tokens count in the loss.
    pub(crate) counts: bool,
    pub(crate) advantage: f64,
    /// Log-probability of each id, in nats; empty where it is not known.
    pub(crate) sampler_logprobs: Vec<f32>,
    /// Under the policy that wrote it, by the forward pass that training uses.
    pub(crate) old_logprobs: Vec<f32>,
    pub(crate) ref_logprobs: Vec<f32>,
}

impl Sample {
    /// The completion at its beginning: drawn, and not yet judged.
    pub(crate) fn new(prompt: usize, completion: Completion) -> Self {
        let Completion { ids, logprobs, tool_use } = completion;
        Self {
            prompt,
            ids,
            tool_spans: tool_use.spans,
            truncated: false,
            counts: true,
            advantage: 0.0,
            sampler_logprobs: logprobs,
            old_logprobs: Vec::new(),
            ref_logprobs: Vec::new(),
        }
    }

    /// Tokens that the model wrote.
    pub(crate) fn num_own(&self) -> usize {
        self.ids.len() - self.tool_spans.iter().map(Range::len).sum::<usize>()
    }

    /// Tokens that count in the loss.
    pub(crate) fn num_counting(&self) -> usize {
        if self.counts { self.num_own() } else { 0 }
    }

    /// Of each token whether it counts in the loss.
    pub(crate) fn counting(&self) -> Vec<bool> {
        let mut counting = vec![self.counts; self.ids.len()];
        self.tool_spans.iter().for_each(|span| counting[span.clone()].fill(false));
        counting
    }
}

/// Completions as one forward pass takes them, and what the loss needs of them.
#[derive(Debug, Clone)]
pub struct RolloutBatch {
    pub(crate) answers: Answers,
    /// Of each completion the index of its prompt.
    prompts: Vec<usize>,
    /// Completions, and the tokens of the longest.
    pub(crate) shape: [usize; 2],
    /// Of each token in `shape` the position that predicts it; 0 where there is none.
    index: Vec<i32>,
    /// 1 where there is a token.
    is_token: Vec<f32>,
    /// 1 where a token counts in the loss.
    pub(crate) completion_mask: Vec<f32>,
    pub(crate) advantages: Vec<f32>,
    sampler_logprobs: Option<Vec<f32>>,
    old_logprobs: Option<Vec<f32>>,
    ref_logprobs: Option<Vec<f32>>,
    /// Its place in the step and in the run.
    pub(crate) place: Place,
    /// What is told of a generation batch, with the first of its micro-batches.
    pub(crate) of_generation: Measures,
}

/// Where a micro-batch stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Micro-batches of the optimizer step.
    pub(crate) accumulation_steps: usize,
    /// Whether it is the last of them.
    pub(crate) is_last: bool,
    /// Tokens that count in an optimizer step.
    pub(crate) num_items_in_batch: f64,
    /// How often its completions were trained on before.
    pub(crate) iteration: usize,
    /// When the step began.
    pub(crate) step_started: Instant,
    /// Seconds of the step before its first pass: drawing and judging.
    pub(crate) seconds_before: f64,
    /// Tokens of all sequences of the step.
    pub(crate) num_tokens_in_step: usize,
    /// Longest completion in tokens.
    pub(crate) max_completion_length: usize,
    /// Whether it is of no step, but of an evaluation.
    pub(crate) is_evaluation: bool,
}

impl RolloutBatch {
    /// Lays the samples end to end. `prompt_ids` gives the ids of a prompt.
    pub(crate) fn new<'a>(samples: &[Sample], prompt_ids: impl Fn(usize) -> &'a [u32], place: Place) -> Self {
        let rows = samples.iter().map(|sample| (prompt_ids(sample.prompt), &*sample.ids));
        let answers = Answers::new(rows);
        let seq = samples.iter().map(|sample| sample.ids.len()).max().unwrap_or(0);
        let shape = [samples.len(), seq];
        let mut index = vec![0; samples.len() * seq];
        let (mut is_token, mut completion_mask) = (vec![0.0; index.len()], vec![0.0; index.len()]);
        for (row, (sample, span)) in samples.iter().zip(answers.spans()).enumerate() {
            for (column, (position, counts)) in span.clone().zip(sample.counting()).enumerate() {
                let at = row * seq + column;
                index[at] = position as i32;
                is_token[at] = 1.0;
                completion_mask[at] = if counts { 1.0 } else { 0.0 };
            }
        }
        let padded = |pick: fn(&Sample) -> &[f32]| -> Option<Vec<f32>> {
            let known = samples.iter().all(|sample| pick(sample).len() == sample.ids.len());
            known.then(|| {
                let mut values = vec![0.0; samples.len() * seq];
                for (row, sample) in samples.iter().enumerate() {
                    values[row * seq..][..sample.ids.len()].copy_from_slice(pick(sample));
                }
                values
            })
        };
        Self {
            sampler_logprobs: padded(|sample| &sample.sampler_logprobs),
            old_logprobs: padded(|sample| &sample.old_logprobs),
            ref_logprobs: padded(|sample| &sample.ref_logprobs),
            advantages: samples.iter().map(|sample| sample.advantage as f32).collect(),
            prompts: samples.iter().map(|sample| sample.prompt).collect(),
            answers,
            shape,
            index,
            is_token,
            completion_mask,
            place,
            of_generation: Measures::default(),
        }
    }

    pub(crate) fn sequences(&self) -> &Batch {
        &self.answers.sequences
    }

    /// The prompts of a step's completions, each once.
    pub(crate) fn prompts_of(batches: &[Self]) -> Vec<usize> {
        let prompts: BTreeSet<usize> = batches.iter().flat_map(|batch| batch.prompts.iter().copied()).collect();
        prompts.into_iter().collect()
    }

    /// Completions of the micro-batch.
    pub fn num_completions(&self) -> usize {
        self.shape[0]
    }

    /// Tokens of the micro-batch that count in the loss.
    pub fn num_items(&self) -> u64 {
        self.completion_mask.iter().map(|counts| *counts as u64).sum()
    }

    /// Tokens that count in the optimizer step: those of the generation batch, scaled to one step.
    pub fn num_items_in_batch(&self) -> f64 {
        self.place.num_items_in_batch
    }

    /// Micro-batches of the optimizer step.
    pub fn accumulation_steps(&self) -> usize {
        self.place.accumulation_steps
    }

    /// Longest completion that is drawn, in tokens.
    pub fn max_completion_length(&self) -> usize {
        self.place.max_completion_length
    }

    /// Whether it is the last micro-batch of its optimizer step.
    pub fn is_last_of_step(&self) -> bool {
        self.place.is_last
    }

    /// Puts values of the sequences' positions side by side, 0 where there is no token.
    ///
    /// # Shapes
    /// - `values`: `[tokens]`, of every position of the sequences
    /// - returns: `[batch, seq]`
    pub fn side_by_side(&self, values: Tensor<1>) -> Tensor<2> {
        let device = values.device().inner();
        let index = Tensor::<1, Int>::from_data(self.index.as_slice(), &device);
        values.select(0, index).reshape(self.shape) * self.tensor(&self.is_token, &device)
    }

    /// 1 where a token counts in the loss, `[batch, seq]`.
    pub fn completion_mask(&self, device: &Device) -> Tensor<2> {
        self.tensor(&self.completion_mask, device)
    }

    /// Log-probabilities under the policy that wrote the completions, `[batch, seq]`, in nats; `None` where that is the
    /// policy as it is in this pass.
    pub fn old_logprobs(&self, device: &Device) -> Option<Tensor<2>> {
        self.old_logprobs.as_ref().map(|values| self.tensor(values, device))
    }

    /// Log-probabilities under the reference, `[batch, seq]`, in nats; `None` where there is none.
    pub fn ref_logprobs(&self, device: &Device) -> Option<Tensor<2>> {
        self.ref_logprobs.as_ref().map(|values| self.tensor(values, device))
    }

    /// How much better each completion is than those it is compared with, `[batch, 1]`.
    pub fn advantages(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.advantages.clone(), [self.shape[0], 1]), device)
    }

    fn tensor(&self, values: &[f32], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), self.shape), device)
    }

    /// The loss as the loop sums it: in training it is a part of the step's; an evaluation divides the sum by the items
    /// of all micro-batches, so that one's mean weighs as many as it has.
    pub(crate) fn summed(&self, loss: f64, num_items: u64) -> f64 {
        if self.place.is_evaluation { loss * num_items as f64 } else { loss }
    }

    /// Adds what a micro-batch tells whatever is minimised: its entropy, how far sampler and training are apart, times.
    pub(crate) fn measure(&self, measures: Measures, tokens: &TokenLogprobs) -> Measures {
        let read = |values: &Tensor<1>| numbers(self.side_by_side(values.clone()));
        let num_items = self.num_items() as f64;
        let mut measures = measures.with("entropy", self.masked_sum(&read(&tokens.entropy)), num_items);
        if let (0, Some(sampler)) = (self.place.iteration, &self.sampler_logprobs) {
            let own = self.old_logprobs.clone().unwrap_or_else(|| read(&tokens.logprobs));
            measures = self.compare_with_sampler(measures, &own, sampler);
        }
        measures.add(&self.of_generation);
        if self.place.is_last {
            let seconds = self.place.step_started.elapsed().as_secs_f64();
            let training = seconds - self.place.seconds_before;
            measures = measures.with("step_time", seconds, 1.0).with("time/training", training, 1.0).with(
                "time/trained_tokens_per_second",
                self.place.num_tokens_in_step as f64,
                training,
            );
        }
        measures
    }

    /// How the log-probabilities of the forward pass in training differ from those that the sampler saw.
    fn compare_with_sampler(&self, measures: Measures, own: &[f32], sampler: &[f32]) -> Measures {
        let seq = self.shape[1];
        let difference = |at: usize| f64::from((own[at] - sampler[at]) * self.completion_mask[at]);
        let differences: Vec<f64> = (0..own.len()).map(|at| difference(at).abs()).collect();
        let ratios = (0..self.shape[0]).map(|row| (row * seq..(row + 1) * seq).map(difference).sum::<f64>().exp());
        let ratios: Vec<f64> = ratios.collect();
        let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        measures
            .with("sampling/sampling_logp_difference/mean", differences.iter().sum(), self.num_items() as f64)
            .with("sampling/sampling_logp_difference/max", largest(&differences), 1.0)
            .with("sampling/importance_sampling_ratio/min", smallest, 1.0)
            .with("sampling/importance_sampling_ratio/mean", ratios.iter().sum(), ratios.len() as f64)
            .with("sampling/importance_sampling_ratio/max", largest(&ratios), 1.0)
    }

    /// Sum over the tokens that count.
    pub(crate) fn masked_sum(&self, values: &[f32]) -> f64 {
        values.iter().zip(&self.completion_mask).map(|(value, counts)| f64::from(value * counts)).sum()
    }

    /// Adds how many ratios were clipped. `low` and `high` are 1 where one was, of each token or of each completion.
    pub(crate) fn measure_clipping(&self, measures: Measures, low: &[f32], high: &[f32]) -> Measures {
        let either: Vec<f32> = low.iter().zip(high).map(|(low, high)| low.max(*high)).collect();
        let [(low_sum, lowest, weight), (high_sum, highest, _), (either_sum, ..)] =
            [(low, f64::min as fn(f64, f64) -> f64), (high, f64::max), (&either, f64::max)]
                .map(|(values, pick)| self.shares(values, pick));
        let mut measures = measures
            .with("clip_ratio/low_mean", low_sum, weight)
            .with("clip_ratio/high_mean", high_sum, weight)
            .with("clip_ratio/region_mean", either_sum, weight);
        for (name, value) in [("clip_ratio/low_min", lowest), ("clip_ratio/high_max", highest)] {
            // Where no completion counts there is nothing to tell.
            if let Some(value) = value {
                measures = measures.with(name, value, 1.0);
            }
        }
        measures
    }

    /// Sum of flags, one completion's share of them that `pick` prefers, and how many could have been set.
    fn shares(&self, flags: &[f32], pick: fn(f64, f64) -> f64) -> (f64, Option<f64>, f64) {
        let (sum, count) = self.sum_and_count(flags);
        let [batch, seq] = self.shape;
        if flags.len() == batch {
            return (sum, flags.iter().map(|flag| f64::from(*flag)).reduce(pick), count);
        }
        let share = |row: usize| {
            let tokens = row * seq..(row + 1) * seq;
            let count: f32 = self.completion_mask[tokens.clone()].iter().sum();
            let sum: f32 = tokens.map(|at| flags[at] * self.completion_mask[at]).sum();
            (count > 0.0).then(|| f64::from(sum) / f64::from(count))
        };
        (sum, (0..batch).filter_map(share).reduce(pick), count)
    }

    /// Sum of values of the tokens that count, or of all completions, and how many those are.
    pub(crate) fn sum_and_count(&self, values: &[f32]) -> (f64, f64) {
        if values.len() == self.shape[0] {
            return (values.iter().map(|value| f64::from(*value)).sum(), self.shape[0] as f64);
        }
        (self.masked_sum(values), self.num_items() as f64)
    }
}

/// The numbers of a plain tensor.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("log-probabilities and what comes of them are f32")
}
