//! Safetensors to model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use reheat_kernels::{Int8Weight, MappedFile, Weight};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::error::{Misshapen, ModelError};
use crate::lora::load_adapter;
use crate::source::{TensorSource, shapes};
use crate::{Precision, Qwen2, Qwen2Config};

/// Tensors that some checkpoints carry and no current model reads.
const DERIVED: &str = "rotary_emb.inv_freq";

pub(crate) fn load(dir: &Path, device: &Device, precision: Precision) -> Result<Qwen2, ModelError> {
    if Qwen2::is_adapter(dir) {
        return load_adapter(load(&Qwen2::adapter_base(dir)?, device, precision)?, dir);
    }
    let config = Qwen2Config::from_dir(dir)?;
    let files = weight_files(dir)?;
    let maps = files
        .into_iter()
        .map(|path| match MappedFile::open(&path) {
            Ok(map) => Ok((path, map)),
            Err(source) => Err(ModelError::Read { path, source }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut tensors = BTreeMap::new();
    for (path, map) in &maps {
        let file =
            SafeTensors::deserialize(map).map_err(|source| ModelError::Safetensors { path: path.clone(), source })?;
        for (name, view) in file.tensors() {
            tensors.insert(name, (path, view));
        }
    }
    check(dir, &config, &tensors.iter().map(|(name, (_, view))| (name.as_str(), view.shape())).collect())?;
    let mut source = Checkpoint { tensors, device, precision, fault: None };
    let model = Qwen2::build(&config, &mut source);
    match source.fault {
        Some(fault) => Err(fault),
        None => Ok(model),
    }
}

/// The safetensors files of a checkpoint: one, or the shards that the index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        let text = fs::read_to_string(&index).map_err(|source| ModelError::Read { path: index.clone(), source })?;
        let Index { weight_map } =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path: index.clone(), source })?;
        let shards: BTreeSet<String> = weight_map.into_values().collect();
        // A shard name is joined to the directory: `..` or a separator would reach outside it.
        if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref())) {
            return Err(ModelError::ShardPath { path: index, shard: shard.clone() });
        }
        return Ok(shards.into_iter().map(|shard| dir.join(shard)).collect());
    }
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"];
    Err(ModelError::NoWeights { dir: dir.into(), pickled: pickled.iter().any(|name| dir.join(name).exists()) })
}

/// Compares names and shapes with what the configuration implies, and reports every difference at once.
fn check(dir: &Path, config: &Qwen2Config, found: &BTreeMap<&str, &[usize]>) -> Result<(), ModelError> {
    let expected = shapes(config);
    let mut missing = Vec::new();
    let mut misshapen = Vec::new();
    for (name, shape) in &expected {
        match found.get(name.as_str()) {
            None => missing.push(name.clone()),
            Some(found) if *found != shape.as_slice() => {
                misshapen.push(Misshapen { name: name.clone(), expected: shape.clone(), found: found.to_vec() })
            }
            Some(_) => {}
        }
    }
    let expected: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let unexpected: Vec<String> = found
        .keys()
        .filter(|name| !expected.contains(**name) && !name.ends_with(DERIVED))
        // A tied model's files may repeat the embedding under the head's name; transformers ignores it too.
        .filter(|name| !(config.tie_word_embeddings && **name == "lm_head.weight"))
        .map(|name| (*name).to_owned())
        .collect();
    if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
        return Ok(());
    }
    Err(ModelError::Tensors { dir: dir.into(), missing, unexpected, misshapen })
}

struct Checkpoint<'a> {
    tensors: BTreeMap<String, (&'a PathBuf, TensorView<'a>)>,
    device: &'a Device,
    precision: Precision,
    /// The first tensor that could not be used; the rest are not read after it.
    fault: Option<ModelError>,
}

impl Checkpoint<'_> {
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let (path, view) = &self.tensors[name];
        values_of(path, name, view)
    }
}

/// The numbers of a tensor of the file at `path`, in f32.
pub(crate) fn values_of(path: &Path, name: &str, view: &TensorView) -> Result<Vec<f32>, ModelError> {
    let values = match view.dtype() {
        Dtype::F32 => convert(view.data(), f32::from_le_bytes),
        Dtype::F16 => convert(view.data(), |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => convert(view.data(), |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => {
            let dtype = format!("{other:?}");
            return Err(ModelError::Dtype { path: path.into(), name: name.into(), dtype });
        }
    };
    let count = values.par_iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        return Err(ModelError::NotFinite { path: path.into(), name: name.into(), count });
    }
    Ok(values)
}

fn convert<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    bytes.as_chunks::<N>().0.par_iter().map(|bytes| number(*bytes)).collect()
}

impl TensorSource for Checkpoint<'_> {
    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        if self.fault.is_none() {
            match self.values(name) {
                Ok(values) => return Tensor::from_data(TensorData::new(values, shape), self.device),
                Err(fault) => self.fault = Some(fault),
            }
        }
        Tensor::empty([0; D], self.device)
    }

    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Weight {
        if self.precision == Precision::Float32 || self.fault.is_some() {
            return self.tensor(name, shape).into();
        }
        let values = match self.values(name) {
            Ok(values) => values,
            Err(fault) => {
                self.fault = Some(fault);
                return Tensor::empty([0; 2], self.device).into();
            }
        };
        if self.precision == Precision::Int8 {
            return Int8Weight::quantize(Tensor::from_data(TensorData::new(values, shape), self.device)).into();
        }
        let values: Vec<bf16> = values.par_iter().map(|value| bf16::from_f32(*value)).collect();
        Tensor::<2>::from_data(TensorData::new(values, shape), (self.device, DType::BF16)).into()
    }
}
