//! Backward pass on the CPU.
//!
//! With `P` the attention weights and `D = rowsum(dO ∘ O)`: `dV = Pᵀ·dO`, `dS = P ∘ (dO·Vᵀ - D) / sqrt(head_dim)`,
//! `dQ = dS·K`, `dK = dSᵀ·Q`. Gradients of the queries go by blocks of queries, those of keys and values by blocks of
//! keys, so that each task owns the rows it writes and sums come in one fixed order.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{AttentionLayout, Saved, Span};
use crate::matrix::{Matrix, Write, numbers, product, tensor_of};
use crate::vector;

/// Queries or keys per task.
const BLOCK: usize = 64;

/// Read-only inputs of every task.
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    grad: &'a [f32],
    /// Log-sum-exp and `D`, both `[num_heads, queries]`.
    logsumexp: Vec<f32>,
    delta: Vec<f32>,
    num_queries: usize,
    layout: &'a AttentionLayout,
}

pub(super) fn backward(saved: &Saved, grad: &FlexTensor, layout: &AttentionLayout) -> [FlexTensor; 3] {
    let (width, key_width) = (layout.query_width(), layout.key_width());
    let (num_queries, num_keys) = (saved.q.layout().shape()[0], saved.k.layout().shape()[0]);
    let (output, grad) = (numbers(&saved.output), numbers(grad));

    let (mut logsumexp, mut delta) = (vec![0.0; saved.logsumexp.len()], vec![0.0; saved.logsumexp.len()]);
    for row in 0..num_queries {
        for head in 0..layout.num_heads {
            let columns = row * width + head * layout.head_dim..row * width + (head + 1) * layout.head_dim;
            logsumexp[head * num_queries + row] = saved.logsumexp[row * layout.num_heads + head];
            delta[head * num_queries + row] = vector::dot(&output[columns.clone()], &grad[columns]);
        }
    }
    let (q, k, v) = (numbers(&saved.q), numbers(&saved.k), numbers(&saved.v));
    let inputs = Inputs { q, k, v, grad, logsumexp, delta, num_queries, layout };

    let mut dq = vec![0.0; num_queries * width];
    let mut query_blocks = Vec::new();
    let mut rest = dq.as_mut_slice();
    for span in &layout.spans {
        for first in (0..span.queries.len()).step_by(BLOCK) {
            let (rows, tail) = rest.split_at_mut(BLOCK.min(span.queries.len() - first) * width);
            rest = tail;
            query_blocks.push((span, first, rows));
        }
    }
    query_blocks
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, (span, first, dq)| query_block(&inputs, span, first, dq, scratch));

    let (mut dk, mut dv) = (vec![0.0; num_keys * key_width], vec![0.0; num_keys * key_width]);
    let mut key_blocks = Vec::new();
    let (mut dk_rest, mut dv_rest, mut row) = (dk.as_mut_slice(), dv.as_mut_slice(), 0);
    for span in &layout.spans {
        // Under autodiff every key has one reader; rows between spans keep gradient 0.
        assert!(span.keys.start >= row, "attention: the backward pass takes spans whose keys follow one another");
        let skipped = (span.keys.start - row) * key_width;
        (dk_rest, dv_rest) = (&mut dk_rest[skipped..], &mut dv_rest[skipped..]);
        for first in (0..span.keys.len()).step_by(BLOCK) {
            let len = BLOCK.min(span.keys.len() - first) * key_width;
            let (dk, dk_tail) = dk_rest.split_at_mut(len);
            let (dv, dv_tail) = dv_rest.split_at_mut(len);
            (dk_rest, dv_rest) = (dk_tail, dv_tail);
            key_blocks.push((span, first, dk, dv));
        }
        row = span.keys.end;
    }
    key_blocks.into_par_iter().for_each_init(Scratch::default, |scratch, (span, first, dk, dv)| {
        key_block(&inputs, span, first, dk, dv, scratch);
    });

    let keys = [num_keys, key_width];
    [tensor_of(dq, [num_queries, width]), tensor_of(dk, keys), tensor_of(dv, keys)]
}

#[derive(Default)]
struct Scratch {
    weights: Vec<f32>,
    grads: Vec<f32>,
}

fn query_block(inputs: &Inputs, span: &Span, first: usize, dq: &mut [f32], scratch: &mut Scratch) {
    let layout = inputs.layout;
    let AttentionLayout { num_heads, head_dim, .. } = *layout;
    let (width, key_width, scale) = (layout.query_width(), layout.key_width(), layout.scale());
    let rows = dq.len() / width;
    let first_row = span.queries.start + first;
    let num_keys = span.prefix() + first + rows;
    scratch.weights.resize(rows * num_keys, 0.0);
    scratch.grads.resize(rows * num_keys, 0.0);

    for head in 0..num_heads {
        let query_start = first_row * width + head * head_dim;
        let key_start = span.keys.start * key_width + head / layout.heads_per_key_head() * head_dim;
        let queries = Matrix::strided(&inputs.q[query_start..], rows, head_dim, width);
        let grad = Matrix::strided(&inputs.grad[query_start..], rows, head_dim, width);
        let keys = Matrix::strided(&inputs.k[key_start..], num_keys, head_dim, key_width);
        let values = Matrix::strided(&inputs.v[key_start..], num_keys, head_dim, key_width);
        product(&mut scratch.weights, num_keys, Write::Replace, queries, keys.transposed(), layout.plan());
        product(&mut scratch.grads, num_keys, Write::Replace, grad, values.transposed(), layout.plan());
        let pairs = scratch.weights.chunks_exact_mut(num_keys).zip(scratch.grads.chunks_exact(num_keys));
        for (row, (weights, grads)) in pairs.enumerate() {
            let at = head * inputs.num_queries + first_row + row;
            let (seen, future) = weights.split_at_mut(num_keys - (rows - 1 - row));
            vector::exp_in_place(seen, scale, inputs.logsumexp[at]);
            vector::softmax_backward_row(seen, grads, inputs.delta[at], scale);
            future.fill(0.0);
        }
        let d_scores = Matrix::dense(&scratch.weights, rows, num_keys);
        product(&mut dq[head * head_dim..], width, Write::Replace, d_scores, keys, layout.plan());
    }
}

fn key_block(inputs: &Inputs, span: &Span, first: usize, dk: &mut [f32], dv: &mut [f32], scratch: &mut Scratch) {
    let layout = inputs.layout;
    let AttentionLayout { num_heads, head_dim, .. } = *layout;
    let (width, key_width, scale) = (layout.query_width(), layout.key_width(), layout.scale());
    let rows = dk.len() / key_width;
    // The first query that sees the block's first key; keys of the prefix are seen by all.
    let first_query = first.saturating_sub(span.prefix());
    let num_queries = span.queries.len() - first_query;
    if num_queries == 0 {
        return;
    }
    let first_row = span.queries.start + first_query;
    scratch.weights.resize(rows * num_queries, 0.0);
    scratch.grads.resize(rows * num_queries, 0.0);

    for head in 0..num_heads {
        let key_column = head / layout.heads_per_key_head() * head_dim;
        let key_start = (span.keys.start + first) * key_width + key_column;
        let query_start = first_row * width + head * head_dim;
        let keys = Matrix::strided(&inputs.k[key_start..], rows, head_dim, key_width);
        let values = Matrix::strided(&inputs.v[key_start..], rows, head_dim, key_width);
        let queries = Matrix::strided(&inputs.q[query_start..], num_queries, head_dim, width);
        let grad = Matrix::strided(&inputs.grad[query_start..], num_queries, head_dim, width);
        let at = head * inputs.num_queries + first_row;
        let logsumexp = &inputs.logsumexp[at..at + num_queries];
        let delta = &inputs.delta[at..at + num_queries];

        product(&mut scratch.weights, num_queries, Write::Replace, keys, queries.transposed(), layout.plan());
        for (row, weights) in scratch.weights.chunks_exact_mut(num_queries).enumerate() {
            // Query `j` of the block sees key `first + row` from position `prefix + first_query + j` on.
            let blind = (first + row).saturating_sub(span.prefix() + first_query).min(num_queries);
            let (blind, seen) = weights.split_at_mut(blind);
            blind.fill(0.0);
            vector::exp_columns(seen, scale, &logsumexp[blind.len()..]);
        }
        let weights = Matrix::dense(&scratch.weights, rows, num_queries);
        product(&mut dv[key_column..], key_width, Write::Add, weights, grad, layout.plan());

        product(&mut scratch.grads, num_queries, Write::Replace, values, grad.transposed(), layout.plan());
        let pairs = scratch.weights.chunks_exact_mut(num_queries).zip(scratch.grads.chunks_exact(num_queries));
        for (weights, grads) in pairs {
            vector::softmax_backward_columns(weights, grads, delta, scale);
        }
        let d_scores = Matrix::dense(&scratch.weights, rows, num_queries);
        product(&mut dk[key_column..], key_width, Write::Add, d_scores, queries, layout.plan());
    }
}
