//! Optimizer arithmetic: one pass over parameter, gradient and moments, in place where nothing else holds them.

use burn::backend::Flex;
use burn::tensor::Tensor;
use multiversion::multiversion;
use rayon::prelude::*;

use crate::matrix::{dense, numbers, tensor_of};
use crate::{runs_fused, vector};

/// Elements that one task handles. Sums are taken per task and then in order, whatever the number of threads.
const CHUNK: usize = 64 * 1024;

/// Scalars of one AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), with PyTorch's semantics:
/// decay before the update, `epsilon` outside the bias-corrected root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay; the parameter shrinks by `learning_rate * weight_decay`.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient, as clipping wants it.
    pub gradient_scale: f64,
}

/// A parameter with its running moments, f32, all of one shape.
#[derive(Debug, Clone)]
pub struct AdamWParameter<const D: usize> {
    /// The weights.
    pub value: Tensor<D>,
    /// Running mean of the gradient.
    pub first_moment: Tensor<D>,
    /// Running mean of its square.
    pub second_moment: Tensor<D>,
}

/// The scalars in the form and the type in which they meet each element.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
    gradient_scale: f32,
}

impl AdamWStep {
    fn factors(&self) -> Factors {
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction1 = 1.0 - self.beta1.powi(power);
        let correction2 = 1.0 - self.beta2.powi(power);
        Factors {
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (self.learning_rate / correction1) as f32,
            root_correction: correction2.sqrt() as f32,
            epsilon: self.epsilon as f32,
            gradient_scale: self.gradient_scale as f32,
        }
    }
}

/// One AdamW step.
///
/// # Panics
/// If the shapes differ.
pub fn adamw<const D: usize>(parameter: AdamWParameter<D>, gradient: Tensor<D>, step: &AdamWStep) -> AdamWParameter<D> {
    assert_eq!(parameter.value.dims(), gradient.dims(), "adamw: parameter and gradient differ in shape");
    if !runs_fused(&parameter.value) {
        return reference(parameter, gradient, step);
    }
    let mut value = dense(parameter.value);
    let mut first_moment = dense(parameter.first_moment);
    let mut second_moment = dense(parameter.second_moment);
    let gradient = dense(gradient);
    let factors = step.factors();
    value
        .storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(first_moment.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(second_moment.storage_mut::<f32>().par_chunks_mut(CHUNK))
        .zip(numbers(&gradient).par_chunks(CHUNK))
        .for_each(|(((value, first), second), gradient)| update(value, first, second, gradient, factors));
    AdamWParameter {
        value: Tensor::from_primitive::<Flex>(value),
        first_moment: Tensor::from_primitive::<Flex>(first_moment),
        second_moment: Tensor::from_primitive::<Flex>(second_moment),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn update(value: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], f: Factors) {
    let n = value.len();
    let (first, second, gradient) = (&mut first[..n], &mut second[..n], &gradient[..n]);
    for i in 0..n {
        let g = gradient[i] * f.gradient_scale;
        let m = first[i] * f.beta1 + g * f.one_minus_beta1;
        let v = second[i] * f.beta2 + g * g * f.one_minus_beta2;
        let denominator = v.sqrt() / f.root_correction + f.epsilon;
        value[i] = value[i] * f.keep - f.step_size * m / denominator;
        first[i] = m;
        second[i] = v;
    }
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference<const D: usize>(
    parameter: AdamWParameter<D>,
    gradient: Tensor<D>,
    step: &AdamWStep,
) -> AdamWParameter<D> {
    let f = step.factors();
    let gradient = gradient * f.gradient_scale;
    let first_moment = parameter.first_moment * f.beta1 + gradient.clone() * f.one_minus_beta1;
    let second_moment = parameter.second_moment * f.beta2 + gradient.square() * f.one_minus_beta2;
    let denominator = second_moment.clone().sqrt() / f.root_correction + f.epsilon;
    let value = parameter.value * f.keep - first_moment.clone() * f.step_size / denominator;
    AdamWParameter { value, first_moment, second_moment }
}

/// Sum of the squares of all elements, `[1]`, f32.
pub fn squared_norm<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    if !runs_fused(&tensor) {
        return tensor.square().sum();
    }
    let tensor = dense(tensor);
    let partial: Vec<f32> = numbers(&tensor).par_chunks(CHUNK).map(|chunk| vector::dot(chunk, chunk)).collect();
    // Thousands of partial sums: f64 keeps what f32 would round away.
    let sum: f64 = partial.into_iter().map(f64::from).sum();
    Tensor::from_primitive::<Flex>(tensor_of(vec![sum as f32], [1]))
}
