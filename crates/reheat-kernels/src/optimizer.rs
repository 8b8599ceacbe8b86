//! Optimizer arithmetic: one pass over parameter, gradient and moments, in place where nothing else holds them.

#[cfg(feature = "cube")]
mod cube;
pub(crate) mod eight_bit; // moments in 8 bits

use burn::backend::Flex;
use burn::tensor::{DType, Tensor};
use half::bf16;
use multiversion::multiversion;
use rayon::prelude::*;

#[cfg(feature = "cube")]
use crate::choice::runs_on_cube;
use crate::choice::{on_cpu, runs_on_cpu};
use crate::matrix::{Element, Elements, dense, elements, tensor_of};
use crate::vector;

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
    /// Decides how moments in bf16 are rounded; another one for each parameter and step.
    pub rounding_seed: u64,
}

/// A parameter with its running moments, all of one shape.
///
/// Moments may be kept in bf16. They are rounded stochastically, up with a probability that makes the expected value
/// exact (Gupta et al. 2015, arXiv:1502.02551): to nearest, a second moment would never move, since its change of a
/// thousandth is below half a step of bf16.
#[derive(Debug, Clone)]
pub struct AdamWParameter<const D: usize> {
    /// The weights, f32.
    pub value: Tensor<D>,
    /// Running mean of the gradient, f32 or bf16.
    pub first_moment: Tensor<D>,
    /// Running mean of its square, in the type of the first.
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
    rounding_key: u32,
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
            rounding_key: hash((self.rounding_seed >> 32) as u32 ^ hash(self.rounding_seed as u32)),
        }
    }
}

/// One AdamW step.
///
/// # Shapes
/// - `gradient`: as the parameter, f32 or bf16
///
/// # Panics
/// If the shapes differ, or the types of the moments.
pub fn adamw<const D: usize>(parameter: AdamWParameter<D>, gradient: Tensor<D>, step: &AdamWStep) -> AdamWParameter<D> {
    assert_eq!(parameter.value.dims(), gradient.dims(), "adamw: parameter and gradient differ in shape");
    assert_eq!(parameter.first_moment.dtype(), parameter.second_moment.dtype(), "adamw: types of the moments");
    #[cfg(feature = "cube")]
    if [&parameter.value, &parameter.first_moment].into_iter().all(runs_on_cube) {
        return cube::adamw(parameter, gradient, step.factors());
    }
    if !runs_on_cpu(&parameter.value) {
        return reference(parameter, gradient, step);
    }
    let mut value = dense(parameter.value);
    let mut first_moment = dense(parameter.first_moment);
    let mut second_moment = dense(parameter.second_moment);
    let (gradient, factors) = (dense(gradient), step.factors());
    let values = value.storage_mut::<f32>();
    if first_moment.dtype() == DType::BF16 {
        let moments = (first_moment.storage_mut::<bf16>(), second_moment.storage_mut::<bf16>());
        update_all(values, moments, elements(&gradient), factors);
    } else {
        let moments = (first_moment.storage_mut::<f32>(), second_moment.storage_mut::<f32>());
        update_all(values, moments, elements(&gradient), factors);
    }
    AdamWParameter {
        value: Tensor::from_primitive::<Flex>(value),
        first_moment: Tensor::from_primitive::<Flex>(first_moment),
        second_moment: Tensor::from_primitive::<Flex>(second_moment),
    }
}

fn update_all<M: Moment>(value: &mut [f32], moments: (&mut [M], &mut [M]), gradient: Elements, factors: Factors) {
    let chunks = value
        .par_chunks_mut(CHUNK)
        .zip(moments.0.par_chunks_mut(CHUNK))
        .zip(moments.1.par_chunks_mut(CHUNK))
        .enumerate()
        .map(|(index, ((value, first), second))| (index * CHUNK, value, first, second));
    match gradient {
        Elements::F32(gradient) => chunks
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|((start, value, first, second), g)| update(value, first, second, g, start as u32, factors)),
        Elements::Bf16(gradient) => chunks
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|((start, value, first, second), g)| update(value, first, second, g, start as u32, factors)),
        Elements::Int8(_) => unreachable!("gradients are f32 or bf16"),
    }
}

/// What a moment is kept in.
trait Moment: Copy + Send + Sync {
    fn load(self) -> f32;

    /// `random` has 16 random bits.
    fn store(value: f32, random: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32, _random: u32) -> Self {
        value
    }
}

impl Moment for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        vector::to_f32(self)
    }

    /// The part that is cut off plus a random number carries with just its share as probability.
    #[inline(always)]
    fn store(value: f32, random: u32) -> Self {
        bf16::from_bits((value.to_bits().wrapping_add(random) >> 16) as u16)
    }
}

/// `lowbias32` of C. Wellons' hash prospector.
#[inline(always)]
fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"), dispatcher = "direct")]
fn update<M: Moment, G: Element>(
    value: &mut [f32],
    first: &mut [M],
    second: &mut [M],
    gradient: &[G],
    start: u32,
    f: Factors,
) {
    let n = value.len();
    let (first, second, gradient) = (&mut first[..n], &mut second[..n], &gradient[..n]);
    for i in 0..n {
        let g = gradient[i].to_f32() * f.gradient_scale;
        let m = first[i].load() * f.beta1 + g * f.one_minus_beta1;
        let v = second[i].load() * f.beta2 + g * g * f.one_minus_beta2;
        let denominator = v.sqrt() / f.root_correction + f.epsilon;
        value[i] = value[i] * f.keep - f.step_size * m / denominator;
        let random = hash((start + i as u32) ^ f.rounding_key);
        first[i] = M::store(m, random & 0xffff);
        second[i] = M::store(v, random >> 16);
    }
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference<const D: usize>(
    parameter: AdamWParameter<D>,
    gradient: Tensor<D>,
    step: &AdamWStep,
) -> AdamWParameter<D> {
    let f = step.factors();
    let dtype = parameter.first_moment.dtype();
    let gradient = gradient.cast(DType::F32) * f.gradient_scale;
    let first_moment = parameter.first_moment.cast(DType::F32) * f.beta1 + gradient.clone() * f.one_minus_beta1;
    let second_moment = parameter.second_moment.cast(DType::F32) * f.beta2 + gradient.square() * f.one_minus_beta2;
    let denominator = second_moment.clone().sqrt() / f.root_correction + f.epsilon;
    let value = parameter.value * f.keep - first_moment.clone() * f.step_size / denominator;
    AdamWParameter {
        value,
        first_moment: stochastically(first_moment, dtype, step, 1),
        second_moment: stochastically(second_moment, dtype, step, 2),
    }
}

/// A moment in the type in which it is kept; bf16 is rounded stochastically.
fn stochastically<const D: usize>(moment: Tensor<D>, dtype: DType, step: &AdamWStep, salt: u32) -> Tensor<D> {
    if dtype == DType::F32 {
        return moment;
    }
    let mut state = hash(step.rounding_seed as u32 ^ hash((step.rounding_seed >> 32) as u32 ^ salt));
    let uniform: Vec<f32> = (0..moment.shape().num_elements())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9);
            (hash(state) >> 8) as f32 / 2.0_f32.powi(24)
        })
        .collect();
    let uniform = Tensor::<1>::from_data(uniform.as_slice(), &moment.device()).reshape(moment.dims());
    // Neighbouring bf16 are 2⁻⁷ of the power of two below them apart.
    let magnitude = moment.clone().abs().clamp_min(f32::MIN_POSITIVE);
    let power = magnitude.clone().log().div_scalar(std::f32::consts::LN_2).floor();
    let width = (power * std::f32::consts::LN_2).exp() / 128.0;
    ((magnitude / width.clone() + uniform).floor() * width * moment.sign()).cast(dtype)
}

/// Sum of the squares of all elements, `[1]`, f32.
pub fn squared_norm<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    if !on_cpu(&tensor) {
        return tensor.cast(DType::F32).square().sum();
    }
    let tensor = dense(tensor);
    let partial: Vec<f32> = match elements(&tensor) {
        Elements::F32(values) => values.par_chunks(CHUNK).map(|chunk| vector::dot(chunk, chunk)).collect(),
        Elements::Bf16(values) => values.par_chunks(CHUNK).map(vector::sum_of_squares).collect(),
        Elements::Int8(_) => unreachable!("a float tensor"),
    };
    // Thousands of partial sums: f64 keeps what f32 would round away.
    let sum: f64 = partial.into_iter().map(f64::from).sum();
    Tensor::from_primitive::<Flex>(tensor_of(vec![sum as f32], [1]))
}

/// The sum of two gradients of one parameter, f32 or bf16, in f32.
///
/// # Panics
/// If the sizes differ.
pub fn add_gradients(sum: Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
    assert_eq!(sum.dims(), gradient.dims(), "gradients of one parameter");
    let same = sum.dtype() == DType::F32 && gradient.dtype() == DType::F32;
    if same || !on_cpu(&sum) {
        return sum.cast(DType::F32) + gradient.cast(DType::F32);
    }
    let (mut sum, gradient) = match sum.dtype() {
        DType::F32 => (dense(sum), dense(gradient)),
        _ => (dense(widened(gradient)), dense(sum)),
    };
    let sums = sum.storage_mut::<f32>().par_chunks_mut(CHUNK);
    match elements(&gradient) {
        Elements::F32(values) => {
            sums.zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| vector::add_scaled(sum, values, 1.0));
        }
        Elements::Bf16(values) => {
            sums.zip(values.par_chunks(CHUNK)).for_each(|(sum, values)| vector::add_widened(sum, values));
        }
        Elements::Int8(_) => unreachable!("a float tensor"),
    }
    Tensor::from_primitive::<Flex>(sum)
}

/// A tensor on the CPU in f32.
fn widened(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.dtype() == DType::F32 {
        return tensor;
    }
    let tensor = dense(tensor);
    let elements = elements(&tensor);
    let mut wide = vec![0.0; tensor.layout().num_elements()];
    wide.par_chunks_mut(CHUNK).enumerate().for_each(|(index, wide)| elements.row(index, CHUNK).widen(wide));
    let shape = tensor.layout().shape().clone();
    Tensor::from_primitive::<Flex>(tensor_of(wide, shape))
}
