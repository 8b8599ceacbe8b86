//! Causal attention over sequences laid end to end, with grouped key-value heads.
//!
//! Memory is linear in the sequence: scores exist for one block of queries (or keys) and one head at a time, and the
//! backward pass computes them again from the saved log-sum-exp (Dao 2023, FlashAttention-2, arXiv:2307.08691).

mod backward;
mod forward;
#[cfg(feature = "cube")]
mod cube;

use std::ops::Range;

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Bool, Tensor, activation};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn_flex::FlexTensor;

use crate::choice::runs_on_cpu;
use crate::kernel::{Kernel, tracked};
use crate::linear;
use crate::matrix::{Compute, Plan, Threads};

/// One sequence: its rows among the queries and among the keys.
///
/// There are at least as many keys as queries, and the last query meets the last key, so that a query after a cached
/// prefix sees the whole prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
}

impl Span {
    /// Keys that precede the first query: 0 without a cache.
    fn prefix(&self) -> usize {
        self.keys.len() - self.queries.len()
    }
}

/// How heads are laid out in a row, and which rows belong together.
#[derive(Debug, Clone)]
pub struct AttentionLayout {
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads; each serves `num_heads / num_key_value_heads` query heads in turn.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The sequences, in row order and covering every query.
    pub spans: Vec<Span>,
    /// Type in which products are taken; the softmax is f32.
    pub compute: Compute,
}

impl AttentionLayout {
    /// Sequences of the given lengths laid end to end, each attending to itself alone.
    pub fn packed(num_heads: usize, num_key_value_heads: usize, head_dim: usize, seq_lens: &[usize]) -> Self {
        let mut start = 0;
        let spans = seq_lens
            .iter()
            .map(|len| {
                let rows = start..start + len;
                start += len;
                Span { queries: rows.clone(), keys: rows }
            })
            .collect();
        Self { num_heads, num_key_value_heads, head_dim, spans, compute: Compute::F32 }
    }

    /// A task's products stay on its thread.
    fn plan(&self) -> Plan {
        Plan { threads: Threads::One, compute: self.compute }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    fn heads_per_key_head(&self) -> usize {
        self.num_heads / self.num_key_value_heads
    }

    /// # Panics
    /// If the spans do not tile the queries or leave the keys, or the heads do not divide.
    fn check(&self, q: [usize; 2], k: [usize; 2], v: [usize; 2]) {
        assert_eq!(self.num_heads % self.num_key_value_heads, 0, "attention: key-value heads do not divide heads");
        assert_eq!(q[1], self.query_width(), "attention: width of the queries");
        assert_eq!((k[1], v[1]), (self.key_width(), self.key_width()), "attention: widths of keys and values");
        assert_eq!(k[0], v[0], "attention: keys and values differ in number");
        let mut next = 0;
        for span in &self.spans {
            assert_eq!(span.queries.start, next, "attention: spans must follow one another");
            assert!(span.keys.end <= k[0], "attention: a span leaves the keys");
            assert!(span.keys.len() >= span.queries.len(), "attention: fewer keys than queries");
            next = span.queries.end;
        }
        assert_eq!(next, q[0], "attention: spans must cover the queries");
    }
}

/// `softmax(q·kᵀ / sqrt(head_dim)) · v` per head, each query seeing the keys of its sequence up to its own position.
///
/// # Shapes
/// - `q`: `[queries, num_heads * head_dim]`
/// - `k`, `v`: `[keys, num_key_value_heads * head_dim]`
/// - returns: `[queries, num_heads * head_dim]`
///
/// # Panics
/// If the layout does not fit the tensors.
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    layout.check(q.dims(), k.dims(), v.dims());
    if !runs_on_cpu(&q) && !runs_tiled(&q, layout) {
        return reference(q, k, v, layout);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::causal_attention(q, k, v, layout.clone()))
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let AttentionLayout { num_heads, num_key_value_heads, head_dim, .. } = *layout;
    let group = layout.heads_per_key_head();
    let heads = |rows: Tensor<2>, range: &Range<usize>, count: usize| {
        rows.slice([range.clone()]).reshape([range.len(), count, head_dim]).swap_dims(0, 1) // [heads, rows, head_dim]
    };
    // Under autodiff a batched product does not broadcast its batch, so key-value heads are repeated.
    let repeated = |rows: Tensor<2>, range: &Range<usize>| {
        heads(rows, range, num_key_value_heads).unsqueeze_dim::<4>(1).repeat_dim(1, group).reshape([
            num_heads,
            range.len(),
            head_dim,
        ])
    };
    let outputs = layout.spans.iter().filter(|span| !span.queries.is_empty()).map(|span| {
        let queries = heads(q.clone(), &span.queries, num_heads);
        let keys = repeated(k.clone(), &span.keys);
        let values = repeated(v.clone(), &span.keys);
        let rounded = |factor| linear::rounded(factor, layout.compute);
        let scores = rounded(queries).matmul(rounded(keys).transpose()) * layout.scale(); // [heads, queries, keys]
        let future: Tensor<2, Bool> =
            Tensor::tril_mask([span.queries.len(), span.keys.len()], span.prefix() as i64, &scores.device().inner());
        let scores = scores.mask_fill(future.unsqueeze::<3>(), f32::NEG_INFINITY);
        rounded(activation::softmax(scores, 2))
            .matmul(rounded(values))
            .swap_dims(0, 1)
            .reshape([span.queries.len(), num_heads * head_dim])
    });
    Tensor::cat(outputs.collect(), 0)
}

/// Whether the kernel in CubeCL takes the queries: a tile of heads must fit the device's shared memory.
#[cfg_attr(not(feature = "cube"), expect(unused_variables, reason = "no such device is built in"))]
fn runs_tiled(q: &Tensor<2>, layout: &AttentionLayout) -> bool {
    #[cfg(feature = "cube")]
    if crate::choice::runs_on_cube(q) {
        return cube::fits(q, layout.head_dim);
    }
    false
}

#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait AttentionOps: Backend {
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> FloatTensor<Self>;
}

/// What [`Kernel`]s of the operation are for.
#[derive(Debug)]
pub(crate) struct CausalAttention {
    layout: AttentionLayout,
}

impl<B: Backend> AttentionOps for B
where
    CausalAttention: Kernel<B, 3>,
{
    fn causal_attention(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        layout: AttentionLayout,
    ) -> FloatTensor<B> {
        CausalAttention { layout }.forward([q, k, v]).0
    }
}

impl<B: Backend, C: CheckpointStrategy> AttentionOps for Autodiff<B, C>
where
    CausalAttention: Kernel<B, 3>,
{
    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: AttentionLayout,
    ) -> FloatTensor<Self> {
        tracked::<B, _, C, 3>(CausalAttention { layout }, [q, k, v])
    }
}

/// What the backward pass on the CPU reads.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    output: FlexTensor,
    /// Log-sum-exp of the scaled scores, `[queries, num_heads]`.
    logsumexp: Vec<f32>,
}

impl Kernel<Flex, 3> for CausalAttention {
    type Saved = Saved;

    fn forward(&self, inputs: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        let [q, k, v] = inputs.map(|input| input.to_contiguous());
        let forward::Forward { output, logsumexp } = forward::forward(&q, &k, &v, &self.layout);
        (output.clone(), Saved { q, k, v, output, logsumexp })
    }

    fn backward(&self, saved: Saved, grad: FlexTensor) -> [Option<FlexTensor>; 3] {
        backward::backward(&saved, &grad.to_contiguous(), &self.layout).map(Some)
    }
}
