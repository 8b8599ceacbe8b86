//! Sequences laid end to end, some of which go on after another.

use burn::tensor::{Int, Tensor};
use reheat_kernels::{AttentionLayout, Span, causal_attention};

use crate::{Qkv, Qwen2};

/// Where sequences lie among the rows of a forward pass.
///
/// A sequence may go on after an earlier one, such as an answer after a prompt that others answer too. Its queries then
/// see that one's keys before its own, so that a shared beginning is computed once.
#[derive(Debug, Clone)]
pub struct SequenceLayout {
    attention: AttentionLayout,
    /// Rows of keys and values in the order in which queries see them; as they are where nothing is shared.
    key_rows: Option<Vec<i32>>,
    positions: Vec<usize>,
}

impl SequenceLayout {
    /// Position of each row in its sequence, with what that goes on after.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// What each query sees, `[tokens, num_attention_heads * head_dim]`.
    pub(crate) fn attend(&self, Qkv { q, k, v }: Qkv) -> Tensor<2> {
        let Some(rows) = &self.key_rows else { return causal_attention(q, k, v, &self.attention) };
        let index = Tensor::<1, Int>::from_data(rows.as_slice(), &k.device());
        causal_attention(q, k.select(0, index.clone()), v.select(0, index), &self.attention)
    }
}

impl Qwen2 {
    /// Sequences of the given lengths laid end to end. `continues` gives for each the earlier one that it goes on after,
    /// if any; it may be empty where none does.
    ///
    /// # Panics
    /// If a sequence goes on after itself, a later one, or one that goes on after another.
    pub fn sequence_layout(&self, seq_lens: &[usize], continues: &[Option<usize>]) -> SequenceLayout {
        let config = self.config();
        let heads = (config.num_attention_heads, config.num_key_value_heads);
        let packed = AttentionLayout::packed(heads.0, heads.1, config.head_dim, seq_lens);
        let mut attention = AttentionLayout { compute: self.compute(), ..packed };
        if continues.iter().all(Option::is_none) {
            let positions = seq_lens.iter().flat_map(|len| 0..*len).collect();
            return SequenceLayout { attention, key_rows: None, positions };
        }
        let own: Vec<_> = attention.spans.iter().map(|span| span.queries.clone()).collect();
        let (mut key_rows, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::with_capacity(own.len()));
        for (index, queries) in own.iter().enumerate() {
            let before = continues[index].map_or(0..0, |earlier| {
                assert!(
                    earlier < index && continues[earlier].is_none(),
                    "a sequence goes on after a whole, earlier one"
                );
                own[earlier].clone()
            });
            positions.extend(before.len()..before.len() + queries.len());
            let start = key_rows.len();
            key_rows.extend(before.chain(queries.clone()).map(|row| row as i32));
            spans.push(Span { queries: queries.clone(), keys: start..key_rows.len() });
        }
        attention.spans = spans;
        SequenceLayout { attention, key_rows: Some(key_rows), positions }
    }
}
