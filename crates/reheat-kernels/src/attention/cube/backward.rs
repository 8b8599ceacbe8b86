//! Backward pass, with the formulas of the one on the CPU: gradients of the queries by tiles of queries, those of keys
//! and values by tiles of keys and over the heads that share them.

use burn::backend::ops::FloatTensorOps as _;
use burn::tensor::{FloatDType, Shape};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{QUERY_TILE, Saved, Tile, load, query_tiles, scores};
use crate::attention::AttentionLayout;
use crate::cube::{cubes, elementwise, empty, size, sizes, upload};

/// Keys of a tile: three tiles of rows are in shared memory.
const KEYS: usize = 16;
/// Numbers of a [`key_tiles`] entry.
const KEY_TILE: usize = 6;

pub(super) fn backward(saved: Saved, grad: CubeTensor, layout: &AttentionLayout) -> [CubeTensor; 3] {
    let Saved { q, k, v, output, logsumexp } = saved;
    let client = q.client.clone();
    let ([num_queries, width], [num_keys, key_width]) = (sizes(&q), sizes(&k));
    let tile = Tile::new(layout.head_dim, KEYS);
    // Keys that no query sees keep gradient 0.
    let zeros = || CubeBackend::float_zeros(Shape::from([num_keys, key_width]), &q.device, FloatDType::F32);
    let (dq, dk, dv) = (empty(&q, [num_queries, width]), zeros(), zeros());
    let tiles = query_tiles(layout);
    if tiles.is_empty() {
        return [dq, dk, dv];
    }

    let delta = empty(&q, [layout.num_heads, num_queries]);
    let (count, dim) = elementwise(&client, layout.num_heads * num_queries);
    row_products::launch(
        &client,
        count,
        dim,
        output.into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        delta.clone().into_buffer_arg(),
        size(num_queries),
        size(layout.num_heads),
        size(layout.head_dim),
    );
    let num_tiles = tiles.len() / QUERY_TILE;
    gradient_of_queries::launch(
        &client,
        cubes(&client, num_tiles * layout.num_heads),
        tile.cube_dim(),
        q.clone().into_buffer_arg(),
        k.clone().into_buffer_arg(),
        v.clone().into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        logsumexp.clone().into_buffer_arg(),
        delta.clone().into_buffer_arg(),
        upload(&q, &tiles).into_buffer_arg(),
        dq.clone().into_buffer_arg(),
        size(num_tiles),
        size(num_queries),
        size(layout.num_heads),
        size(layout.num_key_value_heads),
        layout.scale(),
        tile,
    );
    let tiles = key_tiles(layout);
    let num_tiles = tiles.len() / KEY_TILE;
    gradient_of_keys::launch(
        &client,
        cubes(&client, num_tiles * layout.num_key_value_heads),
        tile.cube_dim(),
        q.clone().into_buffer_arg(),
        k.into_buffer_arg(),
        v.into_buffer_arg(),
        grad.into_buffer_arg(),
        logsumexp.into_buffer_arg(),
        delta.into_buffer_arg(),
        upload(&q, &tiles).into_buffer_arg(),
        dk.clone().into_buffer_arg(),
        dv.clone().into_buffer_arg(),
        size(num_tiles),
        size(num_queries),
        size(layout.num_heads),
        size(layout.num_key_value_heads),
        layout.scale(),
        tile,
    );
    [dq, dk, dv]
}

/// The tiles of keys of every span: first row, rows, their place among the span's keys, the span's first query, its
/// number of queries, and the keys before the first of them.
fn key_tiles(layout: &AttentionLayout) -> Vec<u32> {
    let mut tiles = Vec::new();
    let mut end = 0;
    for span in &layout.spans {
        // Under autodiff every key has one reader.
        assert!(span.keys.start >= end, "attention: the backward pass takes spans whose keys follow one another");
        end = span.keys.end;
        if span.queries.is_empty() {
            continue;
        }
        for first in (0..span.keys.len()).step_by(KEYS) {
            let rows = KEYS.min(span.keys.len() - first);
            let (start, count) = (span.queries.start, span.queries.len());
            let entry = [span.keys.start + first, rows, first, start, count, span.prefix()];
            tiles.extend(entry.map(size));
        }
    }
    tiles
}

/// `D = rowsum(dO ∘ O)`, `[num_heads, queries]`: one unit per query and head.
#[cube(launch)]
fn row_products(output: &[f32], grad: &[f32], delta: &mut [f32], num_queries: u32, num_heads: u32, head_dim: u32) {
    let num_queries = num_queries as usize;
    let head_dim = head_dim as usize;
    let head = ABSOLUTE_POS / num_queries;
    let query = ABSOLUTE_POS % num_queries;
    if head < num_heads as usize {
        let start = (query * num_heads as usize + head) * head_dim;
        let mut sum = 0.0f32;
        for d in 0..head_dim {
            sum += output[start + d] * grad[start + d];
        }
        delta[ABSOLUTE_POS] = sum;
    }
}

/// A cube per tile of queries and head.
#[cube(launch)]
fn gradient_of_queries(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    grad: &[f32],
    logsumexp: &[f32],
    delta: &[f32],
    tiles: &[u32],
    dq: &mut [f32],
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
    let mut grad_tile = Shared::<[f32]>::new_slice(comptime!(tile.queries * stride));
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!(tile.keys * stride));
    let mut d_scores = Shared::<[f32]>::new_slice(comptime!(tile.queries * tile.keys));
    load(&mut query_tile, q, first_row, rows, width, column, tile.queries, head_dim);
    load(&mut grad_tile, grad, first_row, rows, width, column, tile.queries, head_dim);
    let row = unit % tile.queries;
    let mut row_logsumexp = 0.0f32;
    let mut row_delta = 0.0f32;
    if row < rows {
        let at = head * num_queries as usize + first_row + row;
        row_logsumexp = logsumexp[at];
        row_delta = delta[at];
    }
    let mut columns = Array::<f32>::new(tile.queries);
    #[unroll]
    for row in 0..tile.queries {
        columns[row] = 0.0f32;
    }

    let mut first_key = 0usize;
    while first_key < num_keys {
        sync_cube();
        load(&mut key_tile, v, key_start + first_key, num_keys - first_key, key_width, key_column, tile.keys, head_dim);
        sync_cube();
        let d_weights = scores(&grad_tile, &key_tile, tile);
        sync_cube();
        load(&mut key_tile, k, key_start + first_key, num_keys - first_key, key_width, key_column, tile.keys, head_dim);
        sync_cube();
        let products = scores(&query_tile, &key_tile, tile);
        #[unroll]
        for i in 0..comptime!(tile.queries * tile.keys / tile.units) {
            let key = unit / tile.queries + i * comptime!(tile.units / tile.queries);
            let mut d_score = 0.0f32;
            if row < rows && first_key + key <= position + row {
                let weight = (products[i] * scale - row_logsumexp).exp();
                d_score = weight * (d_weights[i] - row_delta) * scale;
            }
            d_scores[row * tile.keys + key] = d_score;
        }
        sync_cube();
        if unit < head_dim {
            for key in 0..tile.keys {
                let value = key_tile[key * stride + unit];
                #[unroll]
                for row in 0..tile.queries {
                    columns[row] += d_scores[row * tile.keys + key] * value;
                }
            }
        }
        first_key += tile.keys;
    }
    if unit < head_dim {
        #[unroll]
        for row in 0..tile.queries {
            if row < rows {
                dq[(first_row + row) * width + column + unit] = columns[row];
            }
        }
    }
}

/// A cube per tile of keys and key-value head; it goes through the queries of every head that the keys serve.
#[cube(launch)]
fn gradient_of_keys(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    grad: &[f32],
    logsumexp: &[f32],
    delta: &[f32],
    tiles: &[u32],
    dk: &mut [f32],
    dv: &mut [f32],
    num_tiles: u32,
    num_queries: u32,
    num_heads: u32,
    num_key_value_heads: u32,
    scale: f32,
    #[comptime] tile: Tile,
) {
    let num_heads = num_heads as usize;
    let num_key_value_heads = num_key_value_heads as usize;
    let key_head = CUBE_POS % num_key_value_heads;
    let index = CUBE_POS / num_key_value_heads;
    if index >= num_tiles as usize {
        terminate!();
    }
    let first_row = tiles[6 * index] as usize;
    let rows = tiles[6 * index + 1] as usize;
    let first_key = tiles[6 * index + 2] as usize;
    let query_start = tiles[6 * index + 3] as usize;
    let span_queries = tiles[6 * index + 4] as usize;
    let prefix = tiles[6 * index + 5] as usize;

    let group = num_heads / num_key_value_heads;
    let head_dim = comptime!(tile.head_dim);
    let stride = comptime!(head_dim + 1);
    let width = num_heads * head_dim;
    let key_width = num_key_value_heads * head_dim;
    let key_column = key_head * head_dim;
    let unit = UNIT_POS_X as usize;
    let row = unit % tile.queries;

    let mut key_tile = Shared::<[f32]>::new_slice(comptime!(tile.keys * stride));
    let mut value_tile = Shared::<[f32]>::new_slice(comptime!(tile.keys * stride));
    let mut query_tile = Shared::<[f32]>::new_slice(comptime!(tile.queries * stride));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(tile.queries * tile.keys));
    let mut d_scores = Shared::<[f32]>::new_slice(comptime!(tile.queries * tile.keys));
    load(&mut key_tile, k, first_row, rows, key_width, key_column, tile.keys, head_dim);
    load(&mut value_tile, v, first_row, rows, key_width, key_column, tile.keys, head_dim);
    let mut key_columns = Array::<f32>::new(tile.keys);
    let mut value_columns = Array::<f32>::new(tile.keys);
    #[unroll]
    for key in 0..tile.keys {
        key_columns[key] = 0.0f32;
        value_columns[key] = 0.0f32;
    }

    // The first query that sees the tile's first key; keys of the prefix are seen by all.
    let mut start = 0usize;
    if first_key > prefix {
        start = first_key - prefix;
    }
    for member in 0..group {
        let head = key_head * group + member;
        let column = head * head_dim;
        let mut first_query = start;
        while first_query < span_queries {
            let query = query_start + first_query;
            let count = span_queries - first_query;
            sync_cube();
            load(&mut query_tile, q, query, count, width, column, tile.queries, head_dim);
            sync_cube();
            let products = scores(&query_tile, &key_tile, tile);
            sync_cube();
            load(&mut query_tile, grad, query, count, width, column, tile.queries, head_dim);
            sync_cube();
            let d_weights = scores(&query_tile, &value_tile, tile);
            #[unroll]
            for i in 0..comptime!(tile.queries * tile.keys / tile.units) {
                let key = unit / tile.queries + i * comptime!(tile.units / tile.queries);
                let mut weight = 0.0f32;
                let mut d_score = 0.0f32;
                if row < count && first_key + key <= prefix + first_query + row {
                    let at = head * num_queries as usize + query + row;
                    weight = (products[i] * scale - logsumexp[at]).exp();
                    d_score = weight * (d_weights[i] - delta[at]) * scale;
                }
                weights[row * tile.keys + key] = weight;
                d_scores[row * tile.keys + key] = d_score;
            }
            sync_cube();
            if unit < head_dim {
                for row in 0..tile.queries {
                    let value = query_tile[row * stride + unit];
                    #[unroll]
                    for key in 0..tile.keys {
                        value_columns[key] += weights[row * tile.keys + key] * value;
                    }
                }
            }
            sync_cube();
            load(&mut query_tile, q, query, count, width, column, tile.queries, head_dim);
            sync_cube();
            if unit < head_dim {
                for row in 0..tile.queries {
                    let value = query_tile[row * stride + unit];
                    #[unroll]
                    for key in 0..tile.keys {
                        key_columns[key] += d_scores[row * tile.keys + key] * value;
                    }
                }
            }
            first_query += tile.queries;
        }
    }
    if unit < head_dim {
        #[unroll]
        for key in 0..tile.keys {
            if key < rows {
                let at = (first_row + key) * key_width + key_column + unit;
                dk[at] = key_columns[key];
                dv[at] = value_columns[key];
            }
        }
    }
}
