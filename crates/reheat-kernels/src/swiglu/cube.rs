//! The kernel in CubeCL: one unit per element.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::Swiglu;
use crate::cube::{elementwise, empty, size, sizes};
use crate::kernel::Kernel;

impl Kernel<CubeBackend, 2> for Swiglu {
    type Saved = [CubeTensor; 2];

    fn forward(&self, inputs: [CubeTensor; 2]) -> (CubeTensor, Self::Saved) {
        let saved @ [gate, up] = &inputs.map(into_contiguous);
        let shape @ [rows, width] = sizes(gate);
        assert_eq!(shape, sizes(up), "swiglu: gate and up differ in shape");
        let out = empty(gate, shape);
        if rows * width > 0 {
            let (count, dim) = elementwise(&gate.client, rows * width);
            gated::launch(
                &gate.client,
                count,
                dim,
                gate.clone().into_buffer_arg(),
                up.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                size(rows * width),
            );
        }
        (out, saved.clone())
    }

    fn backward(&self, [gate, up]: Self::Saved, grad: CubeTensor) -> [Option<CubeTensor>; 2] {
        let shape @ [rows, width] = sizes(&gate);
        let (d_gate, d_up) = (empty(&gate, shape), empty(&gate, shape));
        if rows * width > 0 {
            let client = gate.client.clone();
            let (count, dim) = elementwise(&client, rows * width);
            gradients::launch(
                &client,
                count,
                dim,
                gate.into_buffer_arg(),
                up.into_buffer_arg(),
                into_contiguous(grad).into_buffer_arg(),
                d_gate.clone().into_buffer_arg(),
                d_up.clone().into_buffer_arg(),
                size(rows * width),
            );
        }
        [Some(d_gate), Some(d_up)]
    }
}

/// Reads two numbers per element and writes one.
#[cube(launch)]
fn gated(gate: &[f32], up: &[f32], out: &mut [f32], count: u32) {
    let i = ABSOLUTE_POS;
    if i < count as usize {
        let x = gate[i];
        out[i] = x / (1.0f32 + (-x).exp()) * up[i];
    }
}

/// With `s = sigmoid(gate)`: `d_gate = g·up·s·(1 + gate·(1 - s))` and `d_up = g·gate·s`.
#[cube(launch)]
fn gradients(gate: &[f32], up: &[f32], grad: &[f32], d_gate: &mut [f32], d_up: &mut [f32], count: u32) {
    let i = ABSOLUTE_POS;
    if i < count as usize {
        let x = gate[i];
        let g = grad[i];
        let sigmoid = 1.0f32 / (1.0f32 + (-x).exp());
        d_gate[i] = g * up[i] * sigmoid * (1.0f32 + x * (1.0f32 - sigmoid));
        d_up[i] = g * x * sigmoid;
    }
}
