//! The CPU kernel: GEMM, one pass over each row of logits, GEMM.

use burn::backend::Flex;
use burn::tensor::{DType, Tensor};
use burn_flex::FlexTensor;
use half::bf16;
use rayon::prelude::*;

use super::{LogprobGradients, ObjectiveGradient, Scored, TokenDerivatives, TokenLogprobs};
use crate::linear::Rows;
use crate::matrix::{
    Compute, Elements, Matrix, Plan, Threads, Write, dense, elements, numbers, product, rounded_product, tensor_of,
};
use crate::{Weight, vector};

/// Results of one row of logits.
#[derive(Clone, Copy)]
struct Row {
    logprob: f32,
    entropy: f32,
    is_top1: f32,
    mean_logit: f32,
    mean_logprob: f32,
    log_sum_sq_probs: f32,
    logsumexp: f32,
}

pub(super) fn forward(hidden: Tensor<2>, head: Weight, scored: &Scored, compute: Compute) -> TokenLogprobs {
    let mut pass = Pass::new(hidden, head, scored, compute);
    for chunk in scored.chunks() {
        pass.score(chunk);
    }
    pass.stats.into_tensors()
}

pub(super) fn vjp(
    hidden: Tensor<2>,
    head: Weight,
    scored: &Scored,
    head_gradient: Option<Tensor<2>>,
    objective: ObjectiveGradient,
    compute: Compute,
) -> (TokenLogprobs, LogprobGradients) {
    let mut pass = Pass::new(hidden, head, scored, compute);
    let mut d_hidden = vec![0.0; scored.num_tokens * pass.width];
    let mut d_head = head_gradient.map(dense);
    let mut d_rows = Vec::new();
    for chunk in scored.chunks() {
        let rows = pass.score(chunk);
        let logprobs = rows.iter().map(|row| row.logprob).collect();
        let logprobs = Tensor::from_primitive::<Flex>(tensor_of(logprobs, [chunk.len()]));
        let TokenDerivatives { logprobs, entropy } = objective(chunk, logprobs);
        let (logprobs, entropy) = (dense(logprobs), entropy.map(dense));
        if let Some(entropy) = &entropy {
            pass.logits_to_gradients_with_entropy(chunk, &rows, numbers(&logprobs), numbers(entropy));
        } else {
            pass.logits_to_gradients(chunk, &rows, numbers(&logprobs));
        }

        if let Some(d_head) = &mut d_head {
            let d_logits = Matrix::dense(&pass.logits, chunk.len(), pass.vocab_size);
            let rows = Matrix::dense(&pass.rows, chunk.len(), pass.width);
            match d_head.dtype() {
                DType::BF16 => {
                    let sum = d_head.storage_mut::<bf16>();
                    rounded_product(sum, pass.width, Write::Add, d_logits.transposed(), rows);
                }
                _ => {
                    let sum = d_head.storage_mut::<f32>();
                    product(sum, pass.width, Write::Add, d_logits.transposed(), rows, pass.plan);
                }
            }
        }
        if let Head::Int8(head) = &pass.head {
            head.scale(&mut pass.logits);
        }
        let d_logits = Matrix::dense(&pass.logits, chunk.len(), pass.vocab_size);
        let head = Matrix::dense(pass.head.elements(), pass.vocab_size, pass.width);
        d_rows.resize(chunk.len() * pass.width, 0.0);
        product(&mut d_rows, pass.width, Write::Replace, d_logits, head, pass.plan);
        for (position, row) in chunk.iter().zip(d_rows.chunks_exact(pass.width)) {
            d_hidden[position * pass.width..][..pass.width].copy_from_slice(row);
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
    mean_logit: Vec<f32>,
    mean_logprob: Vec<f32>,
    log_sum_sq_probs: Vec<f32>,
}

impl Stats {
    fn into_tensors(self) -> TokenLogprobs {
        let tensor = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_primitive::<Flex>(tensor_of(values, [len]))
        };
        TokenLogprobs {
            logprobs: tensor(self.logprobs),
            entropy: tensor(self.entropy),
            is_top1: tensor(self.is_top1),
            mean_logit: tensor(self.mean_logit),
            mean_logprob: tensor(self.mean_logprob),
            log_sum_sq_probs: tensor(self.log_sum_sq_probs),
        }
    }
}

/// The head on the CPU.
enum Head {
    Float(FlexTensor),
    Int8(Rows),
}

impl Head {
    /// The numbers; those of an int8 head lack their scales.
    fn elements(&self) -> Elements<'_> {
        match self {
            Self::Float(head) => elements(head),
            Self::Int8(head) => elements(head.values()),
        }
    }
}

/// Buffers of one pass over the scored tokens, used again for every chunk.
struct Pass<'a> {
    scored: &'a Scored,
    hidden: FlexTensor,
    head: Head,
    plan: Plan,
    width: usize,
    vocab_size: usize,
    /// Hidden states of the chunk, `[chunk, width]`.
    rows: Vec<f32>,
    /// `[chunk, vocab_size]`: logits, then their gradients.
    logits: Vec<f32>,
    stats: Stats,
}

impl<'a> Pass<'a> {
    fn new(hidden: Tensor<2>, head: Weight, scored: &'a Scored, compute: Compute) -> Self {
        let ([num_tokens, width], [vocab_size, _]) = (hidden.dims(), head.dims());
        let zeros = || vec![0.0; num_tokens];
        Self {
            scored,
            hidden: dense(hidden),
            head: match head {
                Weight::Float(head) => Head::Float(dense(head)),
                Weight::Int8(head) => Head::Int8(Rows::new(head)),
            },
            plan: Plan { threads: Threads::All, compute },
            width,
            vocab_size,
            rows: Vec::new(),
            logits: Vec::new(),
            stats: Stats {
                logprobs: zeros(),
                entropy: zeros(),
                is_top1: zeros(),
                mean_logit: zeros(),
                mean_logprob: zeros(),
                log_sum_sq_probs: zeros(),
            },
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
        let head = Matrix::dense(self.head.elements(), self.vocab_size, self.width);
        product(&mut self.logits, self.vocab_size, Write::Replace, rows, head.transposed(), self.plan);
        if let Head::Int8(head) = &self.head {
            head.scale(&mut self.logits);
        }

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
            self.stats.mean_logit[*position] = row.mean_logit;
            self.stats.mean_logprob[*position] = row.mean_logprob;
            self.stats.log_sum_sq_probs[*position] = row.log_sum_sq_probs;
        }
        results
    }

    /// Turns each row of logits into `weight · (target - softmax)`; the target is the label, of which label smoothing
    /// spreads a share over the vocabulary.
    fn logits_to_gradients(&mut self, chunk: &[usize], rows: &[Row], weights: &[f32]) {
        let smoothing = self.scored.smoothing as f32;
        self.logits
            .par_chunks_exact_mut(self.vocab_size)
            .zip(rows.par_iter())
            .zip(self.scored.labels_of(chunk).par_iter())
            .zip(weights.par_iter())
            .for_each(|(((logits, row), label), weight)| {
                vector::exp_in_place(logits, 1.0, row.logsumexp);
                vector::scale_in_place(logits, -weight);
                add_targets(logits, *label, *weight, smoothing);
            });
    }

    /// As [`Self::logits_to_gradients`], less `entropy_weight · p·(log p + H)`.
    fn logits_to_gradients_with_entropy(
        &mut self,
        chunk: &[usize],
        rows: &[Row],
        weights: &[f32],
        entropy_weights: &[f32],
    ) {
        let smoothing = self.scored.smoothing as f32;
        self.logits
            .par_chunks_exact_mut(self.vocab_size)
            .zip(rows.par_iter())
            .zip(self.scored.labels_of(chunk).par_iter())
            .zip(weights.par_iter().zip(entropy_weights))
            .for_each_init(Vec::new, |scores, (((logits, row), label), (weight, entropy_weight))| {
                scores.clear();
                scores.extend_from_slice(logits);
                vector::exp_in_place(logits, 1.0, row.logsumexp);
                for (p, score) in logits.iter_mut().zip(scores.iter()) {
                    let log_p = score - row.logsumexp;
                    *p *= -(weight + entropy_weight * (log_p + row.entropy));
                }
                add_targets(logits, *label, *weight, smoothing);
            });
    }
}

/// Adds `weight` times what the softmax is to become: the label, less the share of it that is spread over the vocabulary.
fn add_targets(gradients: &mut [f32], label: usize, weight: f32, smoothing: f32) {
    if smoothing > 0.0 {
        let share = smoothing / gradients.len() as f32;
        gradients.iter_mut().for_each(|gradient| *gradient += weight * share);
    }
    gradients[label] += weight * (1.0 - smoothing);
}

fn score_row(logits: &[f32], label: usize) -> Row {
    let max = vector::max(logits);
    let sums = vector::row_sums(logits, max);
    let log_sum = sums.exp.ln();
    let logsumexp = max + log_sum;
    // The first of equal maxima is the prediction, as argmax has it.
    let is_top1 = logits[label] == max && vector::max(&logits[..label]) < max;
    let mean_logit = sums.plain / logits.len() as f32;
    Row {
        logprob: logits[label] - logsumexp,
        entropy: log_sum - sums.weighted / sums.exp,
        is_top1: if is_top1 { 1.0 } else { 0.0 },
        mean_logit,
        mean_logprob: mean_logit - logsumexp,
        log_sum_sq_probs: sums.squared.ln() - 2.0 * log_sum,
        logsumexp,
    }
}
