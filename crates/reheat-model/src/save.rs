//! Model to a Hugging Face directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::DType;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{ModelError, NamedTensor, Qwen2, Qwen2Config, WrittenFile, for_each_parameter, write_tensors};

/// Type of the numbers in the saved files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WeightDtype {
    /// 32 bits, what training holds.
    #[default]
    #[serde(rename = "float32", alias = "f32")]
    F32,
    /// IEEE half precision.
    #[serde(rename = "float16", alias = "f16")]
    F16,
    /// bfloat16.
    #[serde(rename = "bfloat16", alias = "bf16")]
    Bf16,
}

impl WeightDtype {
    /// The name in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    pub(crate) fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// How a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveOptions {
    /// Type of the numbers.
    pub dtype: WeightDtype,
    /// Files hold at most this many bytes of tensors, unless one tensor alone is larger.
    pub max_shard_bytes: usize,
}

impl Default for SaveOptions {
    /// f32, in files of 5 GB as transformers 4 wrote them.
    fn default() -> Self {
        Self { dtype: WeightDtype::F32, max_shard_bytes: 5_000_000_000 }
    }
}

impl Qwen2 {
    /// Writes `config.json` and the weights into `dir`, which is made if need be.
    ///
    /// A model with adapters is saved as its adapters, in PEFT's files; [`merged`](Self::merged) makes a whole of it.
    /// Gives the files of weights.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path, options: &SaveOptions) -> Result<Vec<WrittenFile>, ModelError> {
        // An adapter is saved without its base, which may be held in any type.
        if self.is_rounded() && self.adapter.is_none() {
            return Err(ModelError::Rounded);
        }
        fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.into(), source })?;
        if self.adapter.is_some() {
            return Ok(vec![self.save_adapter(dir, options)?]);
        }
        save_config(self.config(), dir, options.dtype)?;
        let mut shards: Vec<Vec<NamedTensor>> = vec![Vec::new()];
        let mut filled = 0;
        for_each_parameter(self, "", |name, shape, values| {
            let (name, shape) = (name.to_owned(), shape.to_vec());
            let tensor = NamedTensor { name, shape, values: values.into(), dtype: options.dtype };
            if filled > 0 && filled + tensor.num_bytes() > options.max_shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += tensor.num_bytes();
            shards.last_mut().expect("starts with one").push(tensor);
        });
        if let [single] = shards.as_slice() {
            return Ok(vec![write_tensors(&dir.join("model.safetensors"), single)?]);
        }
        let mut written = Vec::new();
        let mut weight_map = BTreeMap::new();
        let mut total_size = 0;
        for (index, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
            written.push(write_tensors(&dir.join(&file), shard)?);
            for tensor in shard {
                weight_map.insert(tensor.name.clone(), file.clone());
                total_size += tensor.num_bytes();
            }
        }
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
        Ok(written)
    }
}

/// Writes `config.json`, with the type of the saved weights and every key that was read.
///
/// # Errors
/// If the file cannot be written.
pub fn save_config(config: &Qwen2Config, dir: &Path, dtype: WeightDtype) -> Result<(), ModelError> {
    let mut object: Map<String, Value> = config.raw().clone();
    // transformers 4 named it `torch_dtype`; a file must not say both.
    object.shift_remove("torch_dtype");
    object.insert("dtype".into(), dtype.name().into());
    write_json(&dir.join("config.json"), &Value::Object(object))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value can be written as JSON");
    text.push('\n');
    fs::write(path, text).map_err(|source| ModelError::Write { path: path.into(), source })
}
