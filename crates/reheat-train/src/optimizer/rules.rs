//! What an optimizer does to one parameter: pure functions of tensors, in PyTorch's and transformers' semantics.

use burn::tensor::Tensor;

/// Scalars of one step of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) learning_rate: f64,
    pub(super) weight_decay: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) momentum: f64,
    pub(super) dampening: f64,
    pub(super) nesterov: bool,
    /// Number of this step, from 1.
    pub(super) number: u64,
}

/// Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): the sign of a mix of momentum and gradient.
///
/// All tensors are of one shape; gives the parameter and the momentum.
pub(super) fn lion(value: Tensor<1>, gradient: Tensor<1>, momentum: Tensor<1>, step: &Step) -> (Tensor<1>, Tensor<1>) {
    let direction = (momentum.clone() * step.beta1 + gradient.clone() * (1.0 - step.beta1)).sign();
    let value = value * (1.0 - step.learning_rate * step.weight_decay) - direction * step.learning_rate;
    (value, momentum * step.beta2 + gradient * (1.0 - step.beta2))
}

/// `torch.optim.SGD`: weight decay is part of the gradient; the first gradient is not dampened.
pub(super) fn sgd(value: Tensor<1>, gradient: Tensor<1>, buffer: Tensor<1>, step: &Step) -> (Tensor<1>, Tensor<1>) {
    let gradient = gradient + value.clone() * step.weight_decay;
    let share = if step.number == 1 { 1.0 } else { 1.0 - step.dampening };
    let buffer = buffer * step.momentum + gradient.clone() * share;
    let direction = if step.nesterov { gradient + buffer.clone() * step.momentum } else { buffer.clone() };
    (value - direction * step.learning_rate, buffer)
}

/// Added to the square of the gradient (transformers 5.23, `Adafactor`, `eps[0]`).
const ADAFACTOR_EPSILON: f64 = 1e-30;
/// Exponent of the decay of the second moment (`decay_rate`).
const ADAFACTOR_DECAY: f64 = -0.8;
/// Root mean square of an update above which it is scaled down (`clip_threshold`).
const ADAFACTOR_CLIP: f64 = 1.0;

fn adafactor_beta2(step: &Step) -> f64 {
    1.0 - (step.number as f64).powf(ADAFACTOR_DECAY)
}

/// The clipped update, scaled by the learning rate and taken from the decayed value.
fn adafactor_apply<const D: usize>(value: Tensor<D>, update: Tensor<D>, step: &Step) -> Tensor<D> {
    let count = update.shape().num_elements() as f64;
    let rms = f64::from((update.clone().powi_scalar(2).sum() / count).sqrt().into_scalar::<f32>());
    let update = update * (step.learning_rate / (rms / ADAFACTOR_CLIP).max(1.0));
    value * (1.0 - step.learning_rate * step.weight_decay) - update
}

/// Adafactor (Shazeer and Stern 2018, arXiv:1804.04235) of a vector, with the learning rate from outside and without
/// momentum, as transformers' `Trainer` sets it up.
pub(super) fn adafactor_vector(
    value: Tensor<1>,
    gradient: Tensor<1>,
    second: Tensor<1>,
    step: &Step,
) -> (Tensor<1>, Tensor<1>) {
    let beta2 = adafactor_beta2(step);
    let second = second * beta2 + (gradient.clone().powi_scalar(2) + ADAFACTOR_EPSILON) * (1.0 - beta2);
    let update = gradient / second.clone().sqrt();
    (adafactor_apply(value, update, step), second)
}

/// Adafactor of a matrix, whose second moment is a product of one vector for the rows and one for the columns.
///
/// # Shapes
/// - `value`, `gradient`: `[rows, columns]`
/// - `row`: `[rows]`, `column`: `[columns]`
pub(super) fn adafactor_matrix(
    value: Tensor<2>,
    gradient: Tensor<2>,
    row: Tensor<1>,
    column: Tensor<1>,
    step: &Step,
) -> (Tensor<2>, Tensor<1>, Tensor<1>) {
    let beta2 = adafactor_beta2(step);
    let square = gradient.clone().powi_scalar(2) + ADAFACTOR_EPSILON;
    let row = row * beta2 + square.clone().mean_dim(1).squeeze_dim::<1>(1) * (1.0 - beta2);
    let column = column * beta2 + square.mean_dim(0).squeeze_dim::<1>(0) * (1.0 - beta2);
    let row_factor = (row.clone() / row.clone().mean()).sqrt().unsqueeze_dim::<2>(1); // [rows, 1]
    let column_factor = column.clone().sqrt().unsqueeze_dim::<2>(0); // [1, columns]
    let update = gradient / row_factor / column_factor;
    (adafactor_apply(value, update, step), row, column)
}

/// Coefficients of the quintic iteration, and a bound that keeps a zero gradient from dividing by zero
/// (`torch.optim.Muon` 2.15).
const NEWTON_SCHULZ: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const NEWTON_SCHULZ_EPSILON: f64 = 1e-7;
/// Iterations (`ns_steps`).
const NEWTON_SCHULZ_STEPS: usize = 5;
/// Root mean square that the update of AdamW has, which Muon's is scaled to (Liu et al. 2025, arXiv:2502.16982,
/// section 2.2; `adjust_lr_fn="match_rms_adamw"`), so that one learning rate serves both.
const ADAMW_RMS: f64 = 0.2;

/// Muon (Jordan et al. 2024) with Nesterov momentum: the update is the gradient with its singular values brought near 1.
///
/// The iteration runs in f32; PyTorch's runs in bf16.
///
/// # Shapes
/// All `[rows, columns]`; gives the parameter and the momentum.
pub(super) fn muon(value: Tensor<2>, gradient: Tensor<2>, buffer: Tensor<2>, step: &Step) -> (Tensor<2>, Tensor<2>) {
    let [rows, columns] = value.dims();
    let buffer = buffer * step.momentum + gradient.clone() * (1.0 - step.momentum);
    let update = orthogonalized(gradient * (1.0 - step.momentum) + buffer.clone() * step.momentum);
    let learning_rate = step.learning_rate * ADAMW_RMS * (rows.max(columns) as f64).sqrt();
    (value * (1.0 - step.learning_rate * step.weight_decay) - update * learning_rate, buffer)
}

/// `U Vᵀ` of the singular value decomposition, nearly: singular values end between 0.5 and 1.5.
fn orthogonalized(matrix: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = matrix.dims();
    let norm = f64::from(matrix.clone().powi_scalar(2).sum().sqrt().into_scalar::<f32>());
    let tall = rows > columns;
    let mut x = if tall { matrix.transpose() } else { matrix } / norm.max(NEWTON_SCHULZ_EPSILON);
    let (a, b, c) = NEWTON_SCHULZ;
    for _ in 0..NEWTON_SCHULZ_STEPS {
        let gram = x.clone().matmul(x.clone().transpose());
        let update = gram.clone() * b + gram.clone().matmul(gram) * c;
        x = x.clone() * a + update.matmul(x);
    }
    if tall { x.transpose() } else { x }
}
