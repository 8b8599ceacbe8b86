//! One forward and backward pass through the model, block by block.
//!
//! The forward pass keeps each block's input. The backward pass takes one block at a time: it runs the block again
//! under autodiff, or uses the graph that the forward pass kept, and turns the gradient of the block's output into that
//! of its input and of its parameters (a vector-Jacobian product; Chen et al. 2016, arXiv:1604.06174, with one segment
//! per block).

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use reheat_data::Batch;
use reheat_kernels::{
    AttentionLayout, Compute, LogprobGradients, RotaryTable, TokenLogprobs, embedding_backward, token_logprobs,
    token_logprobs_vjp,
};
use reheat_model::{Block, Qwen2};

use crate::{Gradients, Objective};

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
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl<'a> ModelPass<'a> {
    /// A pass through `model`, whose parameters are plain (not under autodiff).
    pub fn new(model: &'a Qwen2, checkpointing: Checkpointing) -> Self {
        Self { model, checkpointing }
    }

    /// Log-probabilities of the labels, without gradients.
    ///
    /// # Panics
    /// If an id or label is outside the vocabulary.
    pub fn forward(&self, batch: &Batch) -> TokenLogprobs {
        let hidden = self.model.hidden_states(&batch.input_ids, &batch.seq_lens);
        token_logprobs(hidden, self.model.head(), &batch.labels, self.model.compute())
    }

    /// Log-probabilities, and the gradients of an objective of them, added to `gradients`.
    ///
    /// # Panics
    /// If an id or label is outside the vocabulary.
    pub fn forward_backward(&self, batch: &Batch, objective: &Objective, gradients: &mut Gradients) -> TokenLogprobs {
        let model = self.model;
        let positions: Vec<usize> = batch.seq_lens.iter().flat_map(|len| 0..*len).collect();
        let context = Context { rotary: model.rotary_table(&positions), layout: model.packed_layout(&batch.seq_lens) };

        let mut x = model.embed(&batch.input_ids);
        let mut segments = Vec::with_capacity(model.layers.len());
        for block in &model.layers {
            let (segment, y) = Segment::forward(block, x, &context, self.checkpointing);
            segments.push(segment);
            x = y;
        }

        let (tokens, mut gy) = self.head_backward(x, batch, objective, gradients);
        for (index, (block, segment)) in model.layers.iter().zip(segments).enumerate().rev() {
            gy = segment.backward(block, &format!("model.layers.{index}"), gy, &context, gradients);
        }

        let embedding = model.embed_tokens.weight.val();
        let gradient = gradient_of(gradients, EMBEDDING, &embedding);
        store(gradients, EMBEDDING, embedding_backward(gradient, &batch.input_ids, gy));
        tokens
    }

    /// Final norm and head: gives the gradient of the last block's output.
    fn head_backward(
        &self,
        x: Tensor<2>,
        batch: &Batch,
        objective: &Objective,
        gradients: &mut Gradients,
    ) -> (TokenLogprobs, Tensor<2>) {
        let head_name = if self.model.lm_head.is_some() { HEAD } else { EMBEDDING };
        let norm = self.model.norm.clone().train();
        let x = x.autodiff().require_grad();
        let hidden = norm.forward(x.clone());
        let head = self.model.head();
        let head_gradient = gradient_of(gradients, head_name, &head);
        let (tokens, head) =
            objective_vjp(hidden.clone().inner(), head, batch, Some(head_gradient), objective, self.model.compute());
        store(gradients, head_name, head.head.expect("the head is trained"));
        let gx = vjp(hidden, head.hidden, &x, |store| gradients.take_from(&norm, "model.norm", store));
        (tokens, gx)
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
    match objective {
        Objective::PerToken(gradient) => token_logprobs_vjp(hidden, head, labels, head_gradient, &**gradient, compute),
        Objective::Whole(gradient) => {
            let tokens = token_logprobs(hidden.clone(), head.clone(), labels, compute);
            let weights = gradient(&tokens); // [tokens]
            let of_chunk = |positions: &[usize], _logprobs: Tensor<1>| {
                let index: Vec<i32> = positions.iter().map(|position| *position as i32).collect();
                weights.clone().select(0, Tensor::<1, Int>::from_data(index.as_slice(), &weights.device()))
            };
            token_logprobs_vjp(hidden, head, labels, head_gradient, &of_chunk, compute)
        }
    }
}

/// The gradient gathered so far as `[vocabulary, hidden]`, or zeros.
fn gradient_of(gradients: &mut Gradients, name: &str, like: &Tensor<2>) -> Tensor<2> {
    match gradients.remove(name) {
        Some(gradient) => gradient.reshape(like.dims()),
        None => like.zeros_like(),
    }
}

fn store(gradients: &mut Gradients, name: &str, gradient: Tensor<2>) {
    let len = gradient.shape().num_elements();
    gradients.insert(name, gradient.reshape([len]));
}

/// What every block of a pass shares.
struct Context {
    rotary: RotaryTable,
    layout: AttentionLayout,
}

/// What is left of a block after its forward pass.
#[expect(clippy::large_enum_variant, reason = "there is one for each block, and all of a pass are of one kind")]
enum Segment {
    Input(Tensor<2>),
    Graph { block: Box<Block>, x: Tensor<2>, y: Tensor<2> },
}

impl Segment {
    fn forward(block: &Block, x: Tensor<2>, context: &Context, checkpointing: Checkpointing) -> (Self, Tensor<2>) {
        match checkpointing {
            Checkpointing::Recompute => {
                let y = block.forward(x.clone(), &context.rotary, &context.layout);
                (Self::Input(x), y)
            }
            Checkpointing::Keep => {
                let segment = Self::tracked(block, x, context);
                let Self::Graph { y, .. } = &segment else { unreachable!("`tracked` keeps the graph") };
                let y = y.clone().inner();
                (segment, y)
            }
        }
    }

    fn tracked(block: &Block, x: Tensor<2>, context: &Context) -> Self {
        let block = block.clone().train();
        let x = x.autodiff().require_grad();
        let y = block.forward(x.clone(), &context.rotary, &context.layout);
        Self::Graph { block: Box::new(block), x, y }
    }

    /// Gradient of the block's input, given that of its output.
    fn backward(
        self,
        block: &Block,
        name: &str,
        gy: Tensor<2>,
        context: &Context,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        match self {
            Self::Input(x) => Self::tracked(block, x, context).backward(block, name, gy, context, gradients),
            Self::Graph { block, x, y } => vjp(y, gy, &x, |store| gradients.take_from(&*block, name, store)),
        }
    }
}

/// Runs autodiff from `y` with gradient `gy` and gives the gradient of `x`; `take` collects those of the parameters.
fn vjp(y: Tensor<2>, gy: Tensor<2>, x: &Tensor<2>, take: impl FnOnce(&mut burn::tensor::Gradients)) -> Tensor<2> {
    // Autodiff starts from a scalar's gradient of 1: Σ y·gy has the gradient gy in y.
    let mut store = (y * gy).sum().backward();
    take(&mut store);
    x.grad_remove(&mut store).expect("x was marked as requiring a gradient")
}
