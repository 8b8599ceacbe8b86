//! Keys and values of the sequences under way.

use std::ops::Range;

use burn::tensor::Tensor;
use reheat_kernels::{AttentionLayout, Span, causal_attention, copy_rows, linear, write_rows};
use reheat_model::{Qkv, Qwen2};

use crate::rows::RowAllocator;

/// Keys and values of many sequences in every layer, in buffers made once.
///
/// Each sequence has rows of its own that lie end to end, one for each token.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// Per layer, `[capacity, num_key_value_heads * head_dim]`.
    layers: Vec<LayerCache>,
    rows: RowAllocator,
}

#[derive(Debug)]
struct LayerCache {
    keys: Tensor<2>,
    values: Tensor<2>,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) ids: &'a [i32],
    /// Tokens of the sequence that the cache holds already.
    pub(crate) position: usize,
    /// The row of its first token.
    pub(crate) first_row: usize,
    /// Whether the logits after its last new token are wanted.
    pub(crate) wants_logits: bool,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub(crate) fn new(model: &Qwen2, capacity: usize) -> Self {
        let config = model.config();
        let shape = [capacity, config.num_key_value_heads * config.head_dim];
        let device = model.device();
        let layer = || LayerCache { keys: Tensor::zeros(shape, &device), values: Tensor::zeros(shape, &device) };
        let layers = (0..config.num_hidden_layers).map(|_| layer()).collect();
        Self { layers, rows: RowAllocator::new(capacity) }
    }

    /// Rows for a sequence, or `None` where no gap is large enough.
    pub(crate) fn take(&mut self, count: usize) -> Option<Range<usize>> {
        self.rows.take(count)
    }

    /// Gives rows back.
    pub(crate) fn give_back(&mut self, rows: Range<usize>) {
        self.rows.give_back(rows);
    }

    /// Repeats `from`, the start of one sequence, at the start of another.
    pub(crate) fn copy(&mut self, from: Range<usize>, to: usize) {
        for layer in &mut self.layers {
            layer.keys.inplace(|keys| copy_rows(keys, from.clone(), to));
            layer.values.inplace(|values| copy_rows(values, from.clone(), to));
        }
    }

    /// One forward pass over new tokens of several sequences, laid end to end; keys and values are added.
    ///
    /// # Shapes
    /// - returns: `[segments that want logits, vocab_size]`, or `None` where none does
    pub(crate) fn forward(&mut self, model: &Qwen2, segments: &[Segment]) -> Option<Tensor<2>> {
        let config = model.config();
        let ids: Vec<i32> = segments.iter().flat_map(|segment| segment.ids).copied().collect();
        let positions: Vec<usize> =
            segments.iter().flat_map(|segment| segment.position..segment.position + segment.ids.len()).collect();
        let table = model.rotary_table(&positions);
        let places: Vec<Range<usize>> = segments
            .iter()
            .map(|segment| {
                let start = segment.first_row + segment.position;
                start..start + segment.ids.len()
            })
            .collect();
        let mut next = 0;
        let spans = segments.iter().zip(&places).map(|(segment, place)| {
            let queries = next..next + segment.ids.len();
            next = queries.end;
            Span { queries, keys: segment.first_row..place.end }
        });
        let layout = AttentionLayout {
            num_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            spans: spans.collect(),
            compute: model.compute(),
        };
        let mut x = model.embed(&ids);
        for (block, layer) in model.layers.iter().zip(&mut self.layers) {
            let Qkv { q, k, v } = block.attention_inputs(x.clone(), &table);
            // In place: nothing else holds the buffers between two passes.
            layer.keys.inplace(|keys| write_rows(keys, &places, k));
            layer.values.inplace(|values| write_rows(values, &places, v));
            let attended = causal_attention(q, layer.keys.clone(), layer.values.clone(), &layout);
            x = block.attention_outputs(x, attended);
        }
        let wanted: Vec<usize> = segments
            .iter()
            .zip(&layout.spans)
            .filter(|(segment, _)| segment.wants_logits)
            .map(|(_, span)| span.queries.end - 1)
            .collect();
        if wanted.is_empty() {
            return None;
        }
        let hidden = if wanted.len() == ids.len() { x } else { select_rows(&x, &wanted) };
        Some(linear(model.norm.forward(hidden), model.head_weight(), None, model.compute()))
    }
}

fn select_rows(x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    Tensor::cat(rows.iter().map(|row| x.clone().narrow(0, *row, 1)).collect(), 0)
}
