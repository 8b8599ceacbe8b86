//! Reward models on the shared loop.

use burn::tensor::{Device, Int, Tensor};
use reheat_data::{Batch, IGNORE_INDEX, RewardPair};
use reheat_kernels::TokenLogprobs;
use reheat_model::{HeadKind, Qwen2Config};
use serde_json::{Map, Value};

use super::{RewardConfig, ranking_losses};
use crate::method::{identity_of, settings_of};
use crate::{Measures, Method, Objective, StepContext, TrainError};

/// Training of a reward model on tokenised pairs.
#[derive(Debug)]
pub struct RewardTraining {
    pairs: Vec<RewardPair>,
    config: RewardConfig,
}

/// Some pairs as one forward pass takes them: all better answers, then all worse ones.
#[derive(Debug, Clone)]
pub struct RewardBatch {
    sequences: Batch,
    margins: Vec<f32>,
}

impl RewardTraining {
    /// Training on `pairs`, already cut to the length that the model is to see.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(pairs: Vec<RewardPair>, config: RewardConfig) -> Result<Self, TrainError> {
        let faults = config.faults();
        if faults.is_empty() { Ok(Self { pairs, config }) } else { Err(TrainError::Config(faults)) }
    }

    /// The batch's part of the step's loss, `[1]`, given its scores at every token, `[tokens]`.
    fn loss(&self, scores: Tensor<1>, batch: &RewardBatch, num_pairs: u64) -> Tensor<1> {
        let margins = Tensor::from_data(batch.margins.as_slice(), &scores.device().inner());
        let (chosen, rejected) = batch.scores(scores);
        let centering = self.config.center_rewards_coefficient.unwrap_or_default();
        ranking_losses(chosen, rejected, margins, centering).sum() / num_pairs.max(1) as f64
    }
}

impl RewardBatch {
    fn new<'a>(pairs: impl Iterator<Item = &'a RewardPair> + Clone) -> Self {
        let mut sequences = Batch::default();
        let chosen = pairs.clone().map(|pair| &pair.chosen_ids);
        for ids in chosen.chain(pairs.clone().map(|pair| &pair.rejected_ids)) {
            sequences.input_ids.extend(ids.iter().map(|id| *id as i32));
            // The score is read at the last token.
            sequences.labels.extend(std::iter::repeat_n(IGNORE_INDEX, ids.len() - 1).chain([0]));
            sequences.seq_lens.push(ids.len());
        }
        Self { sequences, margins: pairs.map(|pair| pair.margin.unwrap_or_default()).collect() }
    }

    /// Positions of the last tokens, `[2 * pairs]`.
    fn ends(&self, device: &Device) -> Tensor<1, Int> {
        let labels = self.sequences.labels.iter().enumerate();
        let ends: Vec<i32> =
            labels.filter(|(_, label)| **label != IGNORE_INDEX).map(|(index, _)| index as i32).collect();
        Tensor::from_data(ends.as_slice(), device)
    }

    /// Scores of the better and the worse answers, `[pairs]` each, of those at every token.
    fn scores(&self, scores: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
        let num_pairs = self.margins.len();
        let ends = self.ends(&scores.device().inner());
        let scores = scores.select(0, ends); // [2 * pairs]
        (scores.clone().narrow(0, 0, num_pairs), scores.narrow(0, num_pairs, num_pairs))
    }
}

impl Method for RewardTraining {
    type Batch = RewardBatch;

    fn num_rows(&self) -> usize {
        self.pairs.len()
    }

    fn identity(&self) -> Map<String, Value> {
        let rows = self.pairs.iter().flat_map(|pair| {
            let parts = [&pair.chosen_ids, &pair.rejected_ids];
            let ids = parts.into_iter().flat_map(|ids| ids.iter().map(|id| *id as i32).chain([-1]));
            ids.chain([pair.margin.map_or(-1, |margin| margin.to_bits().cast_signed())])
        });
        identity_of("reward", settings_of(&self.config), self.pairs.len(), rows)
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        if model.head != HeadKind::Score {
            return Err(TrainError::Config(vec!["the model has no head for scores (`Qwen2::with_score_head`)".into()]));
        }
        if self.pairs.is_empty() {
            return Err(TrainError::EmptyDataset);
        }
        let vocab_size = model.vocab_size;
        for (index, pair) in self.pairs.iter().enumerate() {
            if pair.chosen_ids.is_empty() || pair.rejected_ids.is_empty() {
                return Err(TrainError::EmptyAnswer { index });
            }
            let mut ids = pair.chosen_ids.iter().chain(&pair.rejected_ids);
            if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
                return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
            }
        }
        Ok(())
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<RewardBatch>, TrainError> {
        let batch = |chunk: &[usize]| RewardBatch::new(chunk.iter().map(|index| &self.pairs[*index]));
        Ok(indices.chunks(context.micro_batch_size).map(batch).collect())
    }

    fn sequences<'a>(&self, batch: &'a RewardBatch) -> &'a Batch {
        &batch.sequences
    }

    fn num_items(&self, batch: &RewardBatch) -> u64 {
        batch.margins.len() as u64
    }

    fn objective<'a>(&'a self, batch: &'a RewardBatch, num_items_in_batch: u64) -> Objective<'a> {
        Objective::Scores(Box::new(move |scores| {
            let scores = scores.clone().autodiff().require_grad();
            let gradients = self.loss(scores.clone(), batch, num_items_in_batch).backward();
            scores.grad(&gradients).unwrap_or_else(|| scores.inner().zeros_like())
        }))
    }

    fn measure(&self, batch: &RewardBatch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        let loss = self.loss(tokens.mean_logit.clone(), batch, num_items_in_batch);
        let host = |values: Tensor<1>| values.into_data().try_to_vec::<f32>().expect("scores are f32");
        let loss = f64::from(host(loss)[0]);
        let (chosen, rejected) = batch.scores(tokens.mean_logit.clone());
        let (chosen, rejected) = (host(chosen), host(rejected));
        let all = || chosen.iter().chain(&rejected).map(|score| f64::from(*score));
        let pairs = || chosen.iter().zip(&rejected);
        let num_pairs = chosen.len() as f64;
        let accuracy = pairs().filter(|(chosen, rejected)| chosen > rejected).count() as f64;
        let margin: f64 = pairs().map(|(chosen, rejected)| f64::from(chosen - rejected)).sum();
        Measures::new(loss)
            // Of each micro-batch, as TRL.
            .with("min_reward", all().fold(f64::INFINITY, f64::min), 1.0)
            .with("mean_reward", all().sum(), 2.0 * num_pairs)
            .with("max_reward", all().fold(f64::NEG_INFINITY, f64::max), 1.0)
            .with("accuracy", accuracy, num_pairs)
            .with("margin", margin, num_pairs)
    }
}
