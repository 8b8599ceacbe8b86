//! `y = x · Wᵀ + b`, with the weight as checkpoints store it.

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::FlexTensor;
use half::bf16;
use rayon::prelude::*;

use crate::choice::runs_on_cpu;
use crate::matrix::{
    Compute, Matrix, Plan, Threads, Write, dense, elements, numbers, product, product_of, rounded_product,
    rounded_tensor_of, rows_by_weight, tensor_of,
};
use crate::weight::int_tensor;
use crate::{Int8Weight, Weight, vector};

/// Numbers that one task handles.
const CHUNK: usize = 64 * 1024;

/// `x · weightᵀ + bias`.
///
/// Sums are f32. One row or a few read the weight once, in the type in which it is stored; more go through a blocked
/// product. The gradient of an f32 weight comes out as `[out, in]`, in the layout of the weight itself, and in the type
/// `compute`; bf16 and int8 weights are frozen.
///
/// # Shapes
/// - `x`: `[tokens, in]`
/// - `weight`: `[out, in]`, as in PyTorch's `Linear`
/// - `bias`: `[out]`
/// - returns: `[tokens, out]`
///
/// # Panics
/// If the inner sizes differ.
pub fn linear(x: Tensor<2>, weight: impl Into<Weight>, bias: Option<Tensor<1>>, compute: Compute) -> Tensor<2> {
    let weight = weight.into();
    if !runs_on_cpu(&x) {
        return reference(x, weight, bias, compute);
    }
    match (weight, bias) {
        (Weight::Float(weight), bias) => {
            let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
            Tensor::from_dispatch(match bias {
                Some(bias) => Dispatch::linear_with_bias(x, weight, bias.into_dispatch(), compute),
                None => Dispatch::linear(x, weight, compute),
            })
        }
        (Weight::Int8(weight), bias) => {
            let weight = Rows::new(weight);
            let y = Tensor::from_dispatch(Dispatch::linear_int8(x.into_dispatch(), weight, compute));
            match bias {
                Some(bias) => y + bias.unsqueeze::<2>(),
                None => y,
            }
        }
    }
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(x: Tensor<2>, weight: Weight, bias: Option<Tensor<1>>, compute: Compute) -> Tensor<2> {
    let dtype = x.dtype();
    let y = match weight {
        Weight::Float(weight) => rounded(x, compute).matmul(rounded(weight, compute).transpose()),
        Weight::Int8(weight) => {
            let integers = weight.values().float().cast(DType::F32);
            rounded(x, compute).matmul(integers.transpose()) * weight.scales().unsqueeze::<2>()
        }
    };
    let y = y.cast(dtype);
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}

/// A factor in the type in which it meets another, as f32.
pub(crate) fn rounded<const D: usize>(factor: Tensor<D>, compute: Compute) -> Tensor<D> {
    match compute {
        Compute::F32 => factor.cast(DType::F32),
        Compute::Bf16 => factor.cast(DType::BF16).cast(DType::F32),
    }
}

/// An int8 weight on the CPU.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    values: FlexTensor,
    scales: FlexTensor,
}

impl Rows {
    pub(crate) fn new(weight: Int8Weight) -> Self {
        Self { values: int_tensor(weight.values()), scales: dense(weight.scales()) }
    }

    pub(crate) fn values(&self) -> &FlexTensor {
        &self.values
    }

    /// Multiplies each column of `[tokens, out]` by the scale of its row of the weight.
    pub(crate) fn scale(&self, columns: &mut [f32]) {
        let scales = numbers(&self.scales);
        // Whole chunks to a task: a few rows are not worth the threads' start.
        let rows = CHUNK.div_ceil(scales.len().max(1));
        columns
            .par_chunks_exact_mut(scales.len().max(1))
            .with_min_len(rows)
            .for_each(|row| vector::multiply_in_place(row, scales));
    }
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearOps: Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, compute: Compute) -> FloatTensor<Self>;
    fn linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        compute: Compute,
    ) -> FloatTensor<Self>;
    fn linear_int8(x: FloatTensor<Self>, weight: Rows, compute: Compute) -> FloatTensor<Self>;
}

impl LinearOps for Flex {
    fn linear(x: FlexTensor, weight: FlexTensor, compute: Compute) -> FlexTensor {
        forward(&x, &weight, None, compute)
    }

    fn linear_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, compute: Compute) -> FlexTensor {
        forward(&x, &weight, Some(&bias), compute)
    }

    fn linear_int8(x: FlexTensor, weight: Rows, compute: Compute) -> FlexTensor {
        forward_int8(&x, &weight, compute)
    }
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&FlexTensor>, compute: Compute) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let sizes @ [tokens, _, output] = sizes(&x, &weight);
    let mut y = rows_by_weight(numbers(&x), elements(&weight), sizes, compute);
    if let Some(bias) = bias {
        let bias = bias.to_contiguous();
        for row in y.chunks_exact_mut(output) {
            vector::add_scaled(row, numbers(&bias), 1.0);
        }
    }
    tensor_of(y, [tokens, output])
}

fn forward_int8(x: &FlexTensor, weight: &Rows, compute: Compute) -> FlexTensor {
    let x = x.to_contiguous();
    let sizes @ [tokens, _, output] = sizes(&x, &weight.values);
    let mut y = rows_by_weight(numbers(&x), elements(&weight.values), sizes, compute);
    weight.scale(&mut y);
    tensor_of(y, [tokens, output])
}

/// `[tokens, in, out]`.
fn sizes(x: &FlexTensor, weight: &FlexTensor) -> [usize; 3] {
    let (tokens, input) = (x.layout().shape()[0], x.layout().shape()[1]);
    assert_eq!(weight.layout().shape()[1], input, "linear: weight takes another width than x has");
    [tokens, input, weight.layout().shape()[0]]
}

/// `grad · W`.
fn grad_of_input(grad: &FlexTensor, weight: &FlexTensor, compute: Compute) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let input = weight.layout().shape()[1];
    let (grad, weight) = (Matrix::dense(numbers(grad), tokens, output), Matrix::dense(elements(weight), output, input));
    tensor_of(product_of(grad, weight, compute), [tokens, input])
}

/// `gradᵀ · x`, `[out, in]`; in bf16 where the product is taken in it.
fn grad_of_weight(grad: &FlexTensor, x: &FlexTensor, compute: Compute) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let input = x.layout().shape()[1];
    let (grad, x) = (Matrix::dense(numbers(grad), tokens, output), Matrix::dense(elements(x), tokens, input));
    if compute == Compute::Bf16 && tokens > 0 {
        let mut rounded = vec![bf16::ZERO; output * input];
        rounded_product(&mut rounded, input, Write::Replace, grad.transposed(), x);
        return rounded_tensor_of(rounded, [output, input]);
    }
    tensor_of(product_of(grad.transposed(), x, compute), [output, input])
}

fn grad_of_bias(grad: &FlexTensor) -> FlexTensor {
    let (tokens, output) = (grad.layout().shape()[0], grad.layout().shape()[1]);
    let mut db = vec![0.0; output];
    let ones = vec![1.0; tokens];
    let (ones, grad) = (Matrix::dense(&ones, 1, tokens), Matrix::dense(numbers(grad), tokens, output));
    // A plain sum, so f32 whatever the products are computed in.
    let plan = Plan { threads: Threads::One, compute: Compute::F32 };
    product(&mut db, output, Write::Replace, ones, grad, plan);
    tensor_of(db, [output])
}

/// Saved for the backward pass: `x` and the weight, both shared with their owners.
#[derive(Debug, Clone)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    compute: Compute,
}

impl Saved {
    fn new(x: FlexTensor, weight: FlexTensor, compute: Compute) -> Self {
        // What nobody else holds is kept as the backward pass reads it, in half the memory.
        let x = if compute == Compute::Bf16 && x.is_unique() { round(&x) } else { x };
        Self { x, weight, compute }
    }
}

/// A dense f32 tensor in bf16.
fn round(x: &FlexTensor) -> FlexTensor {
    let numbers = numbers(x);
    let mut rounded = vec![bf16::ZERO; numbers.len()];
    rounded.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK)).for_each(|(out, x)| vector::round(out, x));
    rounded_tensor_of(rounded, x.layout().shape().clone())
}

/// Gradients of `x` and the weight, where they are wanted.
fn register(
    saved: &Saved,
    grad: &FlexTensor,
    x_node: Option<NodeId>,
    weight_node: Option<NodeId>,
    grads: &mut Gradients,
) {
    if let Some(node) = x_node {
        grads.register::<Flex>(node, grad_of_input(grad, &saved.weight, saved.compute));
    }
    if let Some(node) = weight_node {
        grads.register::<Flex>(node, grad_of_weight(grad, &saved.x, saved.compute));
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

#[derive(Debug)]
struct LinearInt8Backward;

impl Backward<Flex, 1> for LinearInt8Backward {
    type State = (Rows, Compute);

    /// With `y = (x · Qᵀ) · s` by columns, `dx = (grad · s) · Q`.
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (weight, compute) = ops.state;
        let [x_node] = ops.parents;
        if let Some(node) = x_node {
            let mut scaled = numbers(&grad).to_vec();
            weight.scale(&mut scaled);
            let scaled = tensor_of(scaled, grad.layout().shape().clone());
            grads.register::<Flex>(node.id, grad_of_input(&scaled, &weight.values, compute));
        }
    }
}

impl<C: CheckpointStrategy> LinearOps for Autodiff<Flex, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, compute: Compute) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let y = forward(&x, &weight, None, compute);
        match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Saved::new(x, weight, compute), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        compute: Compute,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let y = forward(&x, &weight, Some(&bias.into_primitive()), compute);
        match LinearWithBiasBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Saved::new(x, weight, compute), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn linear_int8(x: FloatTensor<Self>, weight: Rows, compute: Compute) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let y = forward_int8(&x.into_primitive(), &weight, compute);
        match LinearInt8Backward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((weight, compute), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
