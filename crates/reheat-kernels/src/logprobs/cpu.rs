//! The CPU kernel: GEMM, one pass over each row of logits, GEMM.

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{LogprobGradients, ObjectiveGradient, Scored, TokenLogprobs};
use crate::matrix::{Matrix, Threads, Write, dense, numbers, product, tensor_of};
use crate::vector;

/// Results of one row of logits.
#[derive(Clone, Copy)]
struct Row {
    logprob: f32,
    entropy: f32,
    is_top1: f32,
    logsumexp: f32,
}

pub(super) fn forward(hidden: Tensor<2>, head: Tensor<2>, scored: &Scored) -> TokenLogprobs {
    let mut pass = Pass::new(hidden, head, scored);
    for chunk in scored.chunks() {
        pass.score(chunk);
    }
    pass.stats.into_tensors()
}

pub(super) fn vjp(
    hidden: Tensor<2>,
    head: Tensor<2>,
    scored: &Scored,
    head_gradient: Option<Tensor<2>>,
    objective: ObjectiveGradient,
) -> (TokenLogprobs, LogprobGradients) {
    let mut pass = Pass::new(hidden, head, scored);
    let mut d_hidden = vec![0.0; scored.num_tokens * pass.width];
    let mut d_head = head_gradient.map(dense);
    let mut d_rows = Vec::new();
    for chunk in scored.chunks() {
        let rows = pass.score(chunk);
        let logprobs = rows.iter().map(|row| row.logprob).collect();
        let weights = objective(chunk, Tensor::from_primitive::<Flex>(tensor_of(logprobs, [chunk.len()])));
        let weights = dense(weights);
        pass.logits_to_gradients(chunk, &rows, numbers(&weights));

        let d_logits = Matrix::dense(&pass.logits, chunk.len(), pass.vocab_size);
        let head = Matrix::dense(numbers(&pass.head), pass.vocab_size, pass.width);
        d_rows.resize(chunk.len() * pass.width, 0.0);
        product(&mut d_rows, pass.width, Write::Replace, d_logits, head, Threads::All);
        for (position, row) in chunk.iter().zip(d_rows.chunks_exact(pass.width)) {
            d_hidden[position * pass.width..][..pass.width].copy_from_slice(row);
        }
        if let Some(d_head) = &mut d_head {
            let rows = Matrix::dense(&pass.rows, chunk.len(), pass.width);
            let sum = d_head.storage_mut::<f32>();
            product(sum, pass.width, Write::Add, d_logits.transposed(), rows, Threads::All);
        }
    }
    let gradients = LogprobGradients {
        hidden: Tensor::from_primitive::<Flex>(tensor_of(d_hidden, [scored.num_tokens, pass.width])),
        head: d_head.map(Tensor::from_primitive::<Flex>),
    };
    (pass.stats.into_tensors(), gradients)
}

struct Stats {
    logprobs: Vec<f32>,
    entropy: Vec<f32>,
    is_top1: Vec<f32>,
}

impl Stats {
    fn into_tensors(self) -> TokenLogprobs {
        let tensor = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_primitive::<Flex>(tensor_of(values, [len]))
        };
        TokenLogprobs { logprobs: tensor(self.logprobs), entropy: tensor(self.entropy), is_top1: tensor(self.is_top1) }
    }
}

/// Buffers of one pass over the scored tokens, used again for every chunk.
struct Pass<'a> {
    scored: &'a Scored,
    hidden: FlexTensor,
    head: FlexTensor,
    width: usize,
    vocab_size: usize,
    /// Hidden states of the chunk, `[chunk, width]`.
    rows: Vec<f32>,
    /// `[chunk, vocab_size]`: logits, then their gradients.
    logits: Vec<f32>,
    stats: Stats,
}

impl<'a> Pass<'a> {
    fn new(hidden: Tensor<2>, head: Tensor<2>, scored: &'a Scored) -> Self {
        let ([num_tokens, width], [vocab_size, _]) = (hidden.dims(), head.dims());
        let zeros = || vec![0.0; num_tokens];
        Self {
            scored,
            hidden: dense(hidden),
            head: dense(head),
            width,
            vocab_size,
            rows: Vec::new(),
            logits: Vec::new(),
            stats: Stats { logprobs: zeros(), entropy: zeros(), is_top1: zeros() },
        }
    }

    /// Fills `rows` and `logits` for the chunk and notes its results.
    fn score(&mut self, chunk: &[usize]) -> Vec<Row> {
        let hidden = numbers(&self.hidden);
        self.rows.clear();
        for position in chunk {
            self.rows.extend_from_slice(&hidden[position * self.width..][..self.width]);
        }
        self.logits.resize(chunk.len() * self.vocab_size, 0.0);
        let rows = Matrix::dense(&self.rows, chunk.len(), self.width);
        let head = Matrix::dense(numbers(&self.head), self.vocab_size, self.width);
        product(&mut self.logits, self.vocab_size, Write::Replace, rows, head.transposed(), Threads::All);

        let results: Vec<Row> = self
            .logits
            .par_chunks_exact(self.vocab_size)
            .zip(self.scored.labels_of(chunk).par_iter())
            .map(|(logits, label)| score_row(logits, *label))
            .collect();
        for (position, row) in chunk.iter().zip(&results) {
            self.stats.logprobs[*position] = row.logprob;
            self.stats.entropy[*position] = row.entropy;
            self.stats.is_top1[*position] = row.is_top1;
        }
        results
    }

    /// Turns each row of logits into `weight · (one_hot - softmax)`.
    fn logits_to_gradients(&mut self, chunk: &[usize], rows: &[Row], weights: &[f32]) {
        self.logits
            .par_chunks_exact_mut(self.vocab_size)
            .zip(rows.par_iter())
            .zip(self.scored.labels_of(chunk).par_iter())
            .zip(weights.par_iter())
            .for_each(|(((logits, row), label), weight)| {
                vector::exp_in_place(logits, 1.0, row.logsumexp);
                vector::scale_in_place(logits, -weight);
                logits[*label] += weight;
            });
    }
}

fn score_row(logits: &[f32], label: usize) -> Row {
    let max = vector::max(logits);
    let (sum, weighted) = vector::exp_sums(logits, max);
    let logsumexp = max + sum.ln();
    // The first of equal maxima is the prediction, as argmax has it.
    let is_top1 = logits[label] == max && vector::max(&logits[..label]) < max;
    Row {
        logprob: logits[label] - logsumexp,
        entropy: sum.ln() - weighted / sum,
        is_top1: if is_top1 { 1.0 } else { 0.0 },
        logsumexp,
    }
}
