//! The kernel in CubeCL: tokens sorted by their id, and one unit per id and column.

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use crate::cube::{dense, elementwise, owned, size, sizes, upload};

/// In place where nothing else holds `gradient`.
pub(super) fn backward(gradient: Tensor<2>, input_ids: &[i32], rows: Tensor<2>) -> Tensor<2> {
    let (gradient, rows) = (owned(dense(gradient)), dense(rows.cast(DType::F32)));
    let [vocab_size, width] = sizes(&gradient);
    let segments = Segments::new(input_ids, vocab_size);
    let count = segments.ids.len() * width;
    if count > 0 {
        let (cubes, dim) = elementwise(&gradient.client, count);
        add_segments::launch(
            &gradient.client,
            cubes,
            dim,
            gradient.clone().into_buffer_arg(),
            rows.into_buffer_arg(),
            upload(&gradient, &segments.tokens).into_buffer_arg(),
            upload(&gradient, &segments.ids).into_buffer_arg(),
            upload(&gradient, &segments.starts).into_buffer_arg(),
            size(count),
            size(width),
        );
    }
    Tensor::from_primitive::<CubeBackend>(gradient)
}

/// Tokens by id, those of one id in their order.
struct Segments {
    tokens: Vec<u32>,
    /// Ascending, each once.
    ids: Vec<u32>,
    /// Where the tokens of each id begin, and the end of the last.
    starts: Vec<u32>,
}

impl Segments {
    fn new(input_ids: &[i32], vocab_size: usize) -> Self {
        let id = |token: &u32| {
            let id = input_ids[*token as usize];
            match usize::try_from(id) {
                Ok(row) if row < vocab_size => row as u32,
                _ => panic!("token id {id} is outside the vocabulary of {vocab_size}"),
            }
        };
        let mut tokens: Vec<u32> = (0..size(input_ids.len())).collect();
        tokens.sort_by_key(id); // stable
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        for (index, token) in tokens.iter().enumerate() {
            if ids.last() != Some(&id(token)) {
                ids.push(id(token));
                starts.push(index as u32);
            }
        }
        starts.push(tokens.len() as u32);
        Self { tokens, ids, starts }
    }
}

#[cube(launch)]
fn add_segments(
    gradient: &mut [f32],
    rows: &[f32],
    tokens: &[u32],
    ids: &[u32],
    starts: &[u32],
    count: u32,
    width: u32,
) {
    if ABSOLUTE_POS < count as usize {
        let width = width as usize;
        let segment = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let mut sum = 0.0f32;
        for index in starts[segment]..starts[segment + 1] {
            sum += rows[tokens[index as usize] as usize * width + column];
        }
        gradient[ids[segment] as usize * width + column] += sum;
    }
}
