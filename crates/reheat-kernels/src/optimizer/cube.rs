//! The step in CubeCL: one unit per element, one pass over parameter, gradient and moments.

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::{AdamWParameter, Factors};
use crate::cube::{dense, elementwise, owned, size};

/// In place where nothing else holds the tensors; moments are f32.
pub(super) fn adamw<const D: usize>(
    parameter: AdamWParameter<D>,
    gradient: Tensor<D>,
    factors: Factors,
) -> AdamWParameter<D> {
    let AdamWParameter { value, first_moment, second_moment } = parameter;
    let count = value.shape().num_elements();
    let [value, first_moment, second_moment] = [value, first_moment, second_moment].map(|tensor| owned(dense(tensor)));
    let gradient = dense(gradient.cast(DType::F32));
    if count > 0 {
        let (cubes, dim) = elementwise(&value.client, count);
        update::launch(
            &value.client,
            cubes,
            dim,
            value.clone().into_buffer_arg(),
            first_moment.clone().into_buffer_arg(),
            second_moment.clone().into_buffer_arg(),
            gradient.into_buffer_arg(),
            size(count),
            factors.keep,
            factors.beta1,
            factors.one_minus_beta1,
            factors.beta2,
            factors.one_minus_beta2,
            factors.step_size,
            factors.root_correction,
            factors.epsilon,
            factors.gradient_scale,
        );
    }
    let [value, first_moment, second_moment] =
        [value, first_moment, second_moment].map(Tensor::from_primitive::<CubeBackend>);
    AdamWParameter { value, first_moment, second_moment }
}

/// Reads four numbers per element and writes three.
#[cube(launch)]
fn update(
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[f32],
    count: u32,
    keep: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
    gradient_scale: f32,
) {
    let i = ABSOLUTE_POS;
    if i < count as usize {
        let g = gradient[i] * gradient_scale;
        let m = first[i] * beta1 + g * one_minus_beta1;
        let v = second[i] * beta2 + g * g * one_minus_beta2;
        value[i] = value[i] * keep - step_size * m / (v.sqrt() / root_correction + epsilon);
        first[i] = m;
        second[i] = v;
    }
}
