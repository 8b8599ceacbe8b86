//! A loss: maximum likelihood, with a weight for each row.
//!
//! One step minimises `-Σ_i w_i Σ_t log p(y_t) / Σ_i w_i n_i`, with `n_i` the tokens that row `i` has to predict.

use burn::tensor::{Tensor, TensorData};
use reheat_data::Batch;
use reheat_kernels::TokenLogprobs;
use reheat_model::Qwen2Config;
use reheat_train::{Measures, Method, Objective, StepContext, TrainError, hash_of};
use serde_json::{Map, Value, json};

use crate::format::WeightedRow;

/// Weights are counted in thousandths: the loop adds whole numbers, whose sum does not depend on their order.
const UNITS: f64 = 1000.0;

/// Weighted fine-tuning.
pub struct WeightedSft {
    rows: Vec<WeightedRow>,
}

/// One micro-batch: the sequences, and the weight of every token.
pub struct WeightedBatch {
    sequences: Batch,
    weights: Vec<f32>,
}

impl WeightedSft {
    /// Fine-tuning on these rows.
    pub fn new(rows: Vec<WeightedRow>) -> Self {
        Self { rows }
    }
}

impl Method for WeightedSft {
    type Batch = WeightedBatch;

    fn num_rows(&self) -> usize {
        self.rows.len()
    }

    fn identity(&self) -> Map<String, Value> {
        let numbers = self.rows.iter().flat_map(|row| {
            let ids = row.sequence.input_ids.iter().map(|id| *id as i32);
            ids.chain([(row.weight * UNITS) as i32, -1])
        });
        let Value::Object(identity) = json!({ "method": "weighted_sft", "rows_sha256": hash_of(numbers) }) else {
            unreachable!("an object literal")
        };
        identity
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        let vocab_size = model.vocab_size;
        for (index, row) in self.rows.iter().enumerate() {
            if let Some(&id) = row.sequence.input_ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
            }
        }
        if self.rows.iter().all(|row| row.sequence.num_items() == 0) { Err(TrainError::EmptyDataset) } else { Ok(()) }
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<WeightedBatch>, TrainError> {
        let batch = |indices: &[usize]| {
            let rows = || indices.iter().map(|index| &self.rows[*index]);
            let of_row = |row: &WeightedRow| vec![row.weight as f32; row.sequence.input_ids.len()];
            WeightedBatch {
                sequences: Batch::from_sequences(rows().map(|row| &row.sequence)),
                weights: rows().flat_map(of_row).collect(),
            }
        };
        Ok(indices.chunks(context.micro_batch_size).map(batch).collect())
    }

    fn sequences<'a>(&self, batch: &'a WeightedBatch) -> &'a Batch {
        &batch.sequences
    }

    fn num_items(&self, batch: &WeightedBatch) -> u64 {
        (batch.total_weight() * UNITS).round() as u64
    }

    fn objective<'a>(&'a self, batch: &'a WeightedBatch, num_items_in_batch: u64) -> Objective<'a> {
        let scale = -UNITS / num_items_in_batch as f64;
        Objective::PerToken(Box::new(move |positions, logprobs| {
            let weights: Vec<f32> = positions.iter().map(|position| batch.weights[*position]).collect();
            Tensor::from_data(TensorData::from(weights.as_slice()), &logprobs.device()) * scale
        }))
    }

    fn measure(&self, batch: &WeightedBatch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        let logprobs = tokens.logprobs.clone().into_data().try_to_vec::<f32>().expect("log-probabilities are f32");
        // 0 where there is no label.
        let loss: f64 = logprobs.iter().zip(&batch.weights).map(|(logprob, weight)| -f64::from(logprob * weight)).sum();
        let rows = batch.sequences.seq_lens.len() as f64;
        Measures::new(loss * UNITS / num_items_in_batch as f64)
            .with("mean_weight", batch.total_weight(), batch.sequences.num_items() as f64)
            .with("rows", rows, 1.0)
    }
}

impl WeightedBatch {
    /// Weights of the tokens that have something to predict.
    fn total_weight(&self) -> f64 {
        let labels = self.sequences.labels.iter().zip(&self.weights);
        labels.filter(|(label, _)| **label >= 0).map(|(_, weight)| f64::from(*weight)).sum()
    }
}
