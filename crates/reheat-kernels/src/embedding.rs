//! Gradient of a token embedding, added in place into a gradient that may already hold the tied head's.

use burn::backend::Flex;
use burn::tensor::{Int, Tensor, TensorData};

use crate::matrix::{dense, numbers};
use crate::{runs_fused, vector};

/// `gradient[id] += rows` for each token.
///
/// Rows of one id are added in token order, so the sum does not depend on the number of threads.
///
/// # Shapes
/// - `gradient`: `[vocabulary, hidden]`
/// - `rows`: `[tokens, hidden]`, one for each of `input_ids`
/// - returns: `[vocabulary, hidden]`
///
/// # Panics
/// If an id is outside the vocabulary or counts differ.
pub fn embedding_backward(gradient: Tensor<2>, input_ids: &[i32], rows: Tensor<2>) -> Tensor<2> {
    let ([vocab_size, width], [tokens, _]) = (gradient.dims(), rows.dims());
    assert_eq!(tokens, input_ids.len(), "one row per token");
    if !runs_fused(&gradient) {
        let index = Tensor::<1, Int>::from_data(TensorData::from(input_ids), &gradient.device());
        return gradient.select_assign(0, index, rows, burn::tensor::IndexingUpdateOp::Add);
    }
    let (mut gradient, rows) = (dense(gradient), dense(rows));
    let sum = gradient.storage_mut::<f32>();
    for (id, row) in input_ids.iter().zip(numbers(&rows).chunks_exact(width)) {
        let id = usize::try_from(*id).expect("token ids are not negative");
        assert!(id < vocab_size, "token id {id} is outside the vocabulary of {vocab_size}");
        vector::add_scaled(&mut sum[id * width..][..width], row, 1.0);
    }
    Tensor::from_primitive::<Flex>(gradient)
}
