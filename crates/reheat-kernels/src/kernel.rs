//! One reverse pass for the kernels of every backend.

use std::fmt::Debug;

use burn::backend::{Backend, tensor::FloatTensor};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

/// A differentiable operation on `N` tensors, as one backend computes it. `self` holds its other arguments.
pub(crate) trait Kernel<B: Backend, const N: usize>: Debug + Send + Sized + 'static {
    /// What the backward pass reads: inputs, and what it would be dear to compute again.
    type Saved: Debug + Clone + Send + 'static;

    fn forward(&self, inputs: [FloatTensor<B>; N]) -> (FloatTensor<B>, Self::Saved);

    /// Gradients of the inputs; `None` for what is a constant by its nature, as a table is.
    fn backward(&self, saved: Self::Saved, grad: FloatTensor<B>) -> [Option<FloatTensor<B>>; N];
}

/// Runs the forward pass and notes the backward pass in the graph, if an input is in it.
pub(crate) fn tracked<B, K, C, const N: usize>(
    kernel: K,
    inputs: [FloatTensor<Autodiff<B, C>>; N],
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    K: Kernel<B, N>,
    C: CheckpointStrategy,
{
    let nodes = inputs.each_ref().map(|input| input.node());
    let (output, saved) = kernel.forward(inputs.map(|input| input.into_primitive()));
    match Reverse(kernel).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

#[derive(Debug)]
struct Reverse<K>(K);

impl<B: Backend, K: Kernel<B, N>, const N: usize> Backward<B, N> for Reverse<K> {
    type State = K::Saved;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let gradients = self.0.backward(ops.state, grad);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}
