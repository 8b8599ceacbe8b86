//! Kahneman-Tversky optimisation on the shared loop.

use burn::tensor::Tensor;
use reheat_data::{Batch, PreferencePair, UnpairedCompletion};
use reheat_kernels::TokenLogprobs;
use reheat_model::{Qwen2, Qwen2Config};
use serde_json::{Map, Value};

use super::{KtoConfig, KtoLossType, UnpairedLossSettings, unpaired_losses};
use crate::answers::Answers;
use crate::method::{identity_of, settings_of};
use crate::{
    Checkpointing, Measures, Method, ModelPass, Objective, Reference, ReferenceLogprobs, StepContext, TrainError,
};

/// Kahneman-Tversky optimisation on tokenised answers.
#[derive(Debug)]
pub struct Kto {
    pairs: Vec<PreferencePair>,
    labels: Vec<bool>,
    config: KtoConfig,
    reference: Reference,
}

/// Some answers as one forward pass takes them.
#[derive(Debug, Clone)]
pub struct KtoBatch {
    answers: Answers,
    labels: Vec<bool>,
    /// Log-probability of each answer under the reference.
    reference: Vec<f32>,
    /// What log-ratios are compared with.
    kl: f64,
}

impl Kto {
    /// Each answer beside the one that stands in for an answer to another prompt, that of the row before it within
    /// blocks of `micro_batch_size` rows: what a reference has to know, `chosen` and `rejected`.
    ///
    /// The other answer is cut to what `max_length` leaves behind the prompt that it is given, as in TRL's collator.
    pub fn pairs(
        rows: &[UnpairedCompletion],
        micro_batch_size: usize,
        max_length: Option<usize>,
    ) -> Vec<PreferencePair> {
        let of_block = |block: &[UnpairedCompletion]| -> Vec<PreferencePair> {
            let before = |index: usize| &block[(index + block.len() - 1) % block.len()];
            let pair = |(index, row): (usize, &UnpairedCompletion)| {
                let other = before(index);
                let room = max_length.map_or(usize::MAX, |max_length| max_length.saturating_sub(row.prompt_ids.len()));
                PreferencePair {
                    prompt_ids: row.prompt_ids.clone(),
                    chosen_ids: row.completion_ids.clone(),
                    rejected_ids: other.completion_ids.iter().chain(&other.cut_ids).copied().take(room).collect(),
                }
            };
            block.iter().enumerate().map(pair).collect()
        };
        rows.chunks(micro_batch_size.max(1)).flat_map(of_block).collect()
    }

    /// Training on `rows`, already cut to `max_length`, the length that the model is to see.
    ///
    /// A precomputed `reference` is of [`Self::pairs`] with the same `micro_batch_size`, the one that training uses,
    /// and the same `max_length`.
    ///
    /// # Errors
    /// If a setting is out of range (all faults in one error), or the reference is of another number of rows.
    pub fn new(
        rows: &[UnpairedCompletion],
        micro_batch_size: usize,
        max_length: Option<usize>,
        config: KtoConfig,
        reference: Reference,
    ) -> Result<Self, TrainError> {
        let mut faults = config.faults_with(micro_batch_size);
        if let Reference::Precomputed(known) = &reference
            && known.len() != rows.len()
        {
            faults.push(format!("the reference knows {} rows, expected {}", known.len(), rows.len()));
        }
        if !faults.is_empty() {
            return Err(TrainError::Config(faults));
        }
        let labels = rows.iter().map(|row| row.label).collect();
        Ok(Self { pairs: Self::pairs(rows, micro_batch_size, max_length), labels, config, reference })
    }

    fn settings(&self) -> UnpairedLossSettings {
        let KtoConfig { loss_type, beta, desirable_weight, undesirable_weight } = self.config;
        UnpairedLossSettings { loss_type, beta, desirable_weight, undesirable_weight }
    }

    /// Log-probabilities under the reference of the rows at `indices`.
    fn reference(&self, indices: &[usize]) -> Vec<ReferenceLogprobs> {
        match &self.reference {
            Reference::Precomputed(known) => indices.iter().map(|index| known[*index]).collect(),
            Reference::Model(model) => {
                let own = answer_logprobs(model, &self.own_answers(indices));
                let other = answer_logprobs(model, &self.other_answers(indices));
                own.into_iter().zip(other).map(|(chosen, rejected)| ReferenceLogprobs { chosen, rejected }).collect()
            }
        }
    }

    fn own_answers(&self, indices: &[usize]) -> Answers {
        let pairs = indices.iter().map(|index| &self.pairs[*index]);
        Answers::new(pairs.map(|pair| (&*pair.prompt_ids, &*pair.chosen_ids)))
    }

    fn other_answers(&self, indices: &[usize]) -> Answers {
        let pairs = indices.iter().map(|index| &self.pairs[*index]);
        Answers::new(pairs.map(|pair| (&*pair.prompt_ids, &*pair.rejected_ids)))
    }

    /// Log-ratio of each answer and its sign, `[answers]` each.
    fn logratios(&self, logprobs: Tensor<1>, batch: &KtoBatch) -> (Tensor<1>, Tensor<1>) {
        let device = logprobs.device().inner();
        let signs: Vec<f32> = batch.labels.iter().map(|good| if *good { 1.0 } else { -1.0 }).collect();
        let reference = Tensor::<1>::from_data(batch.reference.as_slice(), &device);
        (batch.answers.sums(logprobs) - reference, Tensor::from_data(signs.as_slice(), &device))
    }

    /// The batch's part of the step's loss, `[1]`.
    fn loss(&self, logprobs: Tensor<1>, batch: &KtoBatch, num_answers: u64) -> Tensor<1> {
        let (logratios, signs) = self.logratios(logprobs, batch);
        unpaired_losses(logratios, signs, batch.kl, &self.settings()).sum() / num_answers.max(1) as f64
    }
}

/// Log-probability of each answer under `model`.
fn answer_logprobs(model: &Qwen2, answers: &Answers) -> Vec<f32> {
    let logprobs = ModelPass::new(model, Checkpointing::Recompute).forward(&answers.sequences).logprobs;
    answers.sums(logprobs).into_data().try_to_vec().expect("log-probabilities are f32")
}

impl Method for Kto {
    type Batch = KtoBatch;

    fn num_rows(&self) -> usize {
        self.pairs.len()
    }

    fn identity(&self) -> Map<String, Value> {
        let rows = self.pairs.iter().zip(&self.labels).flat_map(|(pair, label)| {
            let parts = [&pair.prompt_ids, &pair.chosen_ids];
            let ids = parts.into_iter().flat_map(|ids| ids.iter().map(|id| *id as i32).chain([-1]));
            ids.chain([i32::from(*label)])
        });
        identity_of("kto", settings_of(&self.config), self.pairs.len(), rows)
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        crate::dpo::check_pairs(&self.pairs, model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<KtoBatch>, TrainError> {
        let batch = |chunk: &[usize]| {
            let reference = self.reference(chunk);
            let kl = if self.config.loss_type == KtoLossType::Kto {
                let other = answer_logprobs(context.model, &self.other_answers(chunk));
                let logratios = other.iter().zip(&reference).map(|(policy, known)| f64::from(policy - known.rejected));
                (logratios.sum::<f64>() / chunk.len() as f64).max(0.0)
            } else {
                0.0
            };
            KtoBatch {
                answers: self.own_answers(chunk),
                labels: chunk.iter().map(|index| self.labels[*index]).collect(),
                reference: reference.iter().map(|known| known.chosen).collect(),
                kl,
            }
        };
        Ok(indices.chunks(context.micro_batch_size).map(batch).collect())
    }

    fn sequences<'a>(&self, batch: &'a KtoBatch) -> &'a Batch {
        &batch.answers.sequences
    }

    fn num_items(&self, batch: &KtoBatch) -> u64 {
        batch.labels.len() as u64
    }

    fn objective<'a>(&'a self, batch: &'a KtoBatch, num_items_in_batch: u64) -> Objective<'a> {
        Objective::Whole(Box::new(move |tokens| {
            let logprobs = tokens.logprobs.clone().autodiff().require_grad();
            let gradients = self.loss(logprobs.clone(), batch, num_items_in_batch).backward();
            logprobs.grad(&gradients).unwrap_or_else(|| tokens.logprobs.zeros_like())
        }))
    }

    fn measure(&self, batch: &KtoBatch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        let answers = &batch.answers;
        let (logratios, _signs) = self.logratios(tokens.logprobs.clone(), batch);
        let host = |values: Tensor<1>| values.into_data().try_to_vec::<f32>().expect("f32");
        let rewards = host(logratios * self.config.beta);
        let logps = host(answers.sums(tokens.logprobs.clone()));
        let logits = host(answers.sums(tokens.mean_logit.clone()));
        let entropy = f64::from(host(tokens.entropy.clone().sum())[0]);
        let loss = f64::from(host(self.loss(tokens.logprobs.clone(), batch, num_items_in_batch))[0]);

        let mut measures = Measures::new(loss).with("kl", batch.kl, 1.0).with(
            "entropy",
            entropy,
            answers.num_tokens(0..batch.labels.len()) as f64,
        );
        let mut mean_rewards = Vec::new();
        for (name, good) in [("chosen", true), ("rejected", false)] {
            let of_kind = |index: &usize| batch.labels[*index] == good;
            let sum = |values: &[f32]| -> f64 {
                (0..values.len()).filter(of_kind).map(|index| f64::from(values[index])).sum()
            };
            let count = batch.labels.iter().filter(|label| **label == good).count() as f64;
            if count == 0.0 {
                continue;
            }
            let num_tokens: usize = (0..rewards.len()).filter(of_kind).map(|index| answers.spans()[index].len()).sum();
            measures = measures
                .with(format!("rewards/{name}"), sum(&rewards), count)
                .with(format!("logps/{name}"), sum(&logps), count)
                .with(format!("logits/{name}"), sum(&logits), num_tokens as f64);
            mean_rewards.push(sum(&rewards) / count);
        }
        match mean_rewards[..] {
            [chosen, rejected] => measures.with("rewards/margins", chosen - rejected, 1.0),
            _ => measures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `DataCollatorForUnpairedPreference` of TRL 1.16 with `max_length=5`: prompt and whole answer end to end, and the
    /// first five ids of them.
    #[test]
    fn an_answer_is_cut_behind_the_prompt_that_it_is_given() {
        let row = |prompt_ids: &[u32], completion_ids: &[u32], cut_ids: &[u32]| UnpairedCompletion {
            prompt_ids: prompt_ids.to_vec(),
            completion_ids: completion_ids.to_vec(),
            cut_ids: cut_ids.to_vec(),
            label: true,
        };
        let rows = [row(&[1, 2, 3], &[4, 5], &[6, 7]), row(&[8], &[9, 10, 11, 12], &[])];
        let others =
            |max_length| Kto::pairs(&rows, 2, max_length).into_iter().map(|pair| pair.rejected_ids).collect::<Vec<_>>();
        assert_eq!(others(Some(5)), [vec![9, 10], vec![4, 5, 6, 7]]);
        assert_eq!(others(None), [vec![9, 10, 11, 12], vec![4, 5, 6, 7]]);
    }
}
