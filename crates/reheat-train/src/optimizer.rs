//! AdamW over named parameters.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use reheat_kernels::{AdamWParameter, AdamWStep, adamw};
use reheat_model::Qwen2;

use crate::gradients::update_parameters;
use crate::{Gradients, TrainingDtype};

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
    /// Type in which the moments are kept.
    pub moments: TrainingDtype,
    /// Decides how moments in bfloat16 are rounded.
    pub seed: u64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, moments: TrainingDtype::Float32, seed: 42 }
    }
}

/// A running mean that the optimizer keeps of one parameter.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// Name of the parameter.
    pub(crate) parameter: String,
    /// Which mean, under PyTorch's name.
    pub(crate) kind: String,
    /// `[elements]`.
    pub(crate) values: Tensor<1>,
}

/// PyTorch's names of the moments (`torch.optim.AdamW`).
const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";

/// AdamW with its moments kept by parameter name.
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

    /// Steps taken.
    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    /// What it keeps, by parameter.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let moment = |parameter: &String, kind: &str, values: &Tensor<1>| Moment {
            parameter: parameter.clone(),
            kind: kind.into(),
            values: values.clone(),
        };
        let pairs = self.moments.iter();
        pairs.flat_map(|(name, (first, second))| [moment(name, FIRST, first), moment(name, SECOND, second)]).collect()
    }

    /// Goes on from what [`Self::steps`] and [`Self::moments`] gave.
    ///
    /// # Errors
    /// If a moment is missing or not one of this optimizer's.
    pub(crate) fn restore(&mut self, steps: u64, moments: Vec<Moment>) -> Result<(), String> {
        let mut firsts = BTreeMap::new();
        let mut seconds = BTreeMap::new();
        for Moment { parameter, kind, values } in moments {
            match kind.as_str() {
                FIRST => firsts.insert(parameter, values),
                SECOND => seconds.insert(parameter, values),
                other => return Err(format!("AdamW keeps no `{other}` of `{parameter}`")),
            };
        }
        if !firsts.keys().eq(seconds.keys()) {
            return Err("the two moments of AdamW are not of the same parameters".into());
        }
        self.step = steps;
        let pairs = firsts.into_iter().zip(seconds.into_values());
        self.moments = pairs.map(|((name, first), second)| (name, (first, second))).collect();
        Ok(())
    }

    /// Updates every parameter that has a gradient; `gradient_scale` is what clipping makes of the gradients.
    pub fn step(&mut self, model: Qwen2, gradients: Gradients, learning_rate: f64, gradient_scale: f64) -> Qwen2 {
        self.step += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay, moments, seed } = self.config;
        update_parameters(model, gradients, |name, value, gradient| {
            let (first_moment, second_moment) =
                self.moments.remove(name).unwrap_or_else(|| (zeros(&value, moments), zeros(&value, moments)));
            let settings = AdamWStep {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay: if decays(name) { weight_decay } else { 0.0 },
                step: self.step,
                gradient_scale,
                rounding_seed: rounding_seed(seed, self.step, name),
            };
            let updated = adamw(AdamWParameter { value, first_moment, second_moment }, gradient, &settings);
            self.moments.insert(name.into(), (updated.first_moment, updated.second_moment));
            updated.value
        })
    }
}

fn zeros(like: &Tensor<1>, dtype: TrainingDtype) -> Tensor<1> {
    Tensor::zeros(like.dims(), (&like.device(), dtype.of_tensors()))
}

/// Another one for each parameter and step, and the same after a resume: FNV-1a (Fowler, Noll and Vo).
fn rounding_seed(seed: u64, step: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(step.to_le_bytes()).chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
