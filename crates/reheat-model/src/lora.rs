//! Low-rank adapters on dense layers: LoRA (Hu et al. 2021, arXiv:2106.09685), rsLoRA (Kalajdzievski 2023,
//! arXiv:2312.03732) and DoRA (Liu et al. 2024, arXiv:2402.09353), as PEFT 0.21.2 computes them.
//!
//! `y = x·Wᵀ + s·((dropout(x)·Aᵀ)·Bᵀ)`: the update is never multiplied out, and `W` is frozen, so that no gradient of
//! its size exists.
//!
//! Departs from PEFT: dropout draws from a stream of its own ([`Dropout`]), and `s·B·A` is computed in f32 whatever the
//! type of the frozen weights.

#![expect(non_snake_case, reason = "fields have PEFT's names, which are those in the files")]

mod attach; // which layers get an adapter, and what stays frozen
mod config; // adapter_config.json
mod tokens; // rows of the embedding
mod merge; // adapters into weights
mod peft; // adapter_model.safetensors

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use reheat_kernels::{Dropout, LoraUpdate, lora};

pub(crate) use self::{
    attach::{Adapter, is_adapters},
    peft::load as load_adapter,
    tokens::{TOKENS_FIELD, TOKENS_PARENT},
};
pub use self::{
    config::{LoraConfig, TargetModules},
    tokens::TokenRows,
};
use crate::Linear;

/// What every parameter of an adapted model is called by PEFT, before its name in checkpoints.
pub(crate) const PEFT_PREFIX: &str = "base_model.model.";

/// Name of the field of [`Linear`] that holds the adapter; no part of a parameter's name.
pub(crate) const ADAPTER_FIELD: &str = "adapter";

/// Begins the names of an adapter's parameters.
pub(crate) const LORA_PREFIX: &str = "lora_";

/// One factor of a low-rank update.
#[derive(Module, Debug)]
pub struct Factor {
    /// `[rank, in]` in `lora_A`, `[out, rank]` in `lora_B`.
    pub weight: Param<Tensor<2>>,
}

/// The adapter of one dense layer. Fields have PEFT's names.
#[derive(Module, Debug)]
pub struct Lora {
    /// From the layer's input to the rank.
    pub lora_A: Factor,
    /// From the rank to the layer's output.
    pub lora_B: Factor,
    /// DoRA's length of each row of the weight, `[out]`.
    pub lora_magnitude_vector: Option<Param<Tensor<1>>>,
    /// Factor on the update.
    scale: f64,
    /// Share of the input that is left out while training.
    dropout_rate: f64,
    /// What is left out; `None` outside training.
    #[module(skip)]
    dropout: Option<Dropout>,
    /// For DoRA: sum of squares of each row of the frozen weight, `[out, 1]`.
    #[module(skip)]
    weight_squares: Option<Tensor<2>>,
}

/// The tensors of one adapter.
#[derive(Debug, Clone)]
pub(crate) struct Factors {
    /// `[rank, in]`.
    pub(crate) a: Tensor<2>,
    /// `[out, rank]`.
    pub(crate) b: Tensor<2>,
    /// `[out]`; where DoRA has none, it starts from the weight's own lengths.
    pub(crate) magnitude: Option<Tensor<1>>,
}

impl Lora {
    fn new(layer: &Linear, factors: Factors, scale: f64, config: &LoraConfig) -> Self {
        let Factors { a, b, magnitude } = factors;
        let factor = |weight| Factor { weight: Param::from_tensor(weight) };
        let mut adapter = Self {
            lora_A: factor(a),
            lora_B: factor(b),
            lora_magnitude_vector: None,
            scale,
            dropout_rate: config.lora_dropout,
            dropout: None,
            weight_squares: None,
        };
        if config.use_dora {
            adapter.weight_squares = Some(layer.dense_weight().square().sum_dim(1));
            let magnitude = magnitude.unwrap_or_else(|| adapter.row_lengths(layer));
            adapter.lora_magnitude_vector = Some(Param::from_tensor(magnitude));
        }
        adapter
    }

    /// Rank of the update.
    pub fn rank(&self) -> usize {
        self.lora_A.weight.dims()[0]
    }

    /// Leaves out inputs as `seed` says from now on, or none.
    pub(crate) fn set_dropout(&mut self, seed: Option<u64>) {
        let rate = self.dropout_rate;
        self.dropout = seed.filter(|_| rate > 0.0).map(|seed| Dropout { rate, seed });
    }

    /// What `layer` gives with this adapter.
    pub(crate) fn forward(&self, layer: &Linear, x: Tensor<2>) -> Tensor<2> {
        let (a, b) = (self.lora_A.weight.val(), self.lora_B.weight.val());
        let Some(magnitude) = &self.lora_magnitude_vector else {
            let update = LoraUpdate { scale: self.scale, dropout: self.dropout };
            return lora(layer.base(x.clone()), x, a, b, update);
        };
        // Equation 5: the lengths are a constant to the gradient (section 4.3).
        let factor = (magnitude.val() / self.row_lengths(layer)).unsqueeze::<2>(); // [1, out]
        let update = LoraUpdate { scale: self.scale, dropout: None };
        match self.dropout {
            None => layer.add_bias(lora(layer.product(x.clone()), x, a, b, update) * factor),
            // As PEFT has it, the frozen part of the direction sees the whole input.
            Some(dropout) => {
                let dropped = dropout.forward(x.clone());
                let direction = layer.product(dropped.clone());
                layer.base(x) + lora(direction.clone(), dropped, a, b, update) * factor - direction
            }
        }
    }

    /// `‖W + s·B·A‖` of each row, `[out]`, without a gradient, and without the sum itself: with `P = A·Wᵀ`,
    /// `‖W_i‖² + 2s·B_i·P_i + s²·B_i·(A·Aᵀ)·B_iᵀ`.
    fn row_lengths(&self, layer: &Linear) -> Tensor<1> {
        let (a, b) = (self.lora_A.weight.val().detach(), self.lora_B.weight.val().detach());
        let squares = self.weight_squares.clone().expect("set where DoRA is used");
        let cross = (layer.product(a.clone()).transpose() * b.clone()).sum_dim(1); // [out, 1]
        let own = (b.clone().matmul(a.clone().matmul(a.transpose())) * b).sum_dim(1); // [out, 1]
        (squares + cross * (2.0 * self.scale) + own * (self.scale * self.scale)).sqrt().squeeze_dim::<1>(1)
    }

    /// The weight that alone does what `weight` does with this adapter, `[out, in]`, f32.
    pub(crate) fn merged(&self, layer: &Linear) -> Tensor<2> {
        let update = self.lora_B.weight.val().matmul(self.lora_A.weight.val()) * self.scale;
        let weight = layer.dense_weight() + update;
        match &self.lora_magnitude_vector {
            None => weight,
            Some(magnitude) => weight * (magnitude.val() / self.row_lengths(layer)).unsqueeze_dim::<2>(1),
        }
    }
}
