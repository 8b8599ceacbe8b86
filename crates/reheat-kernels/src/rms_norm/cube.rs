//! The kernel in CubeCL: a cube per row, and for the gradient of the weight a unit per column of a run of rows.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::RmsNorm;
use crate::cube::{UNITS, cube_sum, cubes, elementwise, empty, size, sizes, sum_rows};
use crate::kernel::Kernel;

/// Rows whose share in the gradient of the weight one unit sums.
const ROWS: usize = 64;

impl Kernel<CubeBackend, 2> for RmsNorm {
    type Saved = [CubeTensor; 2];

    fn forward(&self, inputs: [CubeTensor; 2]) -> (CubeTensor, Self::Saved) {
        let saved @ [x, weight] = &inputs.map(into_contiguous);
        let [rows, width] = sizes(x);
        assert_eq!(weight.meta.shape()[0], width, "rms_norm: weight and x differ in width");
        let out = empty(x, [rows, width]);
        if rows * width > 0 {
            normalise::launch(
                &x.client,
                cubes(&x.client, rows),
                CubeDim::new_1d(UNITS as u32),
                x.clone().into_buffer_arg(),
                weight.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                size(rows),
                size(width),
                self.epsilon,
                UNITS,
            );
        }
        (out, saved.clone())
    }

    fn backward(&self, [x, weight]: Self::Saved, grad: CubeTensor) -> [Option<CubeTensor>; 2] {
        let grad = into_contiguous(grad);
        let [rows, width] = sizes(&x);
        let parts = rows.div_ceil(ROWS).max(1);
        let (dx, inverse, partial) = (empty(&x, [rows, width]), empty(&x, [rows.max(1)]), empty(&x, [parts, width]));
        if rows * width > 0 {
            gradient_of_rows::launch(
                &x.client,
                cubes(&x.client, rows),
                CubeDim::new_1d(UNITS as u32),
                x.clone().into_buffer_arg(),
                weight.into_buffer_arg(),
                grad.clone().into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                inverse.clone().into_buffer_arg(),
                size(rows),
                size(width),
                self.epsilon,
                UNITS,
            );
        }
        let client = x.client.clone();
        let (count, dim) = elementwise(&client, parts * width);
        gradient_of_weight::launch(
            &client,
            count,
            dim,
            x.into_buffer_arg(),
            grad.into_buffer_arg(),
            inverse.into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            size(rows),
            size(width),
            size(parts * width),
            ROWS as u32,
        );
        [Some(dx), Some(sum_rows(partial))]
    }
}

/// `1 / sqrt(mean(x²) + epsilon)` of the row that starts at `start`, for every unit of the cube.
#[cube]
fn inverse_rms(x: &[f32], start: usize, width: usize, epsilon: f32, shared: &mut Shared<[f32]>) -> f32 {
    let mut squares = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let value = x[start + column];
        squares += value * value;
        column += CUBE_DIM_X as usize;
    }
    let mean = cube_sum(squares, shared) / f32::cast_from(width as u32);
    1.0f32 / (mean + epsilon).sqrt()
}

/// Reads a row twice, the second time from the cache, and writes it once.
#[cube(launch)]
fn normalise(
    x: &[f32],
    weight: &[f32],
    out: &mut [f32],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] units: usize,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    let start = row * width;
    let mut shared = Shared::<[f32]>::new_slice(units);
    let inverse = inverse_rms(x, start, width, epsilon, &mut shared);
    let mut column = UNIT_POS_X as usize;
    while column < width {
        out[start + column] = x[start + column] * inverse * weight[column];
        column += CUBE_DIM_X as usize;
    }
}

/// With `r = 1/rms`: `dx = r·(g·w) - x·r³·Σ(g·w·x)/width`, and `r` itself for the gradient of the weight.
#[cube(launch)]
fn gradient_of_rows(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    dx: &mut [f32],
    inverses: &mut [f32],
    rows: u32,
    width: u32,
    epsilon: f32,
    #[comptime] units: usize,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    let start = row * width;
    let mut shared = Shared::<[f32]>::new_slice(units);
    let inverse = inverse_rms(x, start, width, epsilon, &mut shared);
    let mut products = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        products += grad[start + column] * weight[column] * x[start + column];
        column += CUBE_DIM_X as usize;
    }
    let mean = cube_sum(products, &mut shared) / f32::cast_from(width as u32);
    let projection = mean * inverse * inverse * inverse;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        dx[start + column] = grad[start + column] * weight[column] * inverse - x[start + column] * projection;
        column += CUBE_DIM_X as usize;
    }
    if UNIT_POS_X == 0 {
        inverses[row] = inverse;
    }
}

/// `partial[part, column] = Σ g·x·r` over the rows of the part.
#[cube(launch)]
fn gradient_of_weight(
    x: &[f32],
    grad: &[f32],
    inverses: &[f32],
    partial: &mut [f32],
    rows: u32,
    width: u32,
    count: u32,
    rows_per_part: u32,
) {
    if ABSOLUTE_POS < count as usize {
        let width = width as usize;
        let column = ABSOLUTE_POS % width;
        let first = ABSOLUTE_POS / width * rows_per_part as usize;
        let last = min(first + rows_per_part as usize, rows as usize);
        let mut sum = 0.0f32;
        for row in first..last {
            sum += grad[row * width + column] * x[row * width + column] * inverses[row];
        }
        partial[ABSOLUTE_POS] = sum;
    }
}
