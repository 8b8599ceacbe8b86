//! Supervised fine-tuning on the shared loop.

use burn::tensor::Tensor;
use reheat_data::{Batch, Sequence};
use reheat_kernels::TokenLogprobs;
use reheat_model::Qwen2Config;
use serde_json::{Map, Value};

use super::{LossType, SftConfig, loss};
use crate::method::{identity_of, settings_of};
use crate::{Measures, Method, Objective, StepContext, TokenGradient, TrainError};

/// Supervised fine-tuning on tokenised sequences.
#[derive(Debug)]
pub struct Sft {
    sequences: Vec<Sequence>,
    config: SftConfig,
}

impl Sft {
    /// Sequences without a trained token are part of the order but weigh nothing.
    pub fn new(sequences: Vec<Sequence>, config: SftConfig) -> Self {
        Self { sequences, config }
    }
}

impl Method for Sft {
    type Batch = Batch;

    fn num_rows(&self) -> usize {
        self.sequences.len()
    }

    fn identity(&self) -> Map<String, Value> {
        let rows = self.sequences.iter().flat_map(|sequence| {
            let ids = sequence.input_ids.iter().map(|id| *id as i32);
            let lengths = sequence.seq_lens.iter().map(|len| *len as i32);
            ids.chain(sequence.labels()).chain(lengths).chain([sequence.input_ids.len() as i32])
        });
        identity_of("sft", settings_of(&self.config), self.sequences.len(), rows)
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        if self.sequences.iter().all(|sequence| sequence.num_items() == 0) {
            return Err(TrainError::EmptyDataset);
        }
        let vocab_size = model.vocab_size;
        for (index, sequence) in self.sequences.iter().enumerate() {
            if let Some(&id) = sequence.input_ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
            }
        }
        Ok(())
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<Batch>, TrainError> {
        let batch = |chunk: &[usize]| Batch::from_sequences(chunk.iter().map(|index| &self.sequences[*index]));
        Ok(indices.chunks(context.micro_batch_size).map(batch).collect())
    }

    fn sequences<'a>(&self, batch: &'a Batch) -> &'a Batch {
        batch
    }

    fn num_items(&self, batch: &Batch) -> u64 {
        batch.num_items() as u64
    }

    fn objective<'a>(&'a self, _batch: &'a Batch, num_items_in_batch: u64) -> Objective<'a> {
        let SftConfig { loss_type, label_smoothing_factor: label_smoothing } = self.config;
        let gradient: Box<TokenGradient> =
            Box::new(move |_positions, logprobs| loss::gradient(loss_type, logprobs, num_items_in_batch));
        if label_smoothing > 0.0 {
            Objective::Smoothed { label_smoothing, gradient }
        } else {
            Objective::PerToken(gradient)
        }
    }

    fn perplexity(&self, loss: f64) -> Option<f64> {
        let is_likelihood = self.config.loss_type == LossType::Nll && self.config.label_smoothing_factor == 0.0;
        is_likelihood.then(|| loss.exp())
    }

    fn measure(&self, batch: &Batch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        let logprobs = match self.config.label_smoothing_factor {
            0.0 => tokens.logprobs.clone(),
            smoothing => loss::smoothed(tokens.logprobs.clone(), tokens.mean_logprob.clone(), smoothing),
        };
        let sums = [
            loss::token_losses(self.config.loss_type, logprobs).sum(),
            tokens.entropy.clone().sum(),
            tokens.is_top1.clone().sum(),
        ];
        // Read back from the device once.
        let sums = Tensor::cat(sums.to_vec(), 0).into_data().try_to_vec::<f32>().expect("sums are f32");
        let [loss, entropy, hits] = [sums[0], sums[1], sums[2]].map(f64::from);
        let num_items = batch.num_items() as f64;
        Measures::new(loss / num_items_in_batch.max(1) as f64).with("entropy", entropy, num_items).with(
            "mean_token_accuracy",
            hits,
            num_items,
        )
    }
}
