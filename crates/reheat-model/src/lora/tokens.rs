//! Rows of the embedding that are trained beside adapters: PEFT's `trainable_token_indices`.
//!
//! They take the place of the embedding's rows, and of a tied head's. So that neither the embedding nor the head is put
//! together in each pass, the model's matrix holds them too, and is [written](Qwen2::with_token_rows_written) where they
//! change. The frozen base keeps its own.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use crate::{Linear, Qwen2};

/// Name of the field of [`Qwen2`] and of PEFT's module.
pub(crate) const TOKENS_FIELD: &str = "token_adapter";

/// Where that module is in PEFT's names.
pub(crate) const TOKENS_PARENT: &str = "model.embed_tokens";

/// The trained rows of an embedding. Fields have PEFT's names.
#[derive(Module, Debug)]
pub struct TokenRows {
    /// The rows themselves, `[tokens, hidden_size]`.
    pub trainable_tokens_delta: Param<Tensor<2>>,
    /// Which rows they are.
    #[module(skip)]
    ids: Vec<u32>,
}

impl TokenRows {
    pub(super) fn new(ids: &[u32], rows: Tensor<2>) -> Self {
        Self { trainable_tokens_delta: Param::from_tensor(rows), ids: ids.to_vec() }
    }

    /// The rows as they are in a frozen embedding.
    pub(super) fn of(ids: &[u32], embedding: &Linear) -> Self {
        let weight = embedding.dense_weight();
        let index = index(ids, &weight);
        Self::new(ids, weight.select(0, index))
    }

    /// Tokens whose rows these are, in their order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Qwen2 {
    /// Writes the trained rows into the embedding's matrix, after they were changed. Without such rows nothing happens.
    ///
    /// Whatever changes parameters by name ([`map_parameters`](crate::map_parameters)) has to call this.
    pub fn with_token_rows_written(mut self) -> Self {
        let Some(tokens) = &self.token_adapter else { return self };
        let rows = tokens.trainable_tokens_delta.val();
        let index = index(&tokens.ids, &rows);
        let write = |weight: Tensor<2>| {
            let rows = rows.cast(weight.dtype());
            weight.select_assign(0, index, rows, IndexingUpdateOp::Assign)
        };
        if self.embed_tokens.int8.is_some() {
            let weight = self.embed_tokens.dense_weight();
            self.embed_tokens.set_weight(write(weight));
        } else {
            // Owned, so that it is changed in place.
            self.embed_tokens.weight = self.embed_tokens.weight.map(write);
        }
        self
    }
}

fn index(ids: &[u32], like: &Tensor<2>) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    Tensor::from_data(ids.as_slice(), &like.device())
}
