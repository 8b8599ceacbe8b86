//! Forward pass: the online softmax of Milakov and Gimelshein (2018, arXiv:1805.02867) over tiles of keys.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{QUERY_TILE, Tile, load, query_tiles, scores};
use crate::attention::AttentionLayout;
use crate::cube::{cubes, empty, size, sizes, upload};

/// Keys of a tile.
const KEYS: usize = 32;

/// The output and the log-sum-exp of the scaled scores, `[num_heads, queries]`.
pub(super) fn forward(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    layout: &AttentionLayout,
) -> (CubeTensor, CubeTensor) {
    let [num_queries, width] = sizes(q);
    let (output, logsumexp) = (empty(q, [num_queries, width]), empty(q, [layout.num_heads, num_queries]));
    let tiles = query_tiles(layout);
    let num_tiles = tiles.len() / QUERY_TILE;
    if num_tiles > 0 {
        let tile = Tile::new(layout.head_dim, KEYS);
        attend::launch(
            &q.client,
            cubes(&q.client, num_tiles * layout.num_heads),
            tile.cube_dim(),
            q.clone().into_buffer_arg(),
            k.clone().into_buffer_arg(),
            v.clone().into_buffer_arg(),
            upload(q, &tiles).into_buffer_arg(),
            output.clone().into_buffer_arg(),
            logsumexp.clone().into_buffer_arg(),
            size(num_tiles),
            size(num_queries),
            size(layout.num_heads),
            size(layout.num_key_value_heads),
            layout.scale(),
            tile,
        );
    }
    (output, logsumexp)
}

/// A cube per tile of queries and head. Reads the keys and values that the tile sees once, and writes the output once.
#[cube(launch)]
fn attend(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    tiles: &[u32],
    output: &mut [f32],
    logsumexp: &mut [f32],
    num_tiles: u32,
    num_queries: u32,
    num_heads: u32,
    num_key_value_heads: u32,
    scale: f32,
    #[comptime] tile: Tile,
) {
    let num_heads = num_heads as usize;
    let head = CUBE_POS % num_heads;
    let index = CUBE_POS / num_heads;
    if index >= num_tiles as usize {
        terminate!();
    }
    let first_row = tiles[4 * index] as usize;
    let rows = tiles[4 * index + 1] as usize;
    let key_start = tiles[4 * index + 2] as usize;
    let position = tiles[4 * index + 3] as usize;
    let num_keys = position + rows;

    let num_key_value_heads = num_key_value_heads as usize;
    let head_dim = comptime!(tile.head_dim);
    let stride = comptime!(head_dim + 1);
    let width = num_heads * head_dim;
    let key_width = num_key_value_heads * head_dim;
    let column = head * head_dim;
    let key_column = head / (num_heads / num_key_value_heads) * head_dim;
    let unit = UNIT_POS_X as usize;

    let mut query_tile = Shared::<[f32]>::new_slice(comptime!(tile.queries * stride));
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!(tile.keys * stride));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(tile.queries * tile.keys));
    let mut largest = Shared::<[f32]>::new_slice(tile.queries);
    let mut sums = Shared::<[f32]>::new_slice(tile.queries);
    let mut factors = Shared::<[f32]>::new_slice(tile.queries);
    load(&mut query_tile, q, first_row, rows, width, column, tile.queries, head_dim);
    if unit < tile.queries {
        // Below every score: what has been summed up to the first key is multiplied by 0.
        largest[unit] = f32::new(-3.4e38);
        sums[unit] = 0.0f32;
    }
    let mut columns = Array::<f32>::new(tile.queries);
    #[unroll]
    for row in 0..tile.queries {
        columns[row] = 0.0f32;
    }

    let mut first_key = 0usize;
    while first_key < num_keys {
        sync_cube();
        load(&mut key_tile, k, key_start + first_key, num_keys - first_key, key_width, key_column, tile.keys, head_dim);
        sync_cube();
        let products = scores(&query_tile, &key_tile, tile);
        let row = unit % tile.queries;
        #[unroll]
        for i in 0..comptime!(tile.queries * tile.keys / tile.units) {
            let key = unit / tile.queries + i * comptime!(tile.units / tile.queries);
            weights[row * tile.keys + key] = products[i] * scale;
        }
        sync_cube();

        load(&mut key_tile, v, key_start + first_key, num_keys - first_key, key_width, key_column, tile.keys, head_dim);
        if unit < tile.queries {
            // Keys that the query sees: those up to its own position.
            let mut seen = 0usize;
            if position + unit >= first_key {
                seen = min(position + unit + 1 - first_key, tile.keys);
            }
            let before = largest[unit];
            let mut now = before;
            for key in 0..seen {
                now = max(now, weights[unit * tile.keys + key]);
            }
            let factor = (before - now).exp();
            let mut sum = sums[unit] * factor;
            for key in 0..tile.keys {
                let mut weight = 0.0f32;
                if key < seen {
                    weight = (weights[unit * tile.keys + key] - now).exp();
                }
                weights[unit * tile.keys + key] = weight;
                sum += weight;
            }
            largest[unit] = now;
            sums[unit] = sum;
            factors[unit] = factor;
        }
        sync_cube();

        if unit < head_dim {
            #[unroll]
            for row in 0..tile.queries {
                columns[row] *= factors[row];
            }
            for key in 0..tile.keys {
                let value = key_tile[key * stride + unit];
                #[unroll]
                for row in 0..tile.queries {
                    columns[row] += weights[row * tile.keys + key] * value;
                }
            }
        }
        first_key += tile.keys;
    }

    if unit < head_dim {
        #[unroll]
        for row in 0..tile.queries {
            if row < rows {
                output[(first_row + row) * width + column + unit] = columns[row] / sums[row];
            }
        }
    }
    if unit < rows {
        logsumexp[head * num_queries as usize + first_row + unit] = largest[unit] + sums[unit].ln();
    }
}
