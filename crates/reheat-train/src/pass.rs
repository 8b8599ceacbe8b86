//! One forward and backward pass through the model, block by block.
//!
//! The forward pass keeps each block's input. The backward pass takes one block at a time: it runs the block again
//! under autodiff, or uses the graph that the forward pass kept, and turns the gradient of the block's output into that
//! of its input and of its parameters (a vector-Jacobian product; Chen et al. 2016, arXiv:1604.06174, with one segment
//! per block).

mod backward; // from the head down, a stage at a time
mod token_rows; // gradients of single rows of the embedding

use burn::module::Module as _;
use burn::tensor::{DType, Device, Int, Tensor};
use reheat_data::{Batch, IGNORE_INDEX};
use reheat_kernels::{
    Compute, LogprobGradients, TokenDerivatives, TokenLogprobs, token_logprobs, token_logprobs_vjp, zeros,
};
use reheat_model::{Block, Qwen2, TokenRows, for_each_parameter};

pub(crate) use self::backward::BackwardPass;
use self::backward::{Context, Segment, Wanted, vjp};
use crate::{EmbeddingNoise, Gradients, Objective, ScoreGradient};

/// What the forward pass keeps of a block. The gradients are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// The block's input; the block runs once more in the backward pass.
    Recompute,
    /// The block's graph.
    Keep,
}

/// The model and how to go through it.
#[derive(Debug)]
pub struct ModelPass<'a> {
    model: &'a Qwen2,
    checkpointing: Checkpointing,
    noise: Option<EmbeddingNoise>,
    temperature: f64,
}

/// Name of the embedding, whose gradient is whole when everything else is done.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const SCORE: &str = "score.weight";
/// Name of single rows of the embedding, of which the same holds.
pub(crate) const TOKEN_ROWS: &str = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";

impl<'a> ModelPass<'a> {
    /// A pass through `model`, whose parameters are plain (not under autodiff).
    pub fn new(model: &'a Qwen2, checkpointing: Checkpointing) -> Self {
        Self { model, checkpointing, noise: None, temperature: 1.0 }
    }

    /// Adds noise to the embeddings of [`forward_backward`](Self::forward_backward).
    pub fn with_noise(self, noise: Option<EmbeddingNoise>) -> Self {
        Self { noise, ..self }
    }

    /// The same pass with logits divided by `temperature`, which is above 0.
    pub fn at_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// Hidden states whose product with the head are the logits at the pass's temperature: the head is linear, so that
    /// either can be divided.
    fn tempered(&self, hidden: Tensor<2>) -> Tensor<2> {
        if self.temperature == 1.0 { hidden } else { hidden / self.temperature }
    }

    /// Log-probabilities of the labels, without gradients.
    ///
    /// Of a reward model, the scores at the labels as `mean_logit`; the rest is zero.
    ///
    /// # Panics
    /// If an id or label is outside the vocabulary.
    pub fn forward(&self, batch: &Batch) -> TokenLogprobs {
        let layout = self.model.sequence_layout(&batch.seq_lens, &batch.continues);
        let hidden = self.tempered(self.model.hidden_states_in(&batch.input_ids, &layout));
        if self.model.score.is_some() {
            return scores(&hidden, &self.model.head(), &batch.labels);
        }
        token_logprobs(hidden, self.model.head(), &batch.labels, self.model.compute())
    }

    /// Log-probabilities, and the gradients of an objective of them, added to `gradients`.
    ///
    /// # Panics
    /// If an id or label is outside the vocabulary.
    pub fn forward_backward(&self, batch: &Batch, objective: &Objective, gradients: &mut Gradients) -> TokenLogprobs {
        let (tokens, mut backward) = self.begin(batch, objective, gradients);
        while backward.descend(self.model, gradients) {}
        tokens
    }

    /// The forward pass, and of the backward pass the final norm and the head.
    ///
    /// # Panics
    /// If an id or label is outside the vocabulary.
    pub(crate) fn begin<'b>(
        &self,
        batch: &'b Batch,
        objective: &Objective,
        gradients: &mut Gradients,
    ) -> (TokenLogprobs, BackwardPass<'b>) {
        let model = self.model;
        let layout = model.sequence_layout(&batch.seq_lens, &batch.continues);
        let context = Context { rotary: model.rotary_table(layout.positions()), layout };

        let mut x = model.embed(&batch.input_ids);
        if let Some(noise) = self.noise {
            x = noise.add_to(x, &batch.seq_lens, &batch.continues);
        }
        let trained_from = self.first_trained_block();
        let mut segments = Vec::with_capacity(model.layers.len());
        for (index, block) in model.layers.iter().enumerate() {
            if index < trained_from {
                x = block.forward(x, &context.rotary, &context.layout);
                continue;
            }
            let wanted = if index > trained_from || self.wants_embedded() { Wanted::Yes } else { Wanted::No };
            let (segment, y) = Segment::forward(block, x, wanted, &context, self.checkpointing);
            segments.push((index, segment));
            x = y;
        }

        let (tokens, gy) = self.head_backward(x, batch, objective, gradients);
        let embedded = self.wants_embedded().then_some(batch.input_ids.as_slice());
        (tokens, BackwardPass { segments, context, gy: Some(gy), embedded })
    }

    fn trains_embedding(&self) -> bool {
        self.model.trains(EMBEDDING)
    }

    /// Whether the gradient of the embedded tokens has a use.
    fn wants_embedded(&self) -> bool {
        self.trains_embedding() || self.model.token_adapter.is_some()
    }

    /// Below this block nothing is trained, so that the backward pass ends in it.
    fn first_trained_block(&self) -> usize {
        if self.wants_embedded() {
            return 0;
        }
        let trained = |(index, block): (usize, &Block)| {
            let mut any = false;
            for_each_parameter(block, &format!("model.layers.{index}"), |name, _, _| any |= self.model.trains(name));
            any
        };
        self.model.layers.iter().enumerate().position(trained).unwrap_or(self.model.layers.len())
    }

    /// Final norm and head: gives the gradient of the last block's output.
    fn head_backward(
        &self,
        x: Tensor<2>,
        batch: &Batch,
        objective: &Objective,
        gradients: &mut Gradients,
    ) -> (TokenLogprobs, Tensor<2>) {
        let head_name = match (&self.model.score, &self.model.lm_head) {
            (Some(_), _) => SCORE,
            (None, Some(_)) => HEAD,
            (None, None) => EMBEDDING,
        };
        let norm = self.model.norm.clone().train();
        let x = x.autodiff().require_grad();
        let hidden = self.tempered(norm.forward(x.clone()));
        let head = self.model.head();
        // One row costs nothing in f32.
        let head_compute = if head_name == SCORE { Compute::F32 } else { self.model.compute() };
        // A frozen head has no gradient, which would be as large as itself.
        let head_gradient =
            self.model.trains(head_name).then(|| gradient_of(gradients, head_name, &head, head_compute));
        let (tokens, head) =
            objective_vjp(hidden.clone().inner(), head, batch, head_gradient, objective, self.model.compute());
        if let Some(gradient) = head.head {
            store(gradients, head_name, gradient);
        }
        if let (Some(rows), EMBEDDING) = (&self.model.token_adapter, head_name) {
            let gradient = gradient_of_rows(gradients, rows);
            let hidden = hidden.clone().inner();
            let gradient = token_rows::of_head(gradient, rows, self.model, hidden, batch, &tokens, objective);
            store(gradients, TOKEN_ROWS, gradient);
        }
        let gx = vjp(hidden, head.hidden, &x, |store| gradients.take_from(&norm, "model.norm", store));
        (tokens, gx.expect("x was marked as requiring a gradient"))
    }
}

/// Log-probabilities of the labels, and the gradients of the objective through the head.
fn objective_vjp(
    hidden: Tensor<2>,
    head: Tensor<2>,
    batch: &Batch,
    head_gradient: Option<Tensor<2>>,
    objective: &Objective,
    compute: Compute,
) -> (TokenLogprobs, LogprobGradients) {
    let labels = &batch.labels;
    let all = || token_logprobs(hidden.clone(), head.clone(), labels, compute);
    let mut smoothing = 0.0;
    let of_chunk: Box<ChunkDerivatives> = match objective {
        Objective::PerToken(gradient) => Box::new(|positions, logprobs| gradient(positions, logprobs).into()),
        Objective::Smoothed { label_smoothing, gradient } => {
            smoothing = *label_smoothing;
            Box::new(|positions, logprobs| gradient(positions, logprobs).into())
        }
        Objective::Whole(gradient) => of_all(gradient(&all()).into()),
        Objective::WithEntropy(gradient) => of_all(gradient(&all())),
        Objective::Scores(gradient) => return scores_vjp(hidden, head, labels, head_gradient, gradient),
    };
    token_logprobs_vjp(hidden, head, labels, head_gradient, &*of_chunk, smoothing, compute)
}

/// Derivatives of some tokens, as the head's backward pass asks for them.
type ChunkDerivatives<'a> = dyn Fn(&[usize], Tensor<1>) -> TokenDerivatives + 'a;

/// Gives those of a chunk where those of all tokens are known.
fn of_all(derivatives: TokenDerivatives) -> Box<ChunkDerivatives<'static>> {
    Box::new(move |positions, _logprobs| {
        let index: Vec<i32> = positions.iter().map(|position| *position as i32).collect();
        let pick = |values: &Tensor<1>| {
            values.clone().select(0, Tensor::<1, Int>::from_data(index.as_slice(), &values.device()))
        };
        TokenDerivatives { logprobs: pick(&derivatives.logprobs), entropy: derivatives.entropy.as_ref().map(pick) }
    })
}

/// 1 where there is a label, `[tokens]`.
fn labelled(labels: &[i32], device: &Device) -> Tensor<1> {
    let mask: Vec<f32> = labels.iter().map(|label| if *label == IGNORE_INDEX { 0.0 } else { 1.0 }).collect();
    Tensor::from_data(mask.as_slice(), device)
}

/// Products of hidden states `[tokens, hidden]` and the head of a reward model `[1, hidden]` at the labels, in f32.
fn scores(hidden: &Tensor<2>, head: &Tensor<2>, labels: &[i32]) -> TokenLogprobs {
    let mask = labelled(labels, &hidden.device());
    let scores = hidden.clone().matmul(head.clone().transpose()).squeeze_dim::<1>(1) * mask;
    let zeros = scores.zeros_like();
    TokenLogprobs {
        logprobs: zeros.clone(),
        entropy: zeros.clone(),
        is_top1: zeros.clone(),
        mean_logit: scores,
        mean_logprob: zeros.clone(),
        log_sum_sq_probs: zeros,
    }
}

/// Scores, and the gradients of an objective of them.
fn scores_vjp(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: &[i32],
    head_gradient: Option<Tensor<2>>,
    gradient: &ScoreGradient,
) -> (TokenLogprobs, LogprobGradients) {
    let tokens = scores(&hidden, &head, labels);
    let weights = (gradient(&tokens.mean_logit) * labelled(labels, &hidden.device())).unsqueeze_dim::<2>(1); // [tokens, 1]
    let head_gradient = head_gradient.map(|sum| {
        let dtype = sum.dtype();
        (sum.cast(DType::F32) + weights.clone().transpose().matmul(hidden)).cast(dtype)
    });
    (tokens, LogprobGradients { hidden: weights.matmul(head), head: head_gradient })
}

/// The gradient gathered so far as `[vocabulary, hidden]`, or zeros in the type in which products are taken.
fn gradient_of(gradients: &mut Gradients, name: &str, like: &Tensor<2>, compute: Compute) -> Tensor<2> {
    match gradients.remove(name) {
        Some(gradient) => gradient.reshape(like.dims()),
        None => {
            let dtype = match compute {
                Compute::F32 => DType::F32,
                Compute::Bf16 => DType::BF16,
            };
            zeros(like.dims(), &like.device(), dtype)
        }
    }
}

/// What rows of the embedding have gathered so far, `[rows, hidden]`.
fn gradient_of_rows(gradients: &mut Gradients, rows: &TokenRows) -> Tensor<2> {
    let like = rows.trainable_tokens_delta.val();
    match gradients.remove(TOKEN_ROWS) {
        Some(gradient) => gradient.reshape(like.dims()),
        None => like.zeros_like(),
    }
}

fn store(gradients: &mut Gradients, name: &str, gradient: Tensor<2>) {
    let len = gradient.shape().num_elements();
    gradients.insert(name, gradient.reshape([len]));
}
