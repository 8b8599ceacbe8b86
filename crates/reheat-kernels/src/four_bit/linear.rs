//! `y = x · Wᵀ + b` with a frozen `W` in 4 bits: widened some rows at a time, as they are needed.

use std::ops::Range;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn_flex::FlexTensor;

use super::FourBitWeight;
use crate::choice::runs_on_cpu;
use crate::matrix::{Compute, Matrix, Plan, Threads, Write, numbers, product, tensor_of};

/// Numbers of a weight that exist in f32 at a time.
const WIDENED: usize = 1 << 20;

/// `x · weightᵀ + bias`, with the gradient of `x` alone.
///
/// # Shapes
/// - `x`: `[tokens, in]`
/// - `weight`: `[out, in]`
/// - `bias`: `[out]`
/// - returns: `[tokens, out]`
///
/// # Panics
/// If the inner sizes differ.
pub fn linear_four_bit(x: Tensor<2>, weight: &FourBitWeight, bias: Option<Tensor<1>>, compute: Compute) -> Tensor<2> {
    let y = if runs_on_cpu(&x) {
        Tensor::from_dispatch(Dispatch::linear_four_bit(x.into_dispatch(), weight.clone(), compute))
    } else {
        reference(x, weight)
    };
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(x: Tensor<2>, weight: &FourBitWeight) -> Tensor<2> {
    let weight = weight.to_f32(&x.device().inner()).cast(x.dtype());
    x.matmul(weight.transpose())
}

#[backend_extension(Flex, Autodiff)]
pub(crate) trait FourBitOps: Backend {
    fn linear_four_bit(x: FloatTensor<Self>, weight: FourBitWeight, compute: Compute) -> FloatTensor<Self>;
}

impl FourBitOps for Flex {
    fn linear_four_bit(x: FlexTensor, weight: FourBitWeight, compute: Compute) -> FlexTensor {
        forward(&x.to_contiguous(), &weight, compute)
    }
}

/// Calls `f` with the rows and the numbers of each part of the weight.
fn by_parts(weight: &FourBitWeight, mut f: impl FnMut(Range<usize>, Matrix)) {
    let [rows, cols] = weight.dims();
    let step = (WIDENED / cols.max(1)).max(1);
    let mut wide = vec![0.0; step.min(rows) * cols];
    for start in (0..rows).step_by(step) {
        let part = start..(start + step).min(rows);
        let wide = &mut wide[..part.len() * cols];
        weight.widen_rows(part.clone(), wide);
        let matrix = Matrix::dense(&*wide, part.len(), cols);
        f(part, matrix);
    }
}

fn forward(x: &FlexTensor, weight: &FourBitWeight, compute: Compute) -> FlexTensor {
    let (tokens, input) = (x.layout().shape()[0], x.layout().shape()[1]);
    let [output, cols] = weight.dims();
    assert_eq!(cols, input, "linear_four_bit: the weight takes another width than x has");
    let x = Matrix::dense(numbers(x), tokens, input);
    let mut y = vec![0.0; tokens * output];
    let plan = Plan { threads: Threads::All, compute };
    by_parts(weight, |rows, part| {
        // Rows of the weight are columns of the result.
        let columns = y.get_mut(rows.start..).unwrap_or_default();
        product(columns, output, Write::Replace, x, part.transposed(), plan);
    });
    tensor_of(y, [tokens, output])
}

/// `grad · W`.
fn grad_of_input(grad: &FlexTensor, weight: &FourBitWeight, compute: Compute) -> FlexTensor {
    let tokens = grad.layout().shape()[0];
    let [output, input] = weight.dims();
    let grad = numbers(grad);
    let mut dx = vec![0.0; tokens * input];
    let plan = Plan { threads: Threads::All, compute };
    by_parts(weight, |rows, part| {
        let columns = grad.get(rows.start..).unwrap_or_default();
        let columns = Matrix::strided(columns, tokens, rows.len(), output);
        product(&mut dx, input, Write::Add, columns, part, plan);
    });
    tensor_of(dx, [tokens, input])
}

#[derive(Debug)]
struct FourBitBackward;

impl Backward<Flex, 1> for FourBitBackward {
    type State = (FourBitWeight, Compute);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (weight, compute) = ops.state;
        let [x_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, grad_of_input(&grad, &weight, compute));
        }
    }
}

impl<C: CheckpointStrategy> FourBitOps for Autodiff<Flex, C> {
    fn linear_four_bit(x: FloatTensor<Self>, weight: FourBitWeight, compute: Compute) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let y = forward(&x.into_primitive().to_contiguous(), &weight, compute);
        match FourBitBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((weight, compute), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
