//! Which layers get an adapter, and what stays frozen.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::ends_in;
use super::{Factors, LORA_PREFIX, Lora, LoraConfig, TOKENS_FIELD, TargetModules, TokenRows};
use crate::{Linear, ModelError, ParameterPath, Qwen2, Qwen2Config};

/// What an adapted model knows beside its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// As in `adapter_config.json`.
    pub(crate) config: LoraConfig,
    /// Name or path under which the base model was loaded.
    pub(crate) base_model: String,
    /// The model without its adapters; it shares the frozen weights.
    pub(crate) base: Box<Qwen2>,
}

impl Qwen2 {
    /// Adds fresh adapters, which change nothing yet, and freezes everything else but `modules_to_save` and the rows of
    /// the embedding at `trainable_token_indices`.
    ///
    /// `A` is drawn from U(-1/√in, 1/√in) (`kaiming_uniform_` with a = √5, as PEFT draws it), `B` is zero.
    /// The same seed gives the same bits; the draws of a layer do not depend on which others have an adapter.
    /// `base_model` is the name or path that a saved adapter will give for its base.
    ///
    /// A tied head or embedding among `modules_to_save` is untied, as in PEFT: each is trained or frozen by itself.
    ///
    /// # Errors
    /// If a setting is out of range, a name matches no module, or the head or embedding would get an adapter.
    pub fn with_lora(self, config: LoraConfig, base_model: &str, seed: u64) -> Result<Self, ModelError> {
        if self.adapter.is_some() {
            return Err(ModelError::AdapterSettings(vec!["the model already has adapters".into()]));
        }
        config.check(self.config())?;
        let device = self.device();
        let mut draw = |path: &str, layer: &Linear, index: u64| {
            config.targets(path).then(|| fresh(layer.shape(), config.rank(path), seed, index, &device))
        };
        let modules: Vec<String> =
            module_paths(self.config()).into_iter().filter(|path| config.saves_module(path)).collect();
        let mut model = self.adapted(&config, base_model, &modules, &mut draw);
        if !config.trainable_token_indices.is_empty() {
            model.token_adapter = Some(TokenRows::of(&config.trainable_token_indices, &model.embed_tokens));
        }
        Ok(model)
    }

    /// Hangs what `factors` gives for each dense layer on it; modules at `trained` stay trainable, the rest freezes.
    pub(super) fn adapted(
        mut self,
        config: &LoraConfig,
        base_model: &str,
        trained: &[String],
        factors: &mut dyn FnMut(&str, &Linear, u64) -> Option<Factors>,
    ) -> Self {
        let base = Box::new(self.clone());
        if self.lm_head.is_none()
            && ["model.embed_tokens", "lm_head"].iter().any(|end| trained.iter().any(|path| path == end))
        {
            self.lm_head = Some(self.embed_tokens.clone());
            self.config_mut().untie();
        }
        self = self.map(&mut Freeze { path: ParameterPath::new(""), trained });
        for (index, (path, layer)) in self.dense_layers_mut().into_iter().enumerate() {
            if let Some(factors) = factors(&path, layer, index as u64) {
                let scale = config.scale(&path, factors.a.dims()[0]);
                layer.adapter = Some(Lora::new(layer, factors, scale, config));
            }
        }
        self.adapter = Some(Adapter { config: config.clone(), base_model: base_model.into(), base });
        self
    }

    /// Settings of the adapters, or `None` where there are none.
    pub fn lora_config(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref().map(|adapter| &adapter.config)
    }

    /// The model as it was before it got adapters; it shares the frozen weights. Without adapters, the model itself.
    ///
    /// This is the reference model of preference training with adapters.
    pub fn without_adapters(&self) -> Self {
        self.adapter.as_ref().map_or_else(|| self.clone(), |adapter| (*adapter.base).clone())
    }

    /// The model with adapters that leave out inputs (`lora_dropout`), which ones following from `seed`; weights are shared.
    ///
    /// For one forward and backward pass of training: every use with the same seed leaves out the same inputs.
    pub fn with_dropout(&self, seed: u64) -> Self {
        let mut model = self.clone();
        for (index, (_, layer)) in model.dense_layers_mut().into_iter().enumerate() {
            if let Some(adapter) = &mut layer.adapter {
                // Seeds of neighbouring passes must not meet in neighbouring layers.
                adapter.set_dropout(Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64)));
            }
        }
        model
    }

    /// Whether the parameter of this name is trained. Without adapters, all are.
    pub fn trains(&self, name: &str) -> bool {
        let Some(adapter) = &self.adapter else { return true };
        is_adapters(name) || name.rsplit_once('.').is_some_and(|(module, _)| adapter.config.saves_module(module))
    }

    /// Numbers that are trained.
    pub fn num_trained_parameters(&self) -> usize {
        let mut count = 0;
        crate::for_each_parameter(self, "", |name, shape, _| {
            if self.trains(name) {
                count += shape.iter().product::<usize>();
            }
        });
        count
    }

    /// The dense layers of the blocks with their paths, in the order of the model.
    pub(super) fn dense_layers_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let mut layers = Vec::new();
        for (index, block) in self.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
            for (name, layer) in [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                layers.push((format!("model.layers.{index}.{name}"), layer));
            }
        }
        layers
    }
}

/// Paths of all modules that hold a parameter, the head also where it is tied.
fn module_paths(config: &Qwen2Config) -> Vec<String> {
    let shapes = config.tensor_shapes();
    let mut paths: Vec<String> =
        shapes.iter().filter_map(|(name, _)| name.rsplit_once('.')).map(|(module, _)| module.to_owned()).collect();
    paths.push("lm_head".into());
    paths.dedup();
    paths
}

/// The last parts of paths, each once.
fn last_parts<'a>(paths: impl Iterator<Item = &'a String>) -> Vec<String> {
    let parts: BTreeSet<&str> = paths.map(|path| path.rsplit('.').next().unwrap_or(path)).collect();
    parts.into_iter().map(str::to_owned).collect()
}

impl LoraConfig {
    /// Numbers that are trained in a model of this shape.
    pub fn num_parameters(&self, model: &Qwen2Config) -> usize {
        let mut count = 0;
        for (name, shape) in model.tensor_shapes() {
            let Some((path, kind)) = name.rsplit_once('.') else { continue };
            if self.saves_module(path) {
                count += shape.iter().product::<usize>();
            } else if let ([output, input], "weight") = (shape.as_slice(), kind)
                && path.ends_with("_proj")
                && self.targets(path)
            {
                count += self.rank(path) * (input + output) + if self.use_dora { *output } else { 0 };
            }
        }
        // A tied head that is trained whole is a matrix of its own.
        if model.tie_word_embeddings && self.saves_module("lm_head") {
            count += model.vocab_size * model.hidden_size;
        }
        count += self.trainable_token_indices.len() * model.hidden_size;
        count
    }

    /// Whether the model has the rows that are to be trained, and nothing else trains them.
    pub(super) fn check_tokens(&self, model: &Qwen2Config) -> Result<(), String> {
        let ids = &self.trainable_token_indices;
        if let Some(id) = ids.iter().find(|id| **id as usize >= model.vocab_size) {
            let vocab_size = model.vocab_size;
            return Err(format!("trainable_token_indices: {id} is outside the model's vocabulary of {vocab_size}"));
        }
        if model.tie_word_embeddings && !ids.is_empty() && self.saves_module("lm_head") {
            return Err("trainable_token_indices also trains rows of a head that is tied to the embedding, and \
                        modules_to_save would train that head by itself: choose one"
                .into());
        }
        Ok(())
    }

    /// Checks the values, and that every name means a module of such a model, before anything is loaded.
    ///
    /// # Errors
    /// If a value is out of range (all of them in one error), a name matches no module, or the head or embedding would
    /// get an adapter.
    pub fn check(&self, model: &Qwen2Config) -> Result<(), ModelError> {
        let faults = self.faults();
        if !faults.is_empty() {
            return Err(ModelError::AdapterSettings(faults));
        }
        self.check_tokens(model).map_err(|fault| ModelError::AdapterSettings(vec![fault]))?;
        let paths = module_paths(model);
        let dense: Vec<&String> = paths.iter().filter(|path| path.ends_with("_proj")).collect();
        let unknown: Vec<String> = match &self.target_modules {
            TargetModules::AllLinear => Vec::new(),
            TargetModules::Names(names) => {
                let known = |name: &&String| dense.iter().any(|path| ends_in(path, name));
                names.iter().filter(|name| !known(name)).cloned().collect()
            }
            TargetModules::Pattern(_) if dense.iter().any(|path| self.targets(path)) => Vec::new(),
            TargetModules::Pattern(pattern) => vec![pattern.clone()],
        };
        let is_head = |name: &&String| ["lm_head", "embed_tokens"].iter().any(|end| ends_in(name, end));
        if let Some(name) = unknown.iter().find(is_head) {
            return Err(ModelError::HeadAdapter { name: name.clone() });
        }
        if !unknown.is_empty() {
            let existing = last_parts(dense.into_iter());
            return Err(ModelError::UnknownModules { setting: "lora_target_modules", unknown, existing });
        }
        let known = |name: &&String| paths.iter().any(|path| ends_in(path, name));
        let unknown: Vec<String> = self.modules_to_save.iter().filter(|name| !known(name)).cloned().collect();
        if !unknown.is_empty() {
            let existing = last_parts(paths.iter());
            return Err(ModelError::UnknownModules { setting: "lora_modules_to_save", unknown, existing });
        }
        Ok(())
    }
}

/// Whether a parameter's name is that of an adapter's.
pub(crate) fn is_adapters(name: &str) -> bool {
    name.split('.').any(|part| part.starts_with(LORA_PREFIX) || part == TOKENS_FIELD)
}

/// A fresh pair of factors. Each layer has a stream of its own.
fn fresh([output, input]: [usize; 2], rank: usize, seed: u64, stream: u64, device: &Device) -> Factors {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let bound = 1.0 / (input as f32).sqrt();
    let a: Vec<f32> = (0..rank * input).map(|_| rng.random_range(-bound..bound)).collect();
    Factors {
        a: Tensor::from_data(TensorData::new(a, [rank, input]), device),
        b: Tensor::zeros([output, rank], device),
        magnitude: None,
    }
}

/// Freezes every parameter outside the modules at `trained`.
struct Freeze<'a> {
    path: ParameterPath,
    trained: &'a [String],
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
        let trained = self.trained.iter().any(|path| path == module);
        // What is trained is f32, also where the rest is held in less.
        let param = if trained { param.map(|value| value.cast(DType::F32)) } else { param };
        param.set_require_grad(trained)
    }
}
