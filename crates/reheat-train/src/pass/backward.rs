//! From the head down to the embedding, a stage at a time.

use burn::module::Module;
use burn::tensor::Tensor;
use reheat_kernels::{RotaryTable, embedding_backward};
use reheat_model::{Block, Qwen2, SequenceLayout};

use super::{Checkpointing, EMBEDDING, TOKEN_ROWS, gradient_of, gradient_of_rows, store, token_rows};
use crate::Gradients;

/// A backward pass under way; it holds nothing of the parameters of a stage that is done, which may then change.
pub(crate) struct BackwardPass<'a> {
    /// The blocks that are still to come, the next one last.
    pub(super) segments: Vec<(usize, Segment)>,
    pub(super) context: Context,
    /// Gradient of what the stage below gave.
    pub(super) gy: Option<Tensor<2>>,
    /// The tokens, while the embedding, or rows of it, are trained and still to come.
    pub(super) embedded: Option<&'a [i32]>,
}

impl BackwardPass<'_> {
    /// Takes the next block, or the embedding at last, and adds the gradients of its parameters. `false` once nothing
    /// was left to take.
    ///
    /// All gradients that were added are whole, but that of the embedding or of rows of it: a head that is tied to it begins it.
    pub(crate) fn descend(&mut self, model: &Qwen2, gradients: &mut Gradients) -> bool {
        if let Some((index, segment)) = self.segments.pop() {
            let name = format!("model.layers.{index}");
            let output = self.gy.take().expect("a block above the lowest trained one has a gradient of its input");
            self.gy = segment.backward(&model.layers[index], &name, output, &self.context, gradients);
            return true;
        }
        let Some(input_ids) = self.embedded.take() else { return false };
        let gy =
            self.gy.take().expect("the lowest block gives the gradient of its input where the embedding is trained");
        if let Some(rows) = &model.token_adapter {
            let gradient = gradient_of_rows(gradients, rows);
            store(gradients, TOKEN_ROWS, token_rows::of_embedding(gradient, rows, input_ids, gy.clone()));
        }
        if model.trains(EMBEDDING) {
            let embedding = model.embed_tokens.weight.val();
            let gradient = gradient_of(gradients, EMBEDDING, &embedding, model.compute());
            store(gradients, EMBEDDING, embedding_backward(gradient, input_ids, gy));
        }
        true
    }
}

/// What every block of a pass shares.
pub(super) struct Context {
    pub(super) rotary: RotaryTable,
    pub(super) layout: SequenceLayout,
}

/// Whether the gradient of a block's input is wanted; below the lowest trained block there is no use for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
}

/// What is left of a block after its forward pass.
#[expect(clippy::large_enum_variant, reason = "there is one for each block, and all of a pass are of one kind")]
pub(super) enum Segment {
    Input(Tensor<2>, Wanted),
    Graph { block: Box<Block>, x: Tensor<2>, y: Tensor<2> },
}

impl Segment {
    pub(super) fn forward(
        block: &Block,
        x: Tensor<2>,
        wanted: Wanted,
        context: &Context,
        checkpointing: Checkpointing,
    ) -> (Self, Tensor<2>) {
        match checkpointing {
            Checkpointing::Recompute => {
                let y = block.forward(x.clone(), &context.rotary, &context.layout);
                (Self::Input(x, wanted), y)
            }
            Checkpointing::Keep => {
                let segment = Self::tracked(block, x, wanted, context);
                let Self::Graph { y, .. } = &segment else { unreachable!("`tracked` keeps the graph") };
                let y = y.clone().inner();
                (segment, y)
            }
        }
    }

    fn tracked(block: &Block, x: Tensor<2>, wanted: Wanted, context: &Context) -> Self {
        let block = block.clone().train();
        let x = x.autodiff().set_require_grad(wanted == Wanted::Yes);
        let y = block.forward(x.clone(), &context.rotary, &context.layout);
        Self::Graph { block: Box::new(block), x, y }
    }

    /// Gradient of the block's input, where it is wanted, given that of its output.
    fn backward(
        self,
        block: &Block,
        name: &str,
        gy: Tensor<2>,
        context: &Context,
        gradients: &mut Gradients,
    ) -> Option<Tensor<2>> {
        match self {
            Self::Input(x, wanted) => {
                Self::tracked(block, x, wanted, context).backward(block, name, gy, context, gradients)
            }
            Self::Graph { block, x, y } => vjp(y, gy, &x, |store| gradients.take_from(&*block, name, store)),
        }
    }
}

/// Runs autodiff from `y` with gradient `gy` and gives the gradient of `x`, if it requires one; `take` collects those of
/// the parameters.
pub(super) fn vjp(
    y: Tensor<2>,
    gy: Tensor<2>,
    x: &Tensor<2>,
    take: impl FnOnce(&mut burn::tensor::Gradients),
) -> Option<Tensor<2>> {
    // Autodiff starts from a scalar's gradient of 1: Σ y·gy has the gradient gy in y.
    let mut store = (y * gy).sum().backward();
    take(&mut store);
    x.grad_remove(&mut store)
}
