//! Forward pass on the CPU: one task per block of queries, and for a lone query one per key-value head.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{AttentionLayout, Span};
use crate::matrix::{Matrix, Write, numbers, product, tensor_of};
use crate::vector;

/// Queries per task: the scores of one head, 64 × keys, stay in the level-2 cache up to 4,000 keys.
const BLOCK: usize = 64;

pub(super) struct Forward {
    pub(super) output: FlexTensor,
    /// `[queries, num_heads]`.
    pub(super) logsumexp: Vec<f32>,
}

/// A block of queries of one span and the rows of the results that belong to it; of a lone query, the part of its row
/// that belongs to one key-value head.
struct Task<'a> {
    span: &'a Span,
    /// First query of the block, counted from the span's first.
    first: usize,
    /// `None` for all of them.
    key_head: Option<usize>,
    output: &'a mut [f32],
    logsumexp: &'a mut [f32],
}

pub(super) fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, layout: &AttentionLayout) -> Forward {
    let width = layout.query_width();
    let num_queries = q.layout().shape()[0];
    let mut output = vec![0.0; num_queries * width];
    let mut logsumexp = vec![0.0; num_queries * layout.num_heads];

    let mut tasks = Vec::new();
    let (mut output_rest, mut logsumexp_rest) = (output.as_mut_slice(), logsumexp.as_mut_slice());
    for span in &layout.spans {
        for first in (0..span.queries.len()).step_by(BLOCK) {
            let rows = BLOCK.min(span.queries.len() - first);
            let (output, rest) = output_rest.split_at_mut(rows * width);
            output_rest = rest;
            let (logsumexp, rest) = logsumexp_rest.split_at_mut(rows * layout.num_heads);
            logsumexp_rest = rest;
            if rows > 1 {
                tasks.push(Task { span, first, key_head: None, output, logsumexp });
                continue;
            }
            let group = layout.heads_per_key_head();
            let parts = output.chunks_exact_mut(group * layout.head_dim).zip(logsumexp.chunks_exact_mut(group));
            tasks.extend(parts.enumerate().map(|(key_head, (output, logsumexp))| Task {
                span,
                first,
                key_head: Some(key_head),
                output,
                logsumexp,
            }));
        }
    }
    let (q, k, v) = (numbers(q), numbers(k), numbers(v));
    tasks.into_par_iter().for_each_init(Vec::new, |scores, task| match task.key_head {
        None => attend(task, q, k, v, layout, scores),
        Some(key_head) => attend_alone(task, key_head, q, k, v, layout, scores),
    });
    Forward { output: tensor_of(output, [num_queries, width]), logsumexp }
}

fn attend(task: Task, q: &[f32], k: &[f32], v: &[f32], layout: &AttentionLayout, scores: &mut Vec<f32>) {
    let AttentionLayout { num_heads, head_dim, .. } = *layout;
    let (width, key_width, scale) = (layout.query_width(), layout.key_width(), layout.scale());
    let rows = task.output.len() / width;
    let first_row = task.span.queries.start + task.first;
    // Keys that the block's last query sees, the longest row of scores.
    let num_keys = task.span.prefix() + task.first + rows;
    scores.resize(rows * num_keys, 0.0);

    for head in 0..num_heads {
        let key_start = task.span.keys.start * key_width + head / layout.heads_per_key_head() * head_dim;
        let queries = Matrix::strided(&q[first_row * width + head * head_dim..], rows, head_dim, width);
        let keys = Matrix::strided(&k[key_start..], num_keys, head_dim, key_width);
        let values = Matrix::strided(&v[key_start..], num_keys, head_dim, key_width);
        product(scores, num_keys, Write::Replace, queries, keys.transposed(), layout.plan());
        for (row, scores) in scores.chunks_exact_mut(num_keys).enumerate() {
            let (seen, future) = scores.split_at_mut(num_keys - (rows - 1 - row));
            task.logsumexp[row * num_heads + head] = softmax(seen, scale);
            future.fill(0.0);
        }
        let weights = Matrix::dense(&*scores, rows, num_keys);
        product(&mut task.output[head * head_dim..], width, Write::Replace, weights, values, layout.plan());
    }
}

/// The heads of one query that share a key-value head: rows of one product, so that keys and values are read once.
fn attend_alone(
    task: Task,
    key_head: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    layout: &AttentionLayout,
    scores: &mut Vec<f32>,
) {
    let (head_dim, group, key_width) = (layout.head_dim, layout.heads_per_key_head(), layout.key_width());
    let num_keys = task.span.prefix() + task.first + 1;
    scores.resize(group * num_keys, 0.0);

    let query_start = (task.span.queries.start + task.first) * layout.query_width() + key_head * group * head_dim;
    let key_start = task.span.keys.start * key_width + key_head * head_dim;
    let queries = Matrix::dense(&q[query_start..], group, head_dim);
    let keys = Matrix::strided(&k[key_start..], num_keys, head_dim, key_width);
    let values = Matrix::strided(&v[key_start..], num_keys, head_dim, key_width);
    product(scores, num_keys, Write::Replace, queries, keys.transposed(), layout.plan());
    for (scores, logsumexp) in scores.chunks_exact_mut(num_keys).zip(task.logsumexp) {
        *logsumexp = softmax(scores, layout.scale());
    }
    let weights = Matrix::dense(&*scores, group, num_keys);
    product(task.output, head_dim, Write::Replace, weights, values, layout.plan());
}

/// Softmax of a row of scores in place; gives the log-sum-exp of the scaled scores.
fn softmax(scores: &mut [f32], scale: f32) -> f32 {
    let shift = vector::max(scores) * scale;
    let sum = vector::exp_in_place(scores, scale, shift);
    vector::scale_in_place(scores, 1.0 / sum);
    shift + sum.ln()
}
