//! The kernels in CubeCL: one cube per tile of queries (or keys) and head, with the softmax taken as keys go by.
//!
//! Products are f32 sums over tiles in shared memory, whatever [`Compute`](crate::Compute) says: there is nothing to
//! gain from rounding factors that meet in no matrix unit. Each cube owns what it writes, so no sum is atomic.

mod forward;
mod backward;

use burn::backend::DispatchDevice;
use burn::tensor::Tensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{AttentionLayout, CausalAttention};
use crate::kernel::Kernel;

/// The widest head whose tiles fit 32 KiB of shared memory.
const LARGEST_HEAD: usize = 128;
/// What [`Tile`]s of that head take.
const SHARED_BYTES: usize = 27 * 1024;
/// Buffers of the kernel that has most, and one for its sizes.
const BINDINGS: u32 = 10;
/// Queries of a tile. With it, a tile's scores are whole turns of every number of units.
const QUERIES: usize = 16;

/// Sizes that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tile {
    queries: usize,
    keys: usize,
    head_dim: usize,
    /// Units of a cube: one per column of the head and more.
    units: usize,
}

impl Tile {
    fn new(head_dim: usize, keys: usize) -> Self {
        Self { queries: QUERIES, keys, head_dim, units: head_dim.next_power_of_two().max(64) }
    }

    fn cube_dim(self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }
}

/// Whether the device of `q` holds the tiles of a head.
pub(super) fn fits(q: &Tensor<2>, head_dim: usize) -> bool {
    let device = q.device().inner();
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return false };
    let client = device.client();
    let hardware = &client.properties().hardware;
    head_dim <= LARGEST_HEAD
        && hardware.max_shared_memory_size >= SHARED_BYTES
        && hardware.max_units_per_cube as usize >= LARGEST_HEAD
        && hardware.max_bindings >= BINDINGS
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    output: CubeTensor,
    /// Log-sum-exp of the scaled scores, `[num_heads, queries]`.
    logsumexp: CubeTensor,
}

impl Kernel<CubeBackend, 3> for CausalAttention {
    type Saved = Saved;

    fn forward(&self, inputs: [CubeTensor; 3]) -> (CubeTensor, Saved) {
        let [q, k, v] = inputs.map(into_contiguous);
        let (output, logsumexp) = forward::forward(&q, &k, &v, &self.layout);
        (output.clone(), Saved { q, k, v, output, logsumexp })
    }

    fn backward(&self, saved: Saved, grad: CubeTensor) -> [Option<CubeTensor>; 3] {
        backward::backward(saved, into_contiguous(grad), &self.layout).map(Some)
    }
}

/// Numbers of a [`query_tiles`] entry.
const QUERY_TILE: usize = 4;

/// The tiles of queries of every span: first row, rows, row of the span's first key, and the position of the first
/// query among the span's keys.
fn query_tiles(layout: &AttentionLayout) -> Vec<u32> {
    let mut tiles = Vec::new();
    for span in &layout.spans {
        for first in (0..span.queries.len()).step_by(QUERIES) {
            let rows = QUERIES.min(span.queries.len() - first);
            let entry = [span.queries.start + first, rows, span.keys.start, span.prefix() + first];
            tiles.extend(entry.map(crate::cube::size));
        }
    }
    tiles
}

/// Rows `first_row..first_row + rows` of one head into shared memory; rows of the tile beyond them are 0.
///
/// Rows lie one number further apart than the head is wide, so that the units that read a column use different banks.
#[cube]
fn load(
    tile: &mut Shared<[f32]>,
    source: &[f32],
    first_row: usize,
    rows: usize,
    width: usize,
    column: usize,
    #[comptime] tile_rows: usize,
    #[comptime] head_dim: usize,
) {
    let mut i = UNIT_POS_X as usize;
    while i < tile_rows * head_dim {
        let row = i / head_dim;
        let d = i % head_dim;
        let mut value = 0.0f32;
        if row < rows {
            value = source[(first_row + row) * width + column + d];
        }
        tile[row * (head_dim + 1) + d] = value;
        i += CUBE_DIM_X as usize;
    }
}

/// The unit's share of `queries · keysᵀ`: query `unit % queries`, and every key `unit / queries + i · units / queries`.
#[cube]
fn scores(queries: &Shared<[f32]>, keys: &Shared<[f32]>, #[comptime] tile: Tile) -> Array<f32> {
    let each = comptime!(tile.queries * tile.keys / tile.units);
    let step = comptime!(tile.units / tile.queries);
    let stride = comptime!(tile.head_dim + 1);
    let unit = UNIT_POS_X as usize;
    let query = unit % tile.queries;
    let first = unit / tile.queries;
    let mut sums = Array::<f32>::new(each);
    #[unroll]
    for i in 0..each {
        sums[i] = 0.0f32;
    }
    for d in 0..tile.head_dim {
        let factor = queries[query * stride + d];
        #[unroll]
        for i in 0..each {
            sums[i] += factor * keys[(first + i * step) * stride + d];
        }
    }
    sums
}
