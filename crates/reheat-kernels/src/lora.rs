//! The low-rank update of a dense layer (Hu et al. 2021, LoRA, arXiv:2106.09685, equation 3).

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::FlexTensor;

use crate::choice::runs_on_cpu;
use crate::matrix::{Compute, Matrix, Plan, Threads, Write, into_dense, numbers, product, product_of, tensor_of};
use crate::{Dropout, vector};

/// How the factors of a low-rank update meet the layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraUpdate {
    /// Factor on the update: `alpha / rank` in the paper.
    pub scale: f64,
    /// On the input of the update, while training.
    pub dropout: Option<Dropout>,
}

/// `y + scale · (dropout(x) · aᵀ) · bᵀ`: what a layer gave, with its low-rank update.
///
/// In f32 whatever type the layer's own products have: the update is small beside them, in work and in size.
/// The backward pass computes `x · aᵀ` and the dropout again and stores nothing but its inputs; there is never a
/// gradient of the size of the layer's weight.
///
/// # Shapes
/// - `y`: `[tokens, out]`
/// - `x`: `[tokens, in]`, the layer's input
/// - `a`: `[rank, in]`
/// - `b`: `[out, rank]`
/// - returns: `[tokens, out]`
///
/// # Panics
/// If the shapes do not fit.
pub fn lora(y: Tensor<2>, x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, update: LoraUpdate) -> Tensor<2> {
    let ([tokens, output], [rank, input]) = (y.dims(), a.dims());
    assert_eq!(x.dims(), [tokens, input], "lora: x does not fit y and a");
    assert_eq!(b.dims(), [output, rank], "lora: b does not fit y and a");
    if !runs_on_cpu(&x) {
        let x = match update.dropout {
            Some(dropout) => dropout.forward(x),
            None => x,
        };
        return reference(y, x, a, b, LoraUpdate { dropout: None, ..update });
    }
    let (y, x, a, b) = (y.into_dispatch(), x.into_dispatch(), a.into_dispatch(), b.into_dispatch());
    Tensor::from_dispatch(Dispatch::lora(y, x, a, b, update))
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(y: Tensor<2>, x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, update: LoraUpdate) -> Tensor<2> {
    let x = match update.dropout {
        Some(dropout) => dropout.reference(x),
        None => x,
    };
    y + x.matmul(a.transpose()).matmul(b.transpose()) * update.scale
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LoraOps: Backend {
    fn lora(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        update: LoraUpdate,
    ) -> FloatTensor<Self>;
}

impl LoraOps for Flex {
    fn lora(y: FlexTensor, x: FlexTensor, a: FlexTensor, b: FlexTensor, update: LoraUpdate) -> FlexTensor {
        let inputs = Inputs { x: x.to_contiguous(), a: a.to_contiguous(), b: b.to_contiguous(), update };
        inputs.forward(into_dense(y))
    }
}

/// Everything but `y`, which has no part in the gradients.
#[derive(Debug, Clone)]
struct Inputs {
    x: FlexTensor,
    a: FlexTensor,
    b: FlexTensor,
    update: LoraUpdate,
}

impl Inputs {
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let (x, b) = (self.x.layout().shape(), self.b.layout().shape());
        (x[0], x[1], b[1], b[0]) // tokens, input, rank, output
    }

    /// `scale · dropout(x) · aᵀ`, `[tokens, rank]`.
    fn narrow(&self, x: &[f32]) -> Vec<f32> {
        let (tokens, input, rank, _) = self.sizes();
        let a = Matrix::dense(numbers(&self.a), rank, input);
        let mut narrow = product_of(Matrix::dense(x, tokens, input), a.transposed(), Compute::F32);
        vector::scale_in_place(&mut narrow, self.update.scale as f32);
        narrow
    }

    /// Calls `f` with the input as the update sees it.
    fn with_dropped<R>(&self, f: impl FnOnce(&[f32]) -> R) -> R {
        let (_, input, _, _) = self.sizes();
        match self.update.dropout {
            Some(dropout) => f(&dropout.apply(numbers(&self.x), input)),
            None => f(numbers(&self.x)),
        }
    }

    /// In place where nothing else holds `y`.
    fn forward(&self, mut y: FlexTensor) -> FlexTensor {
        let (tokens, _, rank, output) = self.sizes();
        let narrow = self.with_dropped(|x| self.narrow(x));
        let b = Matrix::dense(numbers(&self.b), output, rank);
        let narrow = Matrix::dense(&narrow, tokens, rank);
        let plan = Plan { threads: Threads::All, compute: Compute::F32 };
        product(y.storage_mut::<f32>(), output, Write::Add, narrow, b.transposed(), plan);
        y
    }

    /// `scale · grad · b`, `[tokens, rank]`: the gradient of `dropout(x) · aᵀ`.
    fn narrow_gradient(&self, grad: Matrix) -> Vec<f32> {
        let (_, _, rank, output) = self.sizes();
        let mut narrow = product_of(grad, Matrix::dense(numbers(&self.b), output, rank), Compute::F32);
        vector::scale_in_place(&mut narrow, self.update.scale as f32);
        narrow
    }

    /// Gradients of `a` and `b`.
    fn grad_of_factors(&self, grad: Matrix, narrow_gradient: Matrix) -> [FlexTensor; 2] {
        let (tokens, input, rank, output) = self.sizes();
        self.with_dropped(|x| {
            let da = product_of(narrow_gradient.transposed(), Matrix::dense(x, tokens, input), Compute::F32);
            let narrow = self.narrow(x);
            let db = product_of(grad.transposed(), Matrix::dense(&narrow, tokens, rank), Compute::F32);
            [tensor_of(da, [rank, input]), tensor_of(db, [output, rank])]
        })
    }

    fn grad_of_input(&self, narrow_gradient: Matrix) -> FlexTensor {
        let (tokens, input, rank, _) = self.sizes();
        let mut dx = product_of(narrow_gradient, Matrix::dense(numbers(&self.a), rank, input), Compute::F32);
        if let Some(dropout) = self.update.dropout {
            dropout.apply_in_place(&mut dx, input);
        }
        tensor_of(dx, [tokens, input])
    }
}

#[derive(Debug)]
struct LoraBackward;

impl Backward<Flex, 4> for LoraBackward {
    type State = Inputs;

    fn backward(self, ops: Ops<Inputs, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let inputs = ops.state;
        let (tokens, _, rank, output) = inputs.sizes();
        let [y_node, x_node, a_node, b_node] = ops.parents;
        let grad_matrix = Matrix::dense(numbers(&grad), tokens, output);
        let narrow = inputs.narrow_gradient(grad_matrix);
        let narrow = Matrix::dense(&narrow, tokens, rank);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, inputs.grad_of_input(narrow));
        }
        if a_node.is_some() || b_node.is_some() {
            let factors = inputs.grad_of_factors(grad_matrix, narrow);
            for (node, gradient) in [a_node, b_node].into_iter().zip(factors) {
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, gradient);
                }
            }
        }
        if let Some(node) = y_node {
            grads.register::<Flex>(node.id, grad);
        }
    }
}

impl<C: CheckpointStrategy> LoraOps for Autodiff<Flex, C> {
    fn lora(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        update: LoraUpdate,
    ) -> FloatTensor<Self> {
        let nodes = [y.node(), x.node(), a.node(), b.node()];
        let inputs = Inputs {
            x: x.into_primitive().to_contiguous(),
            a: a.into_primitive().to_contiguous(),
            b: b.into_primitive().to_contiguous(),
            update,
        };
        let out = inputs.forward(into_dense(y.into_primitive()));
        match LoraBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(inputs, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
