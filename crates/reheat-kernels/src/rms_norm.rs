//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4).

#[cfg(feature = "cube")]
mod cube;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::choice::runs_fused;
use crate::kernel::{Kernel, tracked};
use crate::matrix::{numbers, tensor_of};
use crate::vector;

/// Rows that one task handles. The gradient of the weight is summed per task and then in task order,
/// so the result does not depend on the number of threads.
const ROWS: usize = 32;

/// `x / sqrt(mean(x²) + epsilon) · weight`, row by row.
///
/// The mean is taken in f32. The backward pass computes it again and stores nothing but its inputs.
///
/// # Shapes
/// - `x`: `[rows, width]`
/// - `weight`: `[width]`
/// - returns: `[rows, width]`
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    if !runs_fused(&x) {
        return reference(x, weight, epsilon);
    }
    // The extension takes the scalar in f32, the type it computes in.
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon as f32))
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = x.clone().square().mean_dim(1);
    let normalised = x / (mean_square + epsilon).sqrt();
    normalised.cast(dtype) * weight.unsqueeze::<2>()
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait RmsNormOps: Backend {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

/// What [`Kernel`]s of the operation are for.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    epsilon: f32,
}

impl<B: Backend> RmsNormOps for B
where
    RmsNorm: Kernel<B, 2>,
{
    fn rms_norm(x: FloatTensor<B>, weight: FloatTensor<B>, epsilon: f32) -> FloatTensor<B> {
        RmsNorm { epsilon }.forward([x, weight]).0
    }
}

impl<B: Backend, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C>
where
    RmsNorm: Kernel<B, 2>,
{
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        tracked::<B, _, C, 2>(RmsNorm { epsilon }, [x, weight])
    }
}

impl Kernel<Flex, 2> for RmsNorm {
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let saved @ [x, weight] = &inputs.map(|input| input.to_contiguous());
        (forward(x, weight, self.epsilon), saved.clone())
    }

    fn backward(&self, [x, weight]: Self::Saved, grad: FlexTensor) -> [Option<FlexTensor>; 2] {
        let (dx, dw) = backward(&x, &weight, &grad.to_contiguous(), self.epsilon);
        [Some(dx), Some(dw)]
    }
}

#[inline]
fn inverse_rms(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (vector::dot(row, row) / row.len() as f32 + epsilon).sqrt()
}

fn forward(x: &FlexTensor, weight: &FlexTensor, epsilon: f32) -> FlexTensor {
    let shape = x.layout().shape().clone();
    let width = shape[1];
    assert_eq!(weight.layout().shape()[0], width, "rms_norm: weight and x differ in width");
    let weight = numbers(weight);
    let mut out = vec![0.0; shape.num_elements()];
    out.par_chunks_mut(ROWS * width).zip(numbers(x).par_chunks(ROWS * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            vector::scaled_product(out, x, weight, inverse_rms(x, epsilon));
        }
    });
    tensor_of(out, shape)
}

/// With `r = 1/rms`: `dx = r·(g·w) - x·r³·Σ(g·w·x)/width` and `dw = Σ_rows g·x·r`.
fn backward(x: &FlexTensor, weight: &FlexTensor, grad: &FlexTensor, epsilon: f32) -> (FlexTensor, FlexTensor) {
    let shape = x.layout().shape().clone();
    let width = shape[1];
    let ws = numbers(weight);
    let mut dx = vec![0.0; shape.num_elements()];
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS * width)
        .zip(numbers(x).par_chunks(ROWS * width))
        .zip(numbers(grad).par_chunks(ROWS * width))
        .map(|((dx, x), grad)| {
            let mut dw = vec![0.0; width];
            for ((dx, x), g) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width)) {
                let r = inverse_rms(x, epsilon);
                let projection = vector::dot3(g, ws, x) * r * r * r / width as f32;
                vector::scaled_product(dx, g, ws, r);
                vector::add_scaled(dx, x, -projection);
                vector::add_scaled_product(&mut dw, g, x, r);
            }
            dw
        })
        .collect();
    let mut dw = vec![0.0; width];
    for part in &partial {
        vector::add_scaled(&mut dw, part, 1.0);
    }
    (tensor_of(dx, shape), tensor_of(dw, [width]))
}
