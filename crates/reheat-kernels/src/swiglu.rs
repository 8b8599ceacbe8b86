//! The gate of a SwiGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202, equation 5).

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, activation};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::matrix::{numbers, tensor_of};
use crate::{runs_fused, vector};

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

#[backend_extension(Flex, Autodiff)]
pub(crate) trait SwigluOps: Backend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SwigluOps for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        forward(&gate.to_contiguous(), &up.to_contiguous())
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

#[derive(Debug)]
struct SwigluBackward;

impl Backward<Flex, 2> for SwigluBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (gate, up) = ops.state;
        let shape = gate.layout().shape().clone();
        let (mut d_gate, mut d_up) = (vec![0.0; shape.num_elements()], vec![0.0; shape.num_elements()]);
        d_gate
            .par_chunks_mut(CHUNK)
            .zip(d_up.par_chunks_mut(CHUNK))
            .zip(numbers(&gate).par_chunks(CHUNK))
            .zip(numbers(&up).par_chunks(CHUNK))
            .zip(numbers(&grad).par_chunks(CHUNK))
            .for_each(|((((d_gate, d_up), gate), up), grad)| {
                vector::silu_product_backward(d_gate, d_up, gate, up, grad);
            });
        let [gate_node, up_node] = ops.parents;
        if let Some(node) = gate_node {
            grads.register::<Flex>(node.id, tensor_of(d_gate, shape.clone()));
        }
        if let Some(node) = up_node {
            grads.register::<Flex>(node.id, tensor_of(d_up, shape));
        }
    }
}

impl<C: CheckpointStrategy> SwigluOps for Autodiff<Flex, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let (gate, up) = (gate.into_primitive().to_contiguous(), up.into_primitive().to_contiguous());
        let out = forward(&gate, &up);
        match SwigluBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
