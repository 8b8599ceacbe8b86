//! AdamW over named parameters.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use reheat_kernels::{AdamWParameter, AdamWStep, adamw};
use reheat_model::Qwen2;

use crate::Gradients;
use crate::gradients::update_parameters;

/// Constants of AdamW, with the defaults of PyTorch and transformers' `TrainingArguments`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of matrices; norms and biases never decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW with f32 moments, kept by parameter name.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    step: u64,
    moments: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
}

impl AdamW {
    /// An optimizer that has taken no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new() }
    }

    /// Updates every parameter that has a gradient; `gradient_scale` is what clipping makes of the gradients.
    pub fn step(&mut self, model: Qwen2, gradients: Gradients, learning_rate: f64, gradient_scale: f64) -> Qwen2 {
        self.step += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        update_parameters(model, gradients, |name, value, gradient| {
            let (first_moment, second_moment) =
                self.moments.remove(name).unwrap_or_else(|| (value.zeros_like(), value.zeros_like()));
            let settings = AdamWStep {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay: if decays(name) { weight_decay } else { 0.0 },
                step: self.step,
                gradient_scale,
            };
            let updated = adamw(AdamWParameter { value, first_moment, second_moment }, gradient, &settings);
            self.moments.insert(name.into(), (updated.first_moment, updated.second_moment));
            updated.value
        })
    }
}

/// Weight decay leaves out biases and norms (transformers 5.23, `Trainer.get_decay_parameter_names`).
fn decays(name: &str) -> bool {
    !name.ends_with("bias") && !name.ends_with("norm.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_biases_do_not_decay() {
        assert!(decays("model.layers.0.mlp.up_proj.weight") && decays("model.embed_tokens.weight"));
        for name in
            ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.input_layernorm.weight", "model.norm.weight"]
        {
            assert!(!decays(name), "{name}");
        }
    }
}
