//! The kernels in CubeCL, between Burn's matrix products: one reads the logits of a chunk of tokens, one turns them
//! into their gradients where they lie.

use burn::tensor::{DType, IndexingUpdateOp, Tensor, activation};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{LogprobGradients, ObjectiveGradient, Scored, TokenDerivatives, TokenLogprobs, int_tensor};
use crate::cube::{UNITS, cube_max, cube_sum, cubes, dense, elementwise, empty, owned, size, sizes, upload};
use crate::{Compute, Weight, linear};

/// Results per token that the first kernel writes: those of [`TokenLogprobs`], and the log-sum-exp.
const RESULTS: usize = 7;

pub(super) fn forward(hidden: Tensor<2>, head: Weight, scored: &Scored, compute: Compute) -> TokenLogprobs {
    let head = Head::new(head, compute);
    let parts = scored.chunks().map(|chunk| Chunk::score(&hidden, &head, scored, chunk).stats).collect();
    scored.scatter_stats(parts, &hidden)
}

pub(super) fn vjp(
    hidden: Tensor<2>,
    head: Weight,
    scored: &Scored,
    head_gradient: Option<Tensor<2>>,
    objective: ObjectiveGradient,
    compute: Compute,
) -> (TokenLogprobs, LogprobGradients) {
    let head = Head::new(head, compute);
    let mut d_head = head_gradient;
    let mut d_hidden = hidden.zeros_like();
    let mut parts = Vec::new();
    for positions in scored.chunks() {
        let chunk = Chunk::score(&hidden, &head, scored, positions);
        let TokenDerivatives { logprobs, entropy } = objective(positions, chunk.stats.logprobs.clone());
        parts.push(chunk.stats.clone());
        let (rows, index) = (chunk.rows.clone(), chunk.index.clone());
        let of_entropy = entropy.map(|weights| chunk.entropy_gradients(weights));
        let mut d_logits = chunk.into_gradients(logprobs, scored.smoothing as f32); // [chunk, vocab]
        if let Some(of_entropy) = of_entropy {
            d_logits = d_logits - of_entropy;
        }
        d_head = d_head.map(|sum| {
            let dtype = sum.dtype();
            let product = head.rounded(d_logits.clone()).transpose().matmul(head.rounded(rows));
            (sum.cast(DType::F32) + product).cast(dtype)
        });
        let d_rows = head.rounded(head.scaled(d_logits)).matmul(head.factor.clone());
        d_hidden = d_hidden.select_assign(0, index, d_rows, IndexingUpdateOp::Add);
    }
    let stats = scored.scatter_stats(parts, &hidden);
    (stats, LogprobGradients { hidden: d_hidden, head: d_head })
}

/// The head in the form in which products take it, made once for all chunks.
struct Head {
    /// `[vocabulary, hidden]`, f32: the integers of an int8 head, and the numbers of another.
    factor: Tensor<2>,
    /// Of the rows of an int8 head.
    scales: Option<Tensor<1>>,
    compute: Compute,
}

impl Head {
    fn new(head: Weight, compute: Compute) -> Self {
        match head {
            Weight::Float(head) => Self { factor: linear::rounded(head, compute), scales: None, compute },
            Weight::Int8(head) => {
                Self { factor: head.values().float().cast(DType::F32), scales: Some(head.scales()), compute }
            }
        }
    }

    fn rounded(&self, factor: Tensor<2>) -> Tensor<2> {
        linear::rounded(factor, self.compute)
    }

    /// Columns, one per token of the vocabulary, with the scales of an int8 head.
    fn scaled(&self, columns: Tensor<2>) -> Tensor<2> {
        match &self.scales {
            Some(scales) => columns * scales.clone().unsqueeze::<2>(),
            None => columns,
        }
    }
}

/// One chunk of tokens, scored.
struct Chunk {
    rows: Tensor<2>,
    index: Tensor<1, burn::tensor::Int>,
    stats: TokenLogprobs,
    logits: CubeTensor,
    labels: CubeTensor,
    results: CubeTensor,
}

impl Chunk {
    fn score(hidden: &Tensor<2>, head: &Head, scored: &Scored, positions: &[usize]) -> Self {
        let index = int_tensor(positions, &hidden.device());
        let rows = hidden.clone().select(0, index.clone()); // [chunk, hidden]
        let product = head.rounded(rows.clone()).matmul(head.factor.clone().transpose());
        let logits = dense(head.scaled(product)); // [chunk, vocab]
        let [tokens, vocab_size] = sizes(&logits);
        let labels: Vec<u32> = scored.labels_of(positions).iter().map(|label| size(*label)).collect();
        let labels = upload(&logits, &labels);
        let results = empty(&logits, [RESULTS, tokens]);
        score::launch(
            &logits.client,
            cubes(&logits.client, tokens),
            CubeDim::new_1d(UNITS as u32),
            logits.clone().into_buffer_arg(),
            labels.clone().into_buffer_arg(),
            results.clone().into_buffer_arg(),
            size(tokens),
            size(vocab_size),
            UNITS,
        );
        let table = Tensor::<2>::from_primitive::<CubeBackend>(results.clone());
        let result = |row: usize| table.clone().narrow(0, row, 1).squeeze_dim::<1>(0);
        let stats = TokenLogprobs {
            logprobs: result(0),
            entropy: result(1),
            is_top1: result(2),
            mean_logit: result(3),
            mean_logprob: result(4),
            log_sum_sq_probs: result(5),
        };
        Self { rows, index, stats, logits, labels, results }
    }

    /// `weight · p·(log p + H)`, in Burn operations: an objective that knows of entropies is rare.
    fn entropy_gradients(&self, weights: Tensor<1>) -> Tensor<2> {
        let log_p = activation::log_softmax(Tensor::<2>::from_primitive::<CubeBackend>(self.logits.clone()), 1);
        let surprise = log_p.clone() + self.stats.entropy.clone().unsqueeze_dim::<2>(1);
        log_p.exp() * surprise * weights.unsqueeze_dim::<2>(1)
    }

    /// `weight · (target - softmax)`, row by row, in the place of the logits; the target is the label, of which label
    /// smoothing spreads a share over the vocabulary.
    fn into_gradients(self, weights: Tensor<1>, smoothing: f32) -> Tensor<2> {
        let logits = owned(self.logits);
        let [tokens, vocab_size] = sizes(&logits);
        let (count, dim) = elementwise(&logits.client, tokens * vocab_size);
        gradients::launch(
            &logits.client,
            count,
            dim,
            logits.clone().into_buffer_arg(),
            self.labels.into_buffer_arg(),
            self.results.into_buffer_arg(),
            dense(weights).into_buffer_arg(),
            size(tokens),
            size(vocab_size),
            1.0 - smoothing,
            smoothing / vocab_size as f32,
        );
        Tensor::from_primitive::<CubeBackend>(logits)
    }
}

/// A cube per row of logits, which it reads twice: for the largest and for the sums.
#[cube(launch)]
fn score(logits: &[f32], labels: &[u32], results: &mut [f32], tokens: u32, vocab_size: u32, #[comptime] units: usize) {
    let row = CUBE_POS;
    let tokens = tokens as usize;
    if row >= tokens {
        terminate!();
    }
    let vocab_size = vocab_size as usize;
    let start = row * vocab_size;
    let label = labels[row] as usize;
    let mut shared = Shared::<[f32]>::new_slice(units);

    let mut largest = logits[start];
    let mut id = UNIT_POS_X as usize;
    while id < vocab_size {
        largest = max(largest, logits[start + id]);
        id += CUBE_DIM_X as usize;
    }
    let largest = cube_max(largest, &mut shared);

    let mut plain = 0.0f32;
    let mut exp = 0.0f32;
    let mut weighted = 0.0f32;
    let mut squared = 0.0f32;
    let mut earlier = 0.0f32;
    let mut id = UNIT_POS_X as usize;
    while id < vocab_size {
        let logit = logits[start + id];
        let shifted = logit - largest;
        let e = shifted.exp();
        plain += logit;
        exp += e;
        squared += e * e;
        // An impossible token has no share, where 0 times infinity would be no number.
        if e > 0.0f32 {
            weighted += e * shifted;
        }
        // The first of equal maxima is the prediction, as argmax has it.
        if id < label && logit == largest {
            earlier += 1.0f32;
        }
        id += CUBE_DIM_X as usize;
    }
    let plain = cube_sum(plain, &mut shared);
    let exp = cube_sum(exp, &mut shared);
    let weighted = cube_sum(weighted, &mut shared);
    let squared = cube_sum(squared, &mut shared);
    let earlier = cube_sum(earlier, &mut shared);
    if UNIT_POS_X == 0 {
        let log_sum = exp.ln();
        let logit = logits[start + label];
        let is_top1 = logit == largest && earlier == 0.0f32;
        results[row] = logit - (largest + log_sum);
        results[tokens + row] = log_sum - weighted / exp;
        results[2 * tokens + row] = select(is_top1, 1.0f32, 0.0f32);
        let logsumexp = largest + log_sum;
        let mean = plain / f32::cast_from(vocab_size as u32);
        results[3 * tokens + row] = mean;
        results[4 * tokens + row] = mean - logsumexp;
        results[5 * tokens + row] = squared.ln() - 2.0f32 * log_sum;
        results[6 * tokens + row] = logsumexp;
    }
}

/// One unit per logit: the label has `label_share` of the target, and every token `share` of what is left.
#[cube(launch)]
fn gradients(
    logits: &mut [f32],
    labels: &[u32],
    results: &[f32],
    weights: &[f32],
    tokens: u32,
    vocab_size: u32,
    label_share: f32,
    share: f32,
) {
    let vocab_size = vocab_size as usize;
    let tokens = tokens as usize;
    let row = ABSOLUTE_POS / vocab_size;
    if row < tokens {
        let logsumexp = results[6 * tokens + row];
        let weight = weights[row];
        let mut target = share;
        if ABSOLUTE_POS % vocab_size == labels[row] as usize {
            target += label_share;
        }
        logits[ABSOLUTE_POS] = weight * (target - (logits[ABSOLUTE_POS] - logsumexp).exp());
    }
}
