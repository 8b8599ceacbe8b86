//! `y = x · Wᵀ + b`, with the weight as checkpoints store it.

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::matrix::{Matrix, Threads, Write, numbers, product, product_of, tensor_of};
use crate::{runs_fused, vector};

/// Up to this many rows a product is bound by reading the weight once, and dot products beat a packed GEMM.
const DOT_ROWS: usize = 4;

/// `x · weightᵀ + bias`.
///
/// The gradient of the weight comes out as `[out, in]`, in the layout of the weight itself.
///
/// # Shapes
/// - `x`: `[tokens, in]`
/// - `weight`: `[out, in]`, as in PyTorch's `Linear`
/// - `bias`: `[out]`
/// - returns: `[tokens, out]`
///
/// # Panics
/// If the inner sizes differ.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if !runs_fused(&x) {
        return reference(x, weight, bias);
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::linear_with_bias(x, weight, bias.into_dispatch()),
        None => Dispatch::linear(x, weight),
    })
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearOps: Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_with_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl LinearOps for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        forward(&x, &weight, None)
    }

    fn linear_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        forward(&x, &weight, Some(&bias))
    }
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (tokens, input) = (x.layout().shape()[0], x.layout().shape()[1]);
    let output = weight.layout().shape()[0];
    assert_eq!(weight.layout().shape()[1], input, "linear: weight takes another width than x has");
    let (xs, ws) = (numbers(&x), numbers(&weight));
    let bias = bias.map(FlexTensor::to_contiguous);

    let mut y = if tokens <= DOT_ROWS {
        dot_rows(xs, ws, tokens, input, output)
    } else {
        product_of(Matrix::dense(xs, tokens, input), Matrix::dense(ws, output, input).transposed())
    };
    if let Some(bias) = &bias {
        for row in y.chunks_exact_mut(output) {
            vector::add_scaled(row, numbers(bias), 1.0);
        }
    }
    tensor_of(y, [tokens, output])
}

/// `x · Wᵀ` for a few rows: each weight row is read once and meets every row of `x`.
fn dot_rows(x: &[f32], weight: &[f32], tokens: usize, input: usize, output: usize) -> Vec<f32> {
    const ROWS_PER_TASK: usize = 64;
    let columns: Vec<f32> = weight
        .par_chunks(ROWS_PER_TASK * input.max(1))
        .flat_map_iter(|rows| {
            rows.chunks_exact(input).flat_map(|row| x.chunks_exact(input).map(move |token| vector::dot(token, row)))
        })
        .collect();
    if tokens == 1 {
        return columns;
    }
    let mut y = vec![0.0; tokens * output];
    for (column, values) in columns.chunks_exact(tokens).enumerate() {
        for (token, value) in values.iter().enumerate() {
            y[token * output + column] = *value;
        }
    }
    y
}

/// `grad · W`.
fn grad_of_input(grad: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let input = weight.layout().shape()[1];
    let dx = product_of(Matrix::dense(numbers(grad), tokens, output), Matrix::dense(numbers(weight), output, input));
    tensor_of(dx, [tokens, input])
}

/// `gradᵀ · x`, `[out, in]`.
fn grad_of_weight(grad: &FlexTensor, x: &FlexTensor) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let input = x.layout().shape()[1];
    let dw =
        product_of(Matrix::dense(numbers(grad), tokens, output).transposed(), Matrix::dense(numbers(x), tokens, input));
    tensor_of(dw, [output, input])
}

fn grad_of_bias(grad: &FlexTensor) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let mut db = vec![0.0; output];
    let ones = vec![1.0; tokens];
    let grad = Matrix::dense(numbers(grad), tokens, output);
    product(&mut db, output, Write::Replace, Matrix::dense(&ones, 1, tokens), grad, Threads::One);
    tensor_of(db, [output])
}

/// Saved for the backward pass: `x` and the weight, both shared with their owners.
type Saved = (FlexTensor, FlexTensor);

/// Gradients of `x` and the weight, where they are wanted.
fn register(
    (x, weight): &Saved,
    grad: &FlexTensor,
    x_node: Option<NodeId>,
    weight_node: Option<NodeId>,
    grads: &mut Gradients,
) {
    if let Some(node) = x_node {
        grads.register::<Flex>(node, grad_of_input(grad, weight));
    }
    if let Some(node) = weight_node {
        grads.register::<Flex>(node, grad_of_weight(grad, x));
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 2> for LinearBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [x_node, weight_node] = ops.parents;
        register(&ops.state, &grad, x_node.map(|node| node.id), weight_node.map(|node| node.id), grads);
    }
}

#[derive(Debug)]
struct LinearWithBiasBackward;

impl Backward<Flex, 3> for LinearWithBiasBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [x_node, weight_node, bias_node] = ops.parents;
        register(&ops.state, &grad, x_node.map(|node| node.id), weight_node.map(|node| node.id), grads);
        if let Some(node) = bias_node {
            grads.register::<Flex>(node.id, grad_of_bias(&grad));
        }
    }
}

impl<C: CheckpointStrategy> LinearOps for Autodiff<Flex, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let y = forward(&x, &weight, None);
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn linear_with_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let y = forward(&x, &weight, Some(&bias.into_primitive()));
        match LinearWithBiasBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, weight), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
