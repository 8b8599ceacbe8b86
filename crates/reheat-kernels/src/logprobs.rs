//! Log-probabilities of labels under a language-model head, without ever holding `[tokens, vocabulary]`.
//!
//! Logits exist for a chunk of tokens at a time; the pass that takes gradients consumes a chunk before the next is
//! made (the idea of Wijmans et al. 2025, Cut Your Losses, arXiv:2411.09009, by chunks of tokens).

mod cpu;
#[cfg(feature = "cube")]
mod cube;

use burn::tensor::{Int, Tensor, TensorData, activation};

use crate::choice::runs_on_cpu;
#[cfg(feature = "cube")]
use crate::choice::runs_on_cube;
use crate::linear;
use crate::{Compute, Weight};

/// Label of a position that is not scored.
pub const IGNORE_INDEX: i32 = -100;

/// Bytes of logits held at a time: 276 tokens of Qwen2.5's vocabulary. Each chunk reads the whole head twice and its
/// gradient once; they are held while every block's activations are.
pub const LOGITS_BYTES: usize = 160 << 20;

/// What the head says about each label; zero where the label is [`IGNORE_INDEX`].
#[derive(Debug, Clone)]
pub struct TokenLogprobs {
    /// `log p(label)` in nats, `[tokens]`, f32.
    pub logprobs: Tensor<1>,
    /// Entropy of the whole distribution in nats, `[tokens]`, f32.
    pub entropy: Tensor<1>,
    /// 1 where the label is the most likely token (the first of equals), `[tokens]`, f32.
    pub is_top1: Tensor<1>,
    /// Mean of the logits over the vocabulary, `[tokens]`, f32.
    pub mean_logit: Tensor<1>,
    /// Mean of the log-probabilities over the vocabulary in nats, `[tokens]`, f32.
    pub mean_logprob: Tensor<1>,
    /// `log Σ p²` over the vocabulary, the log-probability that the distribution expects of its own tokens, `[tokens]`,
    /// f32.
    pub log_sum_sq_probs: Tensor<1>,
}

/// Gradients of an objective of the log-probabilities.
#[derive(Debug, Clone)]
pub struct LogprobGradients {
    /// `[tokens, hidden]`.
    pub hidden: Tensor<2>,
    /// `[vocabulary, hidden]`, added to what was given and in its type; `None` for a frozen head.
    pub head: Option<Tensor<2>>,
}

/// Derivatives of an objective with respect to what the head says about some tokens.
#[derive(Debug, Clone)]
pub struct TokenDerivatives {
    /// With respect to each log-probability, `[tokens]`.
    pub logprobs: Tensor<1>,
    /// With respect to each entropy, `[tokens]`; `None` where the objective does not know of it.
    pub entropy: Option<Tensor<1>>,
}

impl From<Tensor<1>> for TokenDerivatives {
    fn from(logprobs: Tensor<1>) -> Self {
        Self { logprobs, entropy: None }
    }
}

/// Derivatives of the objective with respect to the log-probabilities of one chunk, and to its entropies.
///
/// Gets the positions of the chunk's tokens and their log-probabilities `[chunk]`, gives `[chunk]`.
pub type ObjectiveGradient<'a> = &'a dyn Fn(&[usize], Tensor<1>) -> TokenDerivatives;

/// Log-probability of each label, and what else a row of logits tells.
///
/// # Shapes
/// - `hidden`: `[tokens, hidden]`, normalised, ready for the head
/// - `head`: `[vocabulary, hidden]`; its product with the hidden states is taken in `compute`
/// - `labels`: one per token, already shifted; [`IGNORE_INDEX`] where there is none
///
/// # Panics
/// If a label is neither [`IGNORE_INDEX`] nor an id below the vocabulary size, or counts differ.
pub fn token_logprobs(hidden: Tensor<2>, head: impl Into<Weight>, labels: &[i32], compute: Compute) -> TokenLogprobs {
    let head = head.into();
    let scored = Scored::new(&hidden, &head, labels);
    if runs_on_cpu(&hidden) {
        return cpu::forward(hidden, head, &scored, compute);
    }
    #[cfg(feature = "cube")]
    if runs_on_cube(&hidden) {
        return cube::forward(hidden, head, &scored, compute);
    }
    let parts = scored.chunks().map(|chunk| reference_chunk(&scored, chunk, &hidden, &head, compute).stats).collect();
    scored.scatter_stats(parts, &hidden)
}

/// [`token_logprobs`], and in the same pass the gradients of an objective of the log-probabilities.
///
/// `head_gradient` is what the head's gradient has gathered so far, f32 or bf16, or `None` for a frozen head. A sum in
/// bf16 is rounded once per chunk of tokens, and its products are taken in bf16.
///
/// With a `label_smoothing` ε above 0, what `objective` gives is the derivative with respect to
/// `(1 - ε) log p(label) + ε mean log p`, the mean being over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
///
/// # Shapes
/// As [`token_logprobs`]; `head_gradient`: `[vocabulary, hidden]`.
///
/// # Panics
/// As [`token_logprobs`].
pub fn token_logprobs_vjp(
    hidden: Tensor<2>,
    head: impl Into<Weight>,
    labels: &[i32],
    head_gradient: Option<Tensor<2>>,
    objective: ObjectiveGradient,
    label_smoothing: f64,
    compute: Compute,
) -> (TokenLogprobs, LogprobGradients) {
    let head = head.into();
    let scored = Scored::new(&hidden, &head, labels).smoothed(label_smoothing);
    if runs_on_cpu(&hidden) {
        return cpu::vjp(hidden, head, &scored, head_gradient, objective, compute);
    }
    #[cfg(feature = "cube")]
    if runs_on_cube(&hidden) {
        return cube::vjp(hidden, head, &scored, head_gradient, objective, compute);
    }
    reference_vjp(hidden, head, &scored, head_gradient, objective, compute)
}

/// The definition in Burn operations, for every device and as the oracle of the fused one.
pub(crate) fn reference_vjp(
    hidden: Tensor<2>,
    head: Weight,
    scored: &Scored,
    head_gradient: Option<Tensor<2>>,
    objective: ObjectiveGradient,
    compute: Compute,
) -> (TokenLogprobs, LogprobGradients) {
    let mut d_head = head_gradient;
    let mut d_hidden = hidden.zeros_like();
    let mut parts = Vec::new();
    for chunk in scored.chunks() {
        let ReferenceChunk { rows, index, log_softmax, one_hot, stats } =
            reference_chunk(scored, chunk, &hidden, &head, compute);
        let TokenDerivatives { logprobs, entropy } = objective(chunk, stats.logprobs.clone());
        let probs = log_softmax.clone().exp(); // [chunk, vocab]
        // d log p(label) / d logits = one_hot - softmax, and of the mean of log p: 1 / vocab - softmax.
        let targets = one_hot * (1.0 - scored.smoothing) + scored.smoothing / head.dims()[0] as f64;
        let mut d_logits = (targets - probs.clone()) * logprobs.unsqueeze_dim::<2>(1); // [chunk, vocab]
        if let Some(weights) = entropy {
            // dH / d logits = -p·(log p + H)
            let surprise = log_softmax + stats.entropy.clone().unsqueeze_dim::<2>(1);
            d_logits = d_logits - probs * surprise * weights.unsqueeze_dim::<2>(1);
        }
        let rounded = |factor: Tensor<2>| linear::rounded(factor, compute);
        d_head = d_head.map(|sum| {
            let dtype = sum.dtype();
            let product = rounded(d_logits.clone()).transpose().matmul(rounded(rows));
            (sum.cast(burn::tensor::DType::F32) + product).cast(dtype)
        });
        // Integers are exact in either type; their scales go with the logits.
        let d_rows = match &head {
            Weight::Float(head) => rounded(d_logits).matmul(rounded(head.clone())),
            Weight::Int8(head) => {
                let scaled = d_logits * head.scales().unsqueeze::<2>();
                rounded(scaled).matmul(head.values().float().cast(burn::tensor::DType::F32))
            }
        };
        d_hidden = d_hidden.select_assign(0, index, d_rows, burn::tensor::IndexingUpdateOp::Add);
        parts.push(stats);
    }
    let stats = scored.scatter_stats(parts, &hidden);
    (stats, LogprobGradients { hidden: d_hidden, head: d_head })
}

/// The positions that carry a label, which alone meet the head.
pub(crate) struct Scored {
    /// In ascending order.
    positions: Vec<usize>,
    /// Label of each position in `positions`.
    labels: Vec<usize>,
    num_tokens: usize,
    chunk: usize,
    /// Share of a label that is spread over the vocabulary.
    smoothing: f64,
}

impl Scored {
    pub(crate) fn new(hidden: &Tensor<2>, head: &Weight, labels: &[i32]) -> Self {
        let ([num_tokens, width], [vocab_size, head_width]) = (hidden.dims(), head.dims());
        assert_eq!(labels.len(), num_tokens, "one label per token");
        assert_eq!(width, head_width, "the head takes another width than hidden has");
        let (positions, labels) = labels
            .iter()
            .enumerate()
            .filter(|(_, label)| **label != IGNORE_INDEX)
            .map(|(position, label)| {
                let label = usize::try_from(*label).expect("a label is an id or IGNORE_INDEX");
                assert!(label < vocab_size, "label {label} is outside the vocabulary of {vocab_size}");
                (position, label)
            })
            .unzip();
        let chunk = (LOGITS_BYTES / (vocab_size * size_of::<f32>())).max(1);
        Self { positions, labels, num_tokens, chunk, smoothing: 0.0 }
    }

    /// With a share of every label spread over the vocabulary.
    pub(crate) fn smoothed(self, smoothing: f64) -> Self {
        Self { smoothing, ..self }
    }

    fn chunks(&self) -> impl Iterator<Item = &[usize]> {
        self.positions.chunks(self.chunk)
    }

    /// Labels of a chunk that [`Self::chunks`] gave.
    fn labels_of(&self, chunk: &[usize]) -> &[usize] {
        let start = self.positions.partition_point(|position| *position < chunk[0]);
        &self.labels[start..start + chunk.len()]
    }

    fn scatter_stats(&self, parts: Vec<TokenLogprobs>, like: &Tensor<2>) -> TokenLogprobs {
        let device = like.device().inner();
        let zeros = || Tensor::<1>::zeros([self.num_tokens], (&device, burn::tensor::DType::F32));
        if parts.is_empty() {
            return TokenLogprobs {
                logprobs: zeros(),
                entropy: zeros(),
                is_top1: zeros(),
                mean_logit: zeros(),
                mean_logprob: zeros(),
                log_sum_sq_probs: zeros(),
            };
        }
        let index = int_tensor(&self.positions, &device);
        let scatter = |pick: fn(&TokenLogprobs) -> Tensor<1>| {
            let values = Tensor::cat(parts.iter().map(pick).collect(), 0);
            zeros().select_assign(0, index.clone(), values, burn::tensor::IndexingUpdateOp::Add)
        };
        TokenLogprobs {
            logprobs: scatter(|part| part.logprobs.clone()),
            entropy: scatter(|part| part.entropy.clone()),
            is_top1: scatter(|part| part.is_top1.clone()),
            mean_logit: scatter(|part| part.mean_logit.clone()),
            mean_logprob: scatter(|part| part.mean_logprob.clone()),
            log_sum_sq_probs: scatter(|part| part.log_sum_sq_probs.clone()),
        }
    }
}

struct ReferenceChunk {
    rows: Tensor<2>,
    index: Tensor<1, Int>,
    log_softmax: Tensor<2>,
    one_hot: Tensor<2>,
    stats: TokenLogprobs,
}

/// One chunk of the definition.
fn reference_chunk(
    scored: &Scored,
    chunk: &[usize],
    hidden: &Tensor<2>,
    head: &Weight,
    compute: Compute,
) -> ReferenceChunk {
    let device = hidden.device();
    let index = int_tensor(chunk, &device);
    let rows = hidden.clone().select(0, index.clone()); // [chunk, hidden]
    let logits = linear::reference(rows.clone(), head.clone(), None, compute).cast(burn::tensor::DType::F32); // [chunk, vocab]
    let labels = int_tensor(scored.labels_of(chunk), &device).unsqueeze_dim::<2>(1); // [chunk, 1]
    let mean_logit = logits.clone().mean_dim(1).squeeze_dim::<1>(1);
    let log_softmax = activation::log_softmax(logits, 1);
    let one_hot = log_softmax.zeros_like().scatter(
        1,
        labels.clone(),
        Tensor::ones([chunk.len(), 1], &device),
        burn::tensor::IndexingUpdateOp::Add,
    );
    let stats = TokenLogprobs {
        logprobs: log_softmax.clone().gather(1, labels.clone()).squeeze_dim::<1>(1),
        entropy: (log_softmax.clone().exp() * log_softmax.clone()).sum_dim(1).neg().squeeze_dim::<1>(1),
        is_top1: log_softmax.clone().argmax(1).equal(labels).float().squeeze_dim::<1>(1),
        mean_logit,
        mean_logprob: log_softmax.clone().mean_dim(1).squeeze_dim::<1>(1),
        log_sum_sq_probs: (log_softmax.clone() * 2.0).exp().sum_dim(1).log().squeeze_dim::<1>(1),
    };
    ReferenceChunk { rows, index, log_softmax, one_hot, stats }
}

fn int_tensor(values: &[usize], device: &burn::tensor::Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|value| *value as i64).collect();
    Tensor::from_data(TensorData::from(values.as_slice()), device)
}
