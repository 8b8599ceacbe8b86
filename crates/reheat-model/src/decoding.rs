//! The model as a sampler reads it.

use burn::module::Param;
use burn::tensor::{DType, Device};
use rayon::prelude::*;
use reheat_kernels::Compute;

use crate::{Block, Linear, Qwen2};

impl Qwen2 {
    /// The model with matrices in bf16 that products round to bf16 anyway: every number that it computes is the same, and
    /// a token reads half the bytes. For drawing many tokens between two updates; it takes two bytes a parameter.
    ///
    /// `None` where nothing would be gained: products in f32, or no matrix in f32. Only on the CPU, where the equality
    /// holds to the bit.
    pub fn rounded_for_decoding(&self) -> Option<Self> {
        let reads_f32 = |layer: &Linear| layer.weight.val().dtype() == DType::F32 && layer.shape() != [0, 0];
        let on_cpu = self.device() == Device::flex();
        // Rows of the embedding that are trained apart are no matrix.
        let is_plain = self.score.is_none() && self.token_adapter.is_none();
        if self.compute() != Compute::Bf16 || !on_cpu || !is_plain || !reads_f32(&self.embed_tokens) {
            return None;
        }
        let mut model = self.clone();
        // Embeddings are looked up, not multiplied: they stay as they are, and a head that shares them parts from them.
        let mut head = model.lm_head.take().unwrap_or_else(|| model.embed_tokens.clone());
        rayon::join(
            || round(&mut head),
            || {
                model.layers.par_iter_mut().for_each(|Block { self_attn, mlp, .. }| {
                    let dense =
                        [&mut self_attn.q_proj, &mut self_attn.k_proj, &mut self_attn.v_proj, &mut self_attn.o_proj];
                    dense.into_iter().chain([&mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj]).for_each(round);
                })
            },
        );
        model.lm_head = Some(head);
        Some(model)
    }
}

/// Holds the weight in bf16, unless it is held in fewer bits.
fn round(layer: &mut Linear) {
    let weight = layer.weight.val();
    if weight.dtype() == DType::F32 && weight.dims() != [0, 0] {
        layer.weight = Param::from_tensor(weight.cast(DType::BF16));
    }
}
