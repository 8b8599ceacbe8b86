//! The kernel in CubeCL: one unit per element, which draws its number as the CPU does.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::Dropout;
use crate::cube::{elementwise, empty, size, sizes, upload};
use crate::kernel::{Kernel, tracked};

pub(super) fn forward(dropout: Dropout, x: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::dropout(x.into_dispatch(), dropout))
}

#[backend_extension(Cube, Autodiff)]
pub(crate) trait DropoutOps: Backend {
    fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;
}

impl<B: Backend> DropoutOps for B
where
    Dropout: Kernel<B, 1>,
{
    fn dropout(x: FloatTensor<B>, dropout: Dropout) -> FloatTensor<B> {
        Kernel::forward(&dropout, [x]).0
    }
}

impl<B: Backend, C: CheckpointStrategy> DropoutOps for Autodiff<B, C>
where
    Dropout: Kernel<B, 1>,
{
    fn dropout(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        tracked::<B, _, C, 1>(dropout, [x])
    }
}

impl Kernel<CubeBackend, 1> for Dropout {
    type Saved = ();

    fn forward(&self, [x]: [CubeTensor; 1]) -> (CubeTensor, ()) {
        (apply(*self, x), ())
    }

    fn backward(&self, (): (), grad: CubeTensor) -> [Option<CubeTensor>; 1] {
        [Some(apply(*self, grad))]
    }
}

fn apply(dropout: Dropout, x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let [rows, width] = sizes(&x);
    let out = empty(&x, [rows, width]);
    if rows * width > 0 {
        let keys: Vec<u32> =
            (0..rows).map(|row| dropout.keys(row)).flat_map(|(first, second)| [first, second]).collect();
        let client = x.client.clone();
        let (count, dim) = elementwise(&client, rows * width);
        mask::launch(
            &client,
            count,
            dim,
            x.clone().into_buffer_arg(),
            upload(&x, &keys).into_buffer_arg(),
            out.clone().into_buffer_arg(),
            size(rows * width),
            size(width),
            dropout.threshold(),
            dropout.factor(),
        );
    }
    out
}

#[cube(launch)]
fn mask(x: &[f32], keys: &[u32], out: &mut [f32], count: u32, width: u32, threshold: u32, factor: f32) {
    if ABSOLUTE_POS < count as usize {
        let row = ABSOLUTE_POS / width as usize;
        let column = (ABSOLUTE_POS % width as usize) as u32;
        let mut value = 0.0f32;
        if hash(column, keys[2 * row], keys[2 * row + 1]) >= threshold {
            value = x[ABSOLUTE_POS] * factor;
        }
        out[ABSOLUTE_POS] = value;
    }
}

/// The same function as on the CPU.
#[cube]
fn hash(column: u32, first: u32, second: u32) -> u32 {
    let x = column ^ first;
    let x = x ^ (x >> 16u32);
    let x = (x * 0x7feb_352du32) ^ second;
    let x = x ^ (x >> 15u32);
    let x = x * 0x846c_a68bu32;
    x ^ (x >> 16u32)
}
