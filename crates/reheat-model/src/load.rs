//! Safetensors to model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use reheat_kernels::{FourBitWeight, Int8Weight, MappedFile, Weight};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use crate::error::{Misshapen, ModelError};
use crate::lora::load_adapter;
use crate::source::{TensorSource, shapes};
use crate::{LoadOptions, Precision, Qwen2, Qwen2Config};

/// Tensors that some checkpoints carry and no current model reads.
const DERIVED: &str = "rotary_emb.inv_freq";

pub(crate) fn load(dir: &Path, options: &LoadOptions, device: &Device) -> Result<Qwen2, ModelError> {
    if Qwen2::is_adapter(dir) {
        return load_adapter(load(&Qwen2::adapter_base(dir)?, options, device)?, dir);
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
            tensors.insert(name, Stored { path, map, view });
        }
    }
    check(dir, &config, &tensors.iter().map(|(name, stored)| (name.as_str(), stored.view.shape())).collect())?;
    let mut source = Checkpoint { tensors, options, device, fault: None };
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

/// A tensor of a file.
struct Stored<'a> {
    path: &'a Path,
    map: &'a MappedFile,
    view: TensorView<'a>,
}

struct Checkpoint<'a> {
    tensors: BTreeMap<String, Stored<'a>>,
    options: &'a LoadOptions,
    device: &'a Device,
    /// The first tensor that could not be used; the rest are not read after it.
    fault: Option<ModelError>,
}

impl Checkpoint<'_> {
    fn read<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>, ModelError> {
        let Stored { path, map, view } = &self.tensors[name];
        let data = TensorData::new(values_of(path, name, view)?, shape);
        map.release(view.data());
        Ok(Tensor::from_data(data, self.device))
    }

    fn read_bf16(&self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>, ModelError> {
        let Stored { path, map, view } = &self.tensors[name];
        let data = TensorData::new(bf16_values_of(path, name, view)?, shape);
        map.release(view.data());
        Ok(Tensor::from_data(data, (self.device, DType::BF16)))
    }
}

/// The numbers of a tensor of the file at `path`, in f32.
pub(crate) fn values_of(path: &Path, name: &str, view: &TensorView) -> Result<Vec<f32>, ModelError> {
    let values = match view.dtype() {
        Dtype::F32 => convert(view.data(), f32::from_le_bytes),
        Dtype::F16 => convert(view.data(), |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => convert(view.data(), |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => return Err(unread(path, name, other)),
    };
    finite(path, name, values, |value| value.is_finite())
}

/// As [`values_of`], in bf16.
fn bf16_values_of(path: &Path, name: &str, view: &TensorView) -> Result<Vec<bf16>, ModelError> {
    let values = match view.dtype() {
        Dtype::F32 => convert(view.data(), |bytes| bf16::from_f32(f32::from_le_bytes(bytes))),
        Dtype::F16 => convert(view.data(), |bytes| bf16::from_f32(f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => convert(view.data(), bf16::from_le_bytes),
        other => return Err(unread(path, name, other)),
    };
    finite(path, name, values, |value| value.is_finite())
}

fn unread(path: &Path, name: &str, dtype: Dtype) -> ModelError {
    ModelError::Dtype { path: path.into(), name: name.into(), dtype: format!("{dtype:?}") }
}

/// The values, if every one is finite.
fn finite<T: Sync>(
    path: &Path,
    name: &str,
    values: Vec<T>,
    is_finite: impl Fn(&T) -> bool + Sync,
) -> Result<Vec<T>, ModelError> {
    match values.par_iter().filter(|value| !is_finite(value)).count() {
        0 => Ok(values),
        count => Err(ModelError::NotFinite { path: path.into(), name: name.into(), count }),
    }
}

fn convert<const N: usize, T: Send>(bytes: &[u8], number: impl Fn([u8; N]) -> T + Sync) -> Vec<T> {
    bytes.as_chunks::<N>().0.par_iter().map(|bytes| number(*bytes)).collect()
}

impl TensorSource for Checkpoint<'_> {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        if self.fault.is_none() {
            match self.read(name, shape) {
                Ok(tensor) => return tensor,
                Err(fault) => self.fault = Some(fault),
            }
        }
        Tensor::empty([0; D], self.device)
    }

    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Weight {
        let precision = self.options.precision_of(name);
        let read = match (&self.fault, precision) {
            (Some(_), _) => return Tensor::empty([0; 2], self.device).into(),
            (None, Precision::Bfloat16) => self.read_bf16(name, shape).map(Weight::from),
            (None, _) => self.read(name, shape).map(Weight::from),
        };
        match read {
            Ok(Weight::Float(weight)) if precision == Precision::Int8 => Int8Weight::quantize(weight).into(),
            Ok(weight) => weight,
            Err(fault) => {
                self.fault = Some(fault);
                Tensor::empty([0; 2], self.device).into()
            }
        }
    }

    fn four_bit(&mut self, name: &str, shape: [usize; 2]) -> Option<FourBitWeight> {
        let config = self.options.four_bit(name)?;
        if self.fault.is_some() {
            return None;
        }
        match self.read(name, shape) {
            Ok(weight) => Some(FourBitWeight::quantize(weight, config)),
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }
}
