//! Keys and values of the tokens so far.

use burn::tensor::Tensor;
use reheat_kernels::{AttentionLayout, Span, causal_attention, linear};
use reheat_model::{Qkv, Qwen2};

/// Tokens per forward pass of a prompt: bounds the memory of a long one.
const PREFILL_CHUNK: usize = 512;

/// Keys and values of one sequence in every layer, in buffers made once.
#[derive(Debug)]
pub struct KvCache {
    /// Per layer, `[capacity, num_key_value_heads * head_dim]`.
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

#[derive(Debug)]
struct LayerCache {
    keys: Tensor<2>,
    values: Tensor<2>,
}

impl KvCache {
    /// Room for `capacity` tokens.
    pub fn new(model: &Qwen2, capacity: usize) -> Self {
        let config = model.config();
        let shape = [capacity, config.num_key_value_heads * config.head_dim];
        let device = model.device();
        let layer = || LayerCache { keys: Tensor::zeros(shape, &device), values: Tensor::zeros(shape, &device) };
        Self { layers: (0..config.num_hidden_layers).map(|_| layer()).collect(), len: 0, capacity }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Logits after the last of `input_ids`, which follow the tokens held; keys and values are added.
    ///
    /// # Shapes
    /// - returns: `[vocab_size]`
    ///
    /// # Panics
    /// If there is no id, one is outside the vocabulary, or the capacity is exceeded.
    pub fn next_logits(&mut self, model: &Qwen2, input_ids: &[i32]) -> Tensor<1> {
        assert!(!input_ids.is_empty(), "there is no token to continue from");
        let mut last = None;
        for chunk in input_ids.chunks(PREFILL_CHUNK) {
            last = Some(self.append(model, chunk));
        }
        let hidden = last.expect("there is at least one chunk");
        let rows = hidden.dims()[0];
        let hidden = model.norm.forward(hidden.narrow(0, rows - 1, 1));
        linear(hidden, model.head(), None, model.compute()).squeeze_dim::<1>(0)
    }

    /// Hidden states of the new tokens after the last block.
    fn append(&mut self, model: &Qwen2, input_ids: &[i32]) -> Tensor<2> {
        let (start, end) = (self.len, self.len + input_ids.len());
        assert!(end <= self.capacity, "the cache holds {} tokens", self.capacity);
        let config = model.config();
        let positions: Vec<usize> = (start..end).collect();
        let table = model.rotary_table(&positions);
        let layout = AttentionLayout {
            num_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            spans: vec![Span { queries: 0..input_ids.len(), keys: 0..end }],
        };
        let width = config.num_key_value_heads * config.head_dim;
        let mut x = model.embed(input_ids);
        for (block, layer) in model.layers.iter().zip(&mut self.layers) {
            let Qkv { q, k, v } = block.attention_inputs(x.clone(), &table);
            // In place: nothing else holds the buffers between two passes.
            layer.keys.inplace(|keys| keys.slice_assign([start..end, 0..width], k));
            layer.values.inplace(|values| values.slice_assign([start..end, 0..width], v));
            let attended = causal_attention(q, layer.keys.clone(), layer.values.clone(), &layout);
            x = block.attention_outputs(x, attended);
        }
        self.len = end;
        x
    }
}
