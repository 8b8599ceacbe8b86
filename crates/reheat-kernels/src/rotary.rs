//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split form of Hugging Face's Qwen2.

#[cfg(feature = "cube")]
mod cube;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor, TensorData};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::choice::runs_fused;
use crate::kernel::{Kernel, tracked};
use crate::matrix::{numbers, tensor_of};
use crate::vector;

/// Tokens that one task handles.
const TOKENS: usize = 32;

/// Cosines and sines of the angles of a run of tokens, computed once per batch and used by every layer.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor<2>, // [tokens, head_dim / 2]
    sin: Tensor<2>, // [tokens, head_dim / 2]
}

impl RotaryTable {
    /// The table for tokens at `positions`, with angles `position · theta^(-2i/head_dim)`.
    ///
    /// Frequencies and angles are f32, as in transformers 5.23 (`modeling_rope_utils.py`).
    pub fn new(positions: &[usize], head_dim: usize, theta: f64, device: &Device) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            // PyTorch raises an f32 base to an f32 power.
            .map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32))
            .collect();
        let angles = positions.iter().flat_map(|&position| frequencies.iter().map(move |f| position as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        let shape = [positions.len(), half];
        Self {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
        }
    }
}

/// Rotates every head of every token: halves `(x1, x2)` become `(x1·cos - x2·sin, x2·cos + x1·sin)`.
///
/// # Shapes
/// - `x`: `[tokens, num_heads * head_dim]`
/// - `table`: made for the same tokens and `head_dim`
/// - returns: as `x`
pub fn rotary(x: Tensor<2>, table: &RotaryTable) -> Tensor<2> {
    if !runs_fused(&x) {
        return reference(x, table);
    }
    let (cos, sin) = (table.cos.clone().into_dispatch(), table.sin.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::rotary(x.into_dispatch(), cos, sin))
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(x: Tensor<2>, table: &RotaryTable) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let [_tokens, half] = table.cos.dims();
    let num_heads = width / (2 * half);
    let dtype = x.dtype();
    let cos = table.cos.clone().cast(dtype).reshape([tokens, 1, half]);
    let sin = table.sin.clone().cast(dtype).reshape([tokens, 1, half]);
    let x = x.reshape([tokens, num_heads, 2 * half]);
    let x1 = x.clone().narrow(2, 0, half);
    let x2 = x.narrow(2, half, half);
    let first = x1.clone() * cos.clone() - x2.clone() * sin.clone();
    let second = x2 * cos + x1 * sin;
    Tensor::cat(vec![first, second], 2).reshape([tokens, width])
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait RotaryOps: Backend {
    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// What [`Kernel`]s of the operation are for. The table is constant.
#[derive(Debug)]
pub(crate) struct Rotary;

impl<B: Backend> RotaryOps for B
where
    Rotary: Kernel<B, 3>,
{
    fn rotary(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        Rotary.forward([x, cos, sin]).0
    }
}

impl<B: Backend, C: CheckpointStrategy> RotaryOps for Autodiff<B, C>
where
    Rotary: Kernel<B, 3>,
{
    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, _, C, 3>(Rotary, [x, cos, sin])
    }
}

/// The gradient of a rotation is the rotation back.
#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Back,
}

impl Direction {
    /// Factor on the sines.
    fn sign(self) -> f32 {
        match self {
            Self::Forward => 1.0,
            Self::Back => -1.0,
        }
    }
}

impl Kernel<Flex, 3> for Rotary {
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let [x, cos, sin] = inputs.map(|input| input.to_contiguous());
        (rotate(&x, &cos, &sin, Direction::Forward), [cos, sin])
    }

    fn backward(&self, [cos, sin]: Self::Saved, grad: FlexTensor) -> [Option<FlexTensor>; 3] {
        [Some(rotate(&grad.to_contiguous(), &cos, &sin, Direction::Back)), None, None]
    }
}

fn rotate(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor, direction: Direction) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let (tokens, width) = (shape[0], shape[1]);
    let half = cos.layout().shape()[1];
    assert_eq!(cos.layout().shape()[0], tokens, "rotary: the table was made for another number of tokens");
    assert_eq!(width % (2 * half), 0, "rotary: the width is not a multiple of the head size");
    let sign = direction.sign();
    let mut out = vec![0.0; tokens * width];
    out.par_chunks_mut(TOKENS * width)
        .zip(numbers(x).par_chunks(TOKENS * width))
        .zip(numbers(cos).par_chunks(TOKENS * half))
        .zip(numbers(sin).par_chunks(TOKENS * half))
        .for_each(|(((out, x), cos), sin)| {
            let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
            for ((out, x), (cos, sin)) in rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
                for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                    vector::rotate(out, x, cos, sin, sign);
                }
            }
        });
    tensor_of(out, shape)
}
