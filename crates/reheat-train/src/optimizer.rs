//! The optimizer: which rule a parameter follows, its settings, and what is kept of it from step to step.

mod rules; // the arithmetic
mod groups; // parameters with settings of their own
mod sgd; // what `optim_args` says
mod eight_bit; // moments in 8 bits

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use reheat_kernels::{
    AdamWParameter, AdamWStep, EightBitMap, EightBitMoment, EightBitParameter, adamw, adamw_8bit, zeros,
};
use reheat_model::{Numbers, Qwen2, for_each_parameter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::rules::Step;
pub use self::{groups::ParameterGroup, sgd::SgdArgs};
use crate::gradients::update_parameters;
use crate::{Gradients, TrainingDtype};

/// Which optimizer, under transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OptimizerNames {
    /// AdamW.
    #[default]
    #[serde(rename = "adamw_torch_fused")]
    AdamwTorchFused,
    /// AdamW, as well: there is one here, and it is fused.
    #[serde(rename = "adamw_torch")]
    AdamwTorch,
    /// AdamW with moments in 8 bits and a scale for each 256 of them (Dettmers et al. 2022), but for the embedding and for
    /// parameters of fewer than 4096 numbers: a quarter of the memory.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    /// The same.
    #[serde(rename = "adamw_bnb_8bit")]
    AdamwBnb8bit,
    /// Lion: the sign of the momentum, one moment instead of two; wants a learning rate 3 to 10 times lower than AdamW.
    #[serde(rename = "lion_32bit")]
    Lion,
    /// Stochastic gradient descent with momentum (`optim_momentum`).
    #[serde(rename = "sgd")]
    Sgd,
    /// Adafactor with factored second moments of matrices: hardly any memory.
    #[serde(rename = "adafactor")]
    Adafactor,
    /// Muon for the matrices inside blocks, AdamW for embeddings, head, norms and biases.
    #[serde(rename = "muon")]
    Muon,
}

/// Constants of an optimizer, with the defaults of PyTorch and transformers' `TrainingArguments`.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerConfig {
    /// Which one.
    pub name: OptimizerNames,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment (AdamW).
    pub epsilon: f64,
    /// Decay of weights; norms and biases never decay.
    pub weight_decay: f64,
    /// Momentum of SGD and Muon; 0 and 0.95 where absent.
    pub momentum: Option<f64>,
    /// What else SGD is told; its momentum comes before `momentum`.
    pub sgd: SgdArgs,
    /// Parameters with a learning rate or weight decay of their own.
    pub groups: Vec<ParameterGroup>,
    /// Type in which AdamW keeps its moments; the other rules keep theirs in float32.
    pub moments: TrainingDtype,
    /// Decides how moments in bfloat16 are rounded.
    pub seed: u64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerNames::default(),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            momentum: None,
            sgd: SgdArgs::default(),
            groups: Vec::new(),
            moments: TrainingDtype::Float32,
            seed: 42,
        }
    }
}

impl OptimizerConfig {
    /// Moments of a parameter before the first step.
    fn fresh_moments(&self, name: &str, shape: &[usize], device: &Device) -> Vec<Numbers> {
        let rule = Rule::of(self.name, name, shape);
        if rule == Rule::AdamW8bit {
            let len = shape.iter().product();
            return eight_bit::numbers(
                [EightBitMap::Signed, EightBitMap::Unsigned].map(|map| EightBitMoment::zeros(len, map, device)),
            );
        }
        let dtype = if rule == Rule::AdamW { self.moments } else { TrainingDtype::Float32 };
        let kinds = rule.moments(shape).into_iter();
        kinds.map(|(_, len)| zeros([len], device, dtype.of_tensors()).into()).collect()
    }
}

/// Bytes of the moments of a parameter.
pub(crate) fn moment_bytes(optim: OptimizerNames, optim_dtype: TrainingDtype, name: &str, shape: &[usize]) -> u64 {
    let rule = Rule::of(optim, name, shape);
    let each = |kind: &str| match (rule, optim_dtype) {
        (Rule::AdamW8bit, _) if eight_bit::CODES.contains(&kind) => 1,
        (Rule::AdamW, TrainingDtype::Bfloat16) => 2,
        _ => 4,
    };
    rule.moments(shape).into_iter().map(|(kind, len)| len as u64 * each(kind)).sum()
}

/// A running mean that the optimizer keeps of one parameter.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// Name of the parameter.
    pub(crate) parameter: String,
    /// Which mean, under PyTorch's name.
    pub(crate) kind: String,
    /// `[elements]`, or what stands for them.
    pub(crate) values: Numbers,
}

/// The rule of one parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    AdamW,
    AdamW8bit,
    Lion,
    Sgd,
    AdafactorVector,
    AdafactorMatrix,
    Muon,
}

impl Rule {
    fn of(name: OptimizerNames, parameter: &str, shape: &[usize]) -> Self {
        match name {
            OptimizerNames::AdamwTorchFused | OptimizerNames::AdamwTorch => Self::AdamW,
            OptimizerNames::Adamw8bit | OptimizerNames::AdamwBnb8bit if eight_bit::takes(parameter, shape) => {
                Self::AdamW8bit
            }
            OptimizerNames::Adamw8bit | OptimizerNames::AdamwBnb8bit => Self::AdamW,
            OptimizerNames::Lion => Self::Lion,
            OptimizerNames::Sgd => Self::Sgd,
            OptimizerNames::Adafactor if shape.len() == 2 => Self::AdafactorMatrix,
            OptimizerNames::Adafactor => Self::AdafactorVector,
            OptimizerNames::Muon if shape.len() == 2 && parameter.contains(".layers.") => Self::Muon,
            OptimizerNames::Muon => Self::AdamW,
        }
    }

    /// What is kept, under PyTorch's and transformers' names, and how many numbers of each.
    fn moments(self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        let len = shape.iter().product();
        match self {
            Self::AdamW => vec![("exp_avg", len), ("exp_avg_sq", len)],
            Self::AdamW8bit => eight_bit::kinds(len),
            Self::Lion => vec![("exp_avg", len)],
            Self::Sgd | Self::Muon => vec![("momentum_buffer", len)],
            Self::AdafactorVector => vec![("exp_avg_sq", len)],
            Self::AdafactorMatrix => vec![("exp_avg_sq_row", shape[0]), ("exp_avg_sq_col", shape[1])],
        }
    }
}

/// One of several optimizers, with its moments by parameter name.
///
/// Whatever has a gradient is updated. What is trained has its moments from the beginning: they stay, and a step takes and
/// frees its gradients beside them, so that neither leaves holes in the memory of the other.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// Steps taken.
    step: u64,
    shapes: BTreeMap<String, Vec<usize>>,
    /// In the order of [`Rule::moments`].
    moments: BTreeMap<String, Vec<Numbers>>,
}

impl Optimizer {
    /// An optimizer of a model's parameters that has taken no step.
    pub fn new(config: OptimizerConfig, model: &Qwen2) -> Self {
        let (mut shapes, mut moments) = (BTreeMap::new(), BTreeMap::new());
        for_each_parameter(model, "", |name, shape, value| {
            shapes.insert(name.to_owned(), shape.to_vec());
            if model.trains(name) {
                moments.insert(name.to_owned(), config.fresh_moments(name, shape, &value.device()));
            }
        });
        Self { config, step: 0, shapes, moments }
    }

    /// Groups that no parameter belongs to.
    pub(crate) fn unused_groups(&self) -> Vec<&ParameterGroup> {
        self.config.groups.iter().filter(|group| !self.shapes.keys().any(|name| group.matches(name))).collect()
    }

    /// Steps taken.
    pub(crate) fn steps(&self) -> u64 {
        self.step
    }

    /// What it keeps, by parameter.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let of_parameter = |(name, values): (&String, &Vec<Numbers>)| {
            let kinds = self.rule(name).moments(&self.shapes[name]);
            let moment = |((kind, _), values): ((&str, usize), &Numbers)| Moment {
                parameter: name.clone(),
                kind: kind.into(),
                values: values.clone(),
            };
            kinds.into_iter().zip(values).map(moment).collect::<Vec<_>>()
        };
        self.moments.iter().flat_map(of_parameter).collect()
    }

    /// Goes on from what [`Self::steps`] and [`Self::moments`] gave.
    ///
    /// # Errors
    /// If a moment is missing, or not one of this optimizer's and this model's.
    pub(crate) fn restore(&mut self, steps: u64, moments: Vec<Moment>) -> Result<(), String> {
        let mut found: BTreeMap<String, BTreeMap<String, Numbers>> = BTreeMap::new();
        for moment in moments {
            found.entry(moment.parameter).or_default().insert(moment.kind, moment.values);
        }
        let mut restored = BTreeMap::new();
        for (name, mut kinds) in found {
            let Some(shape) = self.shapes.get(&name) else { return Err(format!("the model has no `{name}`")) };
            let mut values = Vec::new();
            for (kind, len) in self.rule(&name).moments(shape) {
                match kinds.remove(kind) {
                    Some(moment) if moment.len() == len && is_codes(kind, &moment) => values.push(moment),
                    _ => return Err(format!("`{name}.{kind}` is not there with {len} numbers")),
                }
            }
            if let Some(kind) = kinds.keys().next() {
                return Err(format!("`{name}.{kind}` belongs to another optimizer"));
            }
            restored.insert(name, values);
        }
        (self.step, self.moments) = (steps, restored);
        Ok(())
    }

    fn rule(&self, name: &str) -> Rule {
        Rule::of(self.config.name, name, &self.shapes[name])
    }

    /// Updates every parameter that has a gradient.
    ///
    /// `schedule` is the factor that the schedule puts on every learning rate, `learning_rate` the peak of parameters
    /// without one of their own, and `gradient_scale` what clipping makes of the gradients.
    pub fn step(
        &mut self,
        model: Qwen2,
        gradients: Gradients,
        (learning_rate, schedule): (f64, f64),
        gradient_scale: f64,
    ) -> Qwen2 {
        self.begin_step();
        self.update(model, gradients, (learning_rate, schedule), gradient_scale)
    }

    /// Begins a step whose gradients come in parts, each to [`Self::update`].
    pub(crate) fn begin_step(&mut self) {
        self.step += 1;
    }

    /// As [`Self::step`], as a part of the step that has begun.
    pub(crate) fn update(
        &mut self,
        model: Qwen2,
        gradients: Gradients,
        (learning_rate, schedule): (f64, f64),
        gradient_scale: f64,
    ) -> Qwen2 {
        update_parameters(model, gradients, |name, value, gradient| {
            let rule = self.rule(name);
            let shape = &self.shapes[name];
            let group = self.config.groups.iter().find(|group| group.matches(name));
            let peak = group.and_then(|group| group.learning_rate).unwrap_or(learning_rate);
            let decay = group.and_then(|group| group.weight_decay).unwrap_or(self.config.weight_decay);
            let default_momentum = if rule == Rule::Muon { 0.95 } else { 0.0 };
            let step = Step {
                learning_rate: peak * schedule,
                weight_decay: if decays(name) { decay } else { 0.0 },
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                momentum: self.config.sgd.momentum.or(self.config.momentum).unwrap_or(default_momentum),
                dampening: self.config.sgd.dampening,
                nesterov: self.config.sgd.nesterov,
                number: self.step,
            };
            let fresh = || self.config.fresh_moments(name, shape, &value.device());
            let moments = self.moments.remove(name).unwrap_or_else(fresh);
            let (value, moments) = match rule {
                // The rules with a fused kernel scale the gradient on the way.
                Rule::AdamW => self.adamw(name, AdamWInput { value, moments, gradient }, &step, gradient_scale),
                Rule::AdamW8bit => {
                    let [first_moment, second_moment] = eight_bit::moments(moments);
                    let parameter = EightBitParameter { value, first_moment, second_moment };
                    let updated = adamw_8bit(parameter, gradient, &self.adamw_step(name, &step, gradient_scale));
                    (updated.value, eight_bit::numbers([updated.first_moment, updated.second_moment]))
                }
                _ => apply(rule, shape, value, moments, gradient.cast(DType::F32) * gradient_scale, &step),
            };
            self.moments.insert(name.into(), moments);
            value
        })
    }

    fn adamw(
        &self,
        name: &str,
        AdamWInput { value, moments, gradient }: AdamWInput,
        step: &Step,
        gradient_scale: f64,
    ) -> (Tensor<1>, Vec<Numbers>) {
        let settings = self.adamw_step(name, step, gradient_scale);
        let [first_moment, second_moment] = two(moments);
        let updated = adamw(AdamWParameter { value, first_moment, second_moment }, gradient, &settings);
        (updated.value, vec![updated.first_moment.into(), updated.second_moment.into()])
    }

    fn adamw_step(&self, name: &str, step: &Step, gradient_scale: f64) -> AdamWStep {
        AdamWStep {
            learning_rate: step.learning_rate,
            beta1: step.beta1,
            beta2: step.beta2,
            epsilon: self.config.epsilon,
            weight_decay: step.weight_decay,
            step: step.number,
            gradient_scale,
            rounding_seed: rounding_seed(self.config.seed, step.number, name),
        }
    }
}

/// What AdamW works on.
struct AdamWInput {
    value: Tensor<1>,
    moments: Vec<Numbers>,
    gradient: Tensor<1>,
}

/// Another one for each parameter and step, and the same after a resume: FNV-1a (Fowler, Noll and Vo).
fn rounding_seed(seed: u64, step: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(step.to_le_bytes()).chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A rule on flat tensors; matrices take their shape on the way.
fn apply(
    rule: Rule,
    shape: &[usize],
    value: Tensor<1>,
    moments: Vec<Numbers>,
    gradient: Tensor<1>,
    step: &Step,
) -> (Tensor<1>, Vec<Numbers>) {
    let len = shape.iter().product::<usize>();
    let matrix = |flat: Tensor<1>| flat.reshape([shape[0], shape[1]]);
    let vector_rule = match rule {
        Rule::Lion => rules::lion,
        Rule::Sgd => rules::sgd,
        Rule::AdafactorVector => rules::adafactor_vector,
        Rule::AdafactorMatrix => {
            let [row, column] = two(moments);
            let (value, row, column) = rules::adafactor_matrix(matrix(value), matrix(gradient), row, column, step);
            return (value.reshape([len]), vec![row.into(), column.into()]);
        }
        Rule::Muon => {
            let [buffer] = one(moments);
            let (value, buffer) = rules::muon(matrix(value), matrix(gradient), matrix(buffer), step);
            return (value.reshape([len]), vec![buffer.reshape([len]).into()]);
        }
        Rule::AdamW | Rule::AdamW8bit => unreachable!("AdamW has kernels of its own"),
    };
    let [moment] = one(moments);
    let (value, moment) = vector_rule(value, gradient, moment, step);
    (value, vec![moment.into()])
}

fn one(moments: Vec<Numbers>) -> [Tensor<1>; 1] {
    floats(moments).try_into().expect("the rule keeps one moment")
}

fn two(moments: Vec<Numbers>) -> [Tensor<1>; 2] {
    floats(moments).try_into().expect("the rule keeps two moments")
}

fn floats(moments: Vec<Numbers>) -> Vec<Tensor<1>> {
    moments.into_iter().map(|moment| moment.floats().expect("only moments in 8 bits have codes")).collect()
}

/// Whether a moment of this kind is what it should be: numbers, or codes for them.
fn is_codes(kind: &str, moment: &Numbers) -> bool {
    eight_bit::CODES.contains(&kind) == matches!(moment, Numbers::Codes(_))
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

    #[test]
    fn muon_is_for_the_matrices_of_blocks() {
        let rule = |name: &str, shape: &[usize]| Rule::of(OptimizerNames::Muon, name, shape);
        assert_eq!(rule("model.layers.0.mlp.up_proj.weight", &[4, 2]), Rule::Muon);
        assert_eq!(rule("model.layers.0.self_attn.q_proj.bias", &[4]), Rule::AdamW);
        assert_eq!(rule("model.embed_tokens.weight", &[9, 2]), Rule::AdamW);
        assert_eq!(rule("lm_head.weight", &[9, 2]), Rule::AdamW);
    }
}
