//! Gradients of single rows of the embedding (`trainable_token_indices`), without one of the whole.

use std::collections::HashMap;

use burn::tensor::{Int, Tensor};
use reheat_data::{Batch, IGNORE_INDEX};
use reheat_kernels::{TokenDerivatives, TokenLogprobs, embedding_backward};
use reheat_model::{Qwen2, TokenRows};

use crate::Objective;

/// Adds the gradients that come from looking tokens up.
///
/// # Shapes
/// - `gradient`: `[rows, hidden]`
/// - `gx`: `[tokens, hidden]`, of the embedded tokens
pub(super) fn of_embedding(gradient: Tensor<2>, rows: &TokenRows, input_ids: &[i32], gx: Tensor<2>) -> Tensor<2> {
    let row_of: HashMap<i32, i32> = (0..).zip(rows.ids()).map(|(row, id)| (*id as i32, row)).collect();
    let (positions, rows): (Vec<i32>, Vec<i32>) =
        (0..).zip(input_ids).filter_map(|(position, id)| Some((position, *row_of.get(id)?))).unzip();
    if positions.is_empty() {
        return gradient;
    }
    let index = Tensor::<1, Int>::from_data(positions.as_slice(), &gx.device());
    embedding_backward(gradient, &rows, gx.select(0, index))
}

/// Adds the gradients that come from a head that is tied to the embedding.
///
/// With `p` the probability of row `i` at a token with label `y`, `∂ log p(y) / ∂ logit_i = [y = i] - p_i` and, of the
/// entropy `H`, `∂H / ∂ logit_i = -p_i (log p_i + H)`.
///
/// # Shapes
/// - `gradient`: `[rows, hidden]`
/// - `hidden`: `[tokens, hidden]`, as the head got it
pub(super) fn of_head(
    gradient: Tensor<2>,
    rows: &TokenRows,
    model: &Qwen2,
    hidden: Tensor<2>,
    batch: &Batch,
    tokens: &TokenLogprobs,
    objective: &Objective,
) -> Tensor<2> {
    let Some(Derivatives { of, smoothing }) = Derivatives::of(objective, batch, tokens) else { return gradient };
    let device = hidden.device();
    let labels: Vec<i32> = batch.labels.iter().map(|label| (*label).max(0)).collect();
    let counts: Vec<f32> = batch.labels.iter().map(|label| f32::from(*label != IGNORE_INDEX)).collect();
    let counts = Tensor::<1>::from_data(counts.as_slice(), &device);

    // log p_i = logit_i - logit_y + log p(y)
    let label_rows = model.embed(&labels);
    let of_label = (hidden.clone() * label_rows).sum_dim(1); // [tokens, 1]
    // From the head as it is held, which may be rounded.
    let ids: Vec<i32> = rows.ids().iter().map(|id| *id as i32).collect();
    let of_rows = hidden.clone().matmul(model.embed(&ids).transpose()); // [tokens, rows]
    let logprobs = of_rows - of_label + tokens.logprobs.clone().unsqueeze_dim::<2>(1);
    let probs = logprobs.clone().exp();

    let is_label: Vec<f32> =
        batch.labels.iter().flat_map(|label| rows.ids().iter().map(|id| f32::from(*label == *id as i32))).collect();
    let is_label = Tensor::<1>::from_data(is_label.as_slice(), &device).reshape(probs.dims());
    let vocab_size = model.config().vocab_size as f64;
    let direction = is_label * (1.0 - smoothing) - probs.clone() + smoothing / vocab_size; // [tokens, rows]
    let mut of_logits = direction * (of.logprobs * counts.clone()).unsqueeze_dim::<2>(1);
    if let Some(of_entropy) = of.entropy {
        let surprise = logprobs + tokens.entropy.clone().unsqueeze_dim::<2>(1);
        of_logits = of_logits - probs * surprise * (of_entropy * counts).unsqueeze_dim::<2>(1);
    }
    gradient + of_logits.transpose().matmul(hidden)
}

/// Derivatives of the objective at every token.
struct Derivatives {
    of: TokenDerivatives,
    /// Share of a log-probability that is spread over the vocabulary.
    smoothing: f64,
}

impl Derivatives {
    /// `None` for scores, which no row of the vocabulary gives.
    fn of(objective: &Objective, batch: &Batch, tokens: &TokenLogprobs) -> Option<Self> {
        let all = || (0..batch.labels.len()).collect::<Vec<_>>();
        let (of, smoothing) = match objective {
            Objective::PerToken(gradient) => (gradient(&all(), tokens.logprobs.clone()).into(), 0.0),
            Objective::Smoothed { label_smoothing, gradient } => {
                (gradient(&all(), tokens.logprobs.clone()).into(), *label_smoothing)
            }
            Objective::Whole(gradient) => (gradient(tokens).into(), 0.0),
            Objective::WithEntropy(gradient) => (gradient(tokens), 0.0),
            Objective::Scores(_) => return None,
        };
        Some(Self { of, smoothing })
    }
}
