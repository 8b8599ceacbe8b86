//! Sequences to batches.

use burn::tensor::Device;
use burn_core::data::dataloader::batcher::Batcher;
use reheat_data::Sequence;
use reheat_model::TokenBatch;

/// Puts sequences side by side, filled up to the longest.
#[derive(Debug, Clone, Copy)]
pub struct SequenceBatcher;

impl Batcher<Sequence, TokenBatch> for SequenceBatcher {
    fn batch(&self, sequences: Vec<Sequence>, device: &Device) -> TokenBatch {
        let labels: Vec<Vec<i32>> = sequences.iter().map(Sequence::labels).collect();
        let ids = sequences.iter().map(|sequence| sequence.input_ids.as_slice());
        TokenBatch::new(ids.zip(labels.iter().map(Vec::as_slice)), device)
    }
}
