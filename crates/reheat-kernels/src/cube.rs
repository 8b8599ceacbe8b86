//! What the kernels in CubeCL share: buffers, the number of cubes, sums over a cube.
//!
//! Kernels take dense f32 buffers and their sizes, count elements in 32 bits, and are launched with bounds checks.
//! They use no atomics, so that results do not vary from run to run.

use burn::backend::ops::FloatTensorOps as _;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::{calculate_cube_count_elemwise, client::Client, prelude::*};

/// Units of a cube that share one row: a power of two, as sums over them want it.
pub(crate) const UNITS: usize = 64;

/// An uninitialised f32 tensor beside another.
pub(crate) fn empty(beside: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape.into(), DType::F32)
}

/// Numbers of the host in a buffer beside a tensor. An empty list gets one element, since no buffer is empty.
pub(crate) fn upload(beside: &CubeTensor, numbers: &[u32]) -> CubeTensor {
    let numbers = if numbers.is_empty() { &[0] } else { numbers };
    let handle = beside.client.create_from_slice(u32::as_bytes(numbers));
    let shape = Shape::from([numbers.len()]);
    CubeTensor::new_contiguous(beside.client.clone(), beside.device.clone(), shape, handle, DType::U32)
}

/// As many cubes, over the dimensions of the grid as the device allows: kernels count by `CUBE_POS`, and the grid may
/// have a few more.
pub(crate) fn cubes(client: &Client, count: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, count, CubeDim::new_1d(1))
}

/// The grid of a kernel with one unit per element, which compares `ABSOLUTE_POS` with `count`.
pub(crate) fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(256.min(client.properties().hardware.max_units_per_cube));
    (calculate_cube_count_elemwise(client, count, dim), dim)
}

/// A size as kernels count.
///
/// # Panics
/// Above 2³² elements, 16 GiB in f32.
pub(crate) fn size(count: usize) -> u32 {
    u32::try_from(count).expect("kernels count elements in 32 bits")
}

/// The tensor behind a plain one on a CubeCL device, dense.
///
/// # Panics
/// If the tensor is not a plain one there, which [`runs_on_cube`](crate::choice::runs_on_cube) tells.
pub(crate) fn dense<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    into_contiguous(tensor.try_into_primitive::<CubeBackend>().expect("`runs_on_cube` checked the device"))
}

/// The tensor, or a copy where something else holds its buffer: a kernel may write to it.
pub(crate) fn owned(tensor: CubeTensor) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

/// `[rows, width]` of a matrix.
pub(crate) fn sizes(tensor: &CubeTensor) -> [usize; 2] {
    let shape = tensor.meta.shape();
    [shape[0], shape[1]]
}

/// Sum of `[rows, width]` over its rows, `[width]`.
pub(crate) fn sum_rows(tensor: CubeTensor) -> CubeTensor {
    let [_, width] = sizes(&tensor);
    CubeBackend::float_reshape(CubeBackend::float_sum_dim(tensor, 0), Shape::from([width]))
}

/// Sum of the units' values, for all of them.
///
/// `shared` has a place for each of the cube's units, a power of two; every unit must come by.
#[cube]
pub(crate) fn cube_sum(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS_X as usize;
    shared[unit] = value;
    sync_cube();
    let mut active = CUBE_DIM_X as usize / 2;
    while active > 0 {
        if unit < active {
            let other = shared[unit + active];
            shared[unit] += other;
        }
        sync_cube();
        active /= 2;
    }
    let sum = shared[0];
    // The place is free for the next sum only when all have read it.
    sync_cube();
    sum
}

/// As [`cube_sum`], the largest.
#[cube]
pub(crate) fn cube_max(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS_X as usize;
    shared[unit] = value;
    sync_cube();
    let mut active = CUBE_DIM_X as usize / 2;
    while active > 0 {
        if unit < active {
            shared[unit] = max(shared[unit], shared[unit + active]);
        }
        sync_cube();
        active /= 2;
    }
    let largest = shared[0];
    sync_cube();
    largest
}
