//! The gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202, equation 5).

#[cfg(feature = "cube")]
mod cube;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, activation};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::choice::runs_fused;
use crate::kernel::{Kernel, tracked};
use crate::matrix::{into_dense, numbers, tensor_of};
use crate::vector;

/// Elements that one task handles: three arrays of it fill a level-2 cache.
const CHUNK: usize = 32 * 1024;

/// `silu(gate) · up`.
///
/// The backward pass computes the sigmoid again and stores nothing but its inputs.
///
/// # Shapes
/// - `gate`, `up`: `[tokens, intermediate]`
/// - returns: `[tokens, intermediate]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !runs_fused(&gate) {
        return reference(gate, up);
    }
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait SwigluOps: Backend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// What [`Kernel`]s of the operation are for.
#[derive(Debug)]
pub(crate) struct Swiglu;

impl<B: Backend> SwigluOps for B
where
    Swiglu: Kernel<B, 2>,
{
    fn swiglu(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        Swiglu.forward([gate, up]).0
    }
}

impl<B: Backend, C: CheckpointStrategy> SwigluOps for Autodiff<B, C>
where
    Swiglu: Kernel<B, 2>,
{
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, _, C, 2>(Swiglu, [gate, up])
    }
}

impl Kernel<Flex, 2> for Swiglu {
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let saved @ [gate, up] = &inputs.map(into_dense);
        (forward(gate, up), saved.clone())
    }

    fn backward(&self, [gate, up]: Self::Saved, grad: FlexTensor) -> [Option<FlexTensor>; 2] {
        backward(gate, up, &grad.to_contiguous()).map(Some)
    }
}

fn forward(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let shape = gate.layout().shape().clone();
    assert_eq!(shape, *up.layout().shape(), "swiglu: gate and up differ in shape");
    let mut out = vec![0.0; shape.num_elements()];
    out.par_chunks_mut(CHUNK)
        .zip(numbers(gate).par_chunks(CHUNK))
        .zip(numbers(up).par_chunks(CHUNK))
        .for_each(|((out, gate), up)| vector::silu_product(out, gate, up));
    tensor_of(out, shape)
}

/// The gradients take the place of the inputs, which are the largest of a block's activations.
fn backward(mut gate: FlexTensor, mut up: FlexTensor, grad: &FlexTensor) -> [FlexTensor; 2] {
    gate.storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(up.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(numbers(grad).par_chunks(CHUNK))
        .for_each(|((gate, up), grad)| vector::silu_product_backward(gate, up, grad));
    [gate, up]
}
