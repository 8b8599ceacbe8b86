//! Gradient of a token embedding, added in place into a gradient that may already hold the tied head's.

#[cfg(feature = "cube")]
mod cube;

use std::collections::BTreeMap;

use burn::backend::Flex;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use half::bf16;

use crate::choice::on_cpu;
#[cfg(feature = "cube")]
use crate::choice::runs_on_cube;
use crate::matrix::{dense, numbers};
use crate::vector;

/// `gradient[id] += rows` for each token.
///
/// Rows of one id are added in token order, so the sum does not depend on the number of threads.
///
/// # Shapes
/// - `gradient`: `[vocabulary, hidden]`, f32 or bf16
/// - `rows`: `[tokens, hidden]`, one for each of `input_ids`
/// - returns: `[vocabulary, hidden]`
///
/// # Panics
/// If an id is outside the vocabulary or counts differ.
pub fn embedding_backward(gradient: Tensor<2>, input_ids: &[i32], rows: Tensor<2>) -> Tensor<2> {
    let ([vocab_size, width], [tokens, _]) = (gradient.dims(), rows.dims());
    assert_eq!(tokens, input_ids.len(), "one row per token");
    #[cfg(feature = "cube")]
    if runs_on_cube(&gradient) {
        return cube::backward(gradient, input_ids, rows);
    }
    if !on_cpu(&gradient) {
        return reference(gradient, input_ids, rows);
    }
    let (mut gradient, rows) = (dense(gradient), dense(rows));
    let range = |id: &i32| {
        let id = usize::try_from(*id).expect("token ids are not negative");
        assert!(id < vocab_size, "token id {id} is outside the vocabulary of {vocab_size}");
        id * width..(id + 1) * width
    };
    let rows = input_ids.iter().map(range).zip(numbers(&rows).chunks_exact(width));
    match gradient.dtype() {
        DType::BF16 => {
            // Rows of one id are summed before their sum is rounded.
            let mut sums = BTreeMap::<usize, Vec<f32>>::new();
            for (range, row) in rows {
                let sum = sums.entry(range.start).or_insert_with(|| vec![0.0; width]);
                vector::add_scaled(sum, row, 1.0);
            }
            let gradient = gradient.storage_mut::<bf16>();
            for (start, sum) in sums {
                vector::add_rounded(&mut gradient[start..start + width], &sum);
            }
        }
        _ => {
            let sum = gradient.storage_mut::<f32>();
            rows.for_each(|(range, row)| vector::add_scaled(&mut sum[range], row, 1.0));
        }
    }
    Tensor::from_primitive::<Flex>(gradient)
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(gradient: Tensor<2>, input_ids: &[i32], rows: Tensor<2>) -> Tensor<2> {
    let index = Tensor::<1, Int>::from_data(TensorData::from(input_ids), &gradient.device());
    let rows = rows.cast(gradient.dtype());
    gradient.select_assign(0, index, rows, IndexingUpdateOp::Add)
}
