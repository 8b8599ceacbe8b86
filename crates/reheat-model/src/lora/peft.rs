//! `adapter_model.safetensors`: adapters in PEFT's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module as _, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use reheat_kernels::MappedFile;
use safetensors::SafeTensors;

use super::attach::is_adapters;
use super::{Factors, LoraConfig, PEFT_PREFIX, TOKENS_FIELD, TOKENS_PARENT, TokenRows};
use crate::error::Misshapen;
use crate::load::values_of;
use crate::save::write_json;
use crate::{
    Linear, ModelError, NamedTensor, ParameterPath, Qwen2, SaveOptions, WrittenFile, for_each_parameter, write_tensors,
};

/// File of the weights.
const WEIGHTS: &str = "adapter_model.safetensors";

/// The head of a reward model.
const SCORE: &str = "score.weight";

/// File of the settings.
const CONFIG: &str = "adapter_config.json";

impl Qwen2 {
    /// Whether a folder holds an adapter instead of a model.
    pub fn is_adapter(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// Folder of the model that the adapter in `dir` was trained on, by `base_model_name_or_path`.
    ///
    /// A relative path is looked for from the current folder, then from the adapter's and those above it: a run
    /// directory can be used from anywhere.
    ///
    /// # Errors
    /// If the adapter's settings cannot be read or are not supported, do not name a model, or there is no such folder.
    pub fn adapter_base(dir: &Path) -> Result<PathBuf, ModelError> {
        let (_, name) = LoraConfig::from_dir(dir)?;
        let missing =
            || ModelError::Config { path: dir.join(CONFIG), message: "`base_model_name_or_path` is missing".into() };
        let base = PathBuf::from(name.filter(|name| !name.is_empty()).ok_or_else(missing)?);
        let from = fs::canonicalize(dir).map_err(|source| ModelError::Read { path: dir.into(), source })?;
        let candidates = [base.clone()].into_iter().chain(from.ancestors().map(|above| above.join(&base)));
        let found = candidates.into_iter().find(|folder| folder.is_dir());
        found.ok_or_else(|| ModelError::NoAdapterBase { dir: dir.into(), base })
    }

    /// Hangs the adapter in `dir`, as PEFT or [`Self::save`] wrote it, on this model.
    ///
    /// # Errors
    /// If its files are missing, damaged or not supported, or do not fit this model (every fault in one error).
    pub fn with_adapter(self, dir: &Path) -> Result<Self, ModelError> {
        load(self, dir)
    }

    /// Writes the adapters as PEFT does.
    pub(crate) fn save_adapter(&self, dir: &Path, options: &SaveOptions) -> Result<WrittenFile, ModelError> {
        let adapter = self.adapter.as_ref().expect("the caller checked that there are adapters");
        write_json(&dir.join(CONFIG), &adapter.config.to_json(&adapter.base_model, self.config().head))?;
        let mut tensors = Vec::new();
        for_each_parameter(self, "", |name, shape, values| {
            if self.trains(name) {
                let (name, shape) = (peft_name(name), shape.to_vec());
                tensors.push(NamedTensor { name, shape, values: values.into(), dtype: options.dtype });
            }
        });
        write_tensors(&dir.join(WEIGHTS), &tensors)
    }
}

/// The name in PEFT's files.
fn peft_name(name: &str) -> String {
    if name.starts_with(PEFT_PREFIX) { name.into() } else { format!("{PEFT_PREFIX}{name}") }
}

pub(crate) fn load(base: Qwen2, dir: &Path) -> Result<Qwen2, ModelError> {
    let (config, base_model) = LoraConfig::from_dir(dir)?;
    let path = dir.join(WEIGHTS);
    if !path.is_file() {
        return Err(ModelError::NoAdapterWeights { dir: dir.into(), pickled: dir.join("adapter_model.bin").exists() });
    }
    let map = MappedFile::open(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
    let file =
        SafeTensors::deserialize(&map).map_err(|source| ModelError::Safetensors { path: path.clone(), source })?;
    config.check_tokens(base.config()).map_err(|message| ModelError::Config { path: dir.join(CONFIG), message })?;
    let mut tensors = AdapterTensors::read(&path, &file)?;
    let device = base.device();
    // A reward model's adapter hangs on a language model, and brings the head.
    let base = if tensors.values.contains_key(SCORE) { base.with_score_head(0) } else { base };
    let model = tensors.attach(base, &config, base_model.as_deref().unwrap_or_default(), &device);
    tensors.into_error().map_or(Ok(model), Err)
}

/// What is in the file, and what does not fit.
struct AdapterTensors {
    path: PathBuf,
    /// Shape and values by the name without PEFT's prefix.
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    missing: Vec<String>,
    misshapen: Vec<Misshapen>,
}

impl AdapterTensors {
    fn read(path: &Path, file: &SafeTensors) -> Result<Self, ModelError> {
        let mut values = BTreeMap::new();
        for (name, view) in file.tensors() {
            let key = name.strip_prefix(PEFT_PREFIX).unwrap_or(&name).to_owned();
            values.insert(key, (view.shape().to_vec(), values_of(path, &name, &view)?));
        }
        Ok(Self { path: path.into(), values, missing: Vec::new(), misshapen: Vec::new() })
    }

    /// Takes a tensor out; notes where it is absent or of another shape.
    fn take<const D: usize>(&mut self, name: &str, expected: [usize; D], device: &Device) -> Option<Tensor<D>> {
        let Some((shape, values)) = self.values.remove(name) else {
            self.missing.push(format!("{PEFT_PREFIX}{name}"));
            return None;
        };
        if shape != expected {
            let name = format!("{PEFT_PREFIX}{name}");
            self.misshapen.push(Misshapen { name, expected: expected.to_vec(), found: shape });
            return None;
        }
        Some(Tensor::from_data(TensorData::new(values, expected), device))
    }

    fn attach(&mut self, base: Qwen2, config: &LoraConfig, base_model: &str, device: &Device) -> Qwen2 {
        let whole: Vec<String> = self.values.keys().filter(|name| !is_adapters(name)).cloned().collect();
        let modules: Vec<String> =
            whole.iter().filter_map(|name| name.rsplit_once('.')).map(|(module, _)| module.to_owned()).collect();
        let mut config = config.clone();
        for module in &modules {
            // PEFT also saves an embedding that it was not asked to save, where the vocabulary has grown.
            if !config.saves_module(module) {
                config.modules_to_save.push(module.clone());
            }
        }
        let mut factors = |path: &str, layer: &Linear, _: u64| self.factors(path, layer, &config, device);
        let mut model = base.adapted(&config, base_model, &modules, &mut factors);
        let tokens = &config.trainable_token_indices;
        if !tokens.is_empty() {
            let shape = [tokens.len(), model.config().hidden_size];
            let name = format!("{TOKENS_PARENT}.{TOKENS_FIELD}.trainable_tokens_delta");
            model.token_adapter = self.take(&name, shape, device).map(|rows| TokenRows::new(tokens, rows));
        }
        let model = model.map(&mut Replace { path: ParameterPath::new(""), tensors: self, device });
        model.with_token_rows_written()
    }

    /// The adapter of one layer, or `None` where the file has none.
    fn factors(&mut self, path: &str, layer: &Linear, config: &LoraConfig, device: &Device) -> Option<Factors> {
        let [output, input] = layer.shape();
        let [name_a, name_b, name_m] =
            ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map(|end| format!("{path}.{end}"));
        let a_shape = self.values.get(&name_a).map(|(shape, _)| shape.clone());
        if a_shape.is_none() && !self.values.contains_key(&name_b) {
            return None;
        }
        // The file is what decides on the rank; PEFT's `r` is the default of several.
        let rank = a_shape.and_then(|shape| shape.first().copied()).unwrap_or_else(|| config.rank(path));
        let a = self.take(&name_a, [rank, input], device);
        let b = self.take(&name_b, [output, rank], device);
        let magnitude = if config.use_dora { self.take(&name_m, [output], device) } else { None };
        Some(Factors { a: a?, b: b?, magnitude })
    }

    /// The error that lists everything that did not fit, if anything did not.
    fn into_error(self) -> Option<ModelError> {
        let unexpected: Vec<String> = self.values.into_keys().map(|name| format!("{PEFT_PREFIX}{name}")).collect();
        let fits = self.missing.is_empty() && self.misshapen.is_empty() && unexpected.is_empty();
        (!fits).then_some(ModelError::AdapterTensors {
            path: self.path,
            missing: self.missing,
            unexpected,
            misshapen: self.misshapen,
        })
    }
}

/// Puts the tensors of `modules_to_save` in place of the base's.
struct Replace<'a> {
    path: ParameterPath,
    tensors: &'a mut AdapterTensors,
    device: &'a Device,
}

impl ModuleMapper for Replace<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        if !self.tensors.values.contains_key(&name) {
            return param;
        }
        match self.tensors.take(&name, param.dims(), self.device) {
            Some(value) => param.map(|_| value),
            None => param,
        }
    }
}
