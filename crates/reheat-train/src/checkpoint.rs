//! What a checkpoint holds beside the model, and how a run takes it up again.
//!
//! Weights and moments are bits, counters are numbers, and the rows and the randomness of every step follow from its
//! number and the seed: so a run that is taken up again ends in the same bytes as one that was never stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use reheat_model::{
    NamedTensor, Numbers, Qwen2, TensorFile, WeightDtype, WrittenFile, map_parameters, parameter_name, write_tensors,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::optimizer::Moment;
use crate::progress::Progress;
use crate::{MethodState, TrainError, disk, exact, integrity};

/// Counters, settings and rows so far.
const STATE: &str = "training_state.json";
/// Moments of the optimizer, by parameter and kind.
const OPTIMIZER: &str = "optimizer.safetensors";
/// The trained parameters in f32 by their names, where the model's own files hold them rounded or as an adapter.
const MASTER: &str = "master.safetensors";
/// What the method carries from step to step, as JSON and as tensors.
const METHOD: MethodFiles = MethodFiles { values: "method_state.json", tensors: "method_state.safetensors" };
/// Name of a checkpoint's directory, before the step.
pub(crate) const PREFIX: &str = "checkpoint-";

/// Where the state of a method is.
struct MethodFiles {
    values: &'static str,
    tensors: &'static str,
}

/// Everything in [`STATE`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrainingState {
    pub(crate) progress: Progress,
    /// Steps that the optimizer took.
    pub(crate) optimizer_steps: u64,
    /// The settings of the loop.
    pub(crate) settings: Map<String, Value>,
    /// What the method says its rows and settings are.
    pub(crate) identity: Map<String, Value>,
}

/// Writes everything beside the model into `dir`; gives the files of tensors.
pub(crate) fn write_state(
    dir: &Path,
    state: &TrainingState,
    moments: Vec<Moment>,
    master: &[NamedTensor],
) -> Result<Vec<WrittenFile>, TrainError> {
    disk::write(&dir.join(STATE), (exact::to_string(state) + "\n").as_bytes())?;
    let moments: Vec<NamedTensor> = moments
        .into_iter()
        .map(|moment| flat_tensor(format!("{}.{}", moment.parameter, moment.kind), moment.values))
        .collect();
    let mut written = vec![write_tensors(&dir.join(OPTIMIZER), &moments)?];
    if !master.is_empty() {
        written.push(write_tensors(&dir.join(MASTER), master)?);
    }
    Ok(written)
}

/// Writes what the method carries from step to step.
pub(crate) fn write_method_state(dir: &Path, method: MethodState) -> Result<(), TrainError> {
    METHOD.write(dir, method)
}

impl MethodFiles {
    fn write(&self, dir: &Path, state: MethodState) -> Result<(), TrainError> {
        if !state.values.is_empty() {
            disk::write(&dir.join(self.values), (exact::to_string(&state.values) + "\n").as_bytes())?;
        }
        if !state.tensors.is_empty() {
            let tensors: Vec<_> =
                state.tensors.into_iter().map(|(name, values)| flat_tensor(name, values.into())).collect();
            write_tensors(&dir.join(self.tensors), &tensors)?;
        }
        Ok(())
    }

    fn read(&self, checkpoint: &Checkpoint, device: &Device) -> Result<MethodState, TrainError> {
        let mut state = MethodState::default();
        if checkpoint.dir.join(self.values).is_file() {
            state.values = checkpoint.read_json(self.values)?;
        }
        let tensors = checkpoint.dir.join(self.tensors);
        if tensors.is_file() {
            state.tensors = read_floats(&[tensors], device)?;
        }
        Ok(state)
    }
}

/// A tensor that keeps its bits.
fn flat_tensor(name: String, values: Numbers) -> NamedTensor {
    let dtype = match &values {
        Numbers::Floats(values) => own_dtype(values),
        Numbers::Codes(_) => WeightDtype::F32,
    };
    NamedTensor { name, shape: vec![values.len()], dtype, values }
}

fn own_dtype(values: &Tensor<1>) -> WeightDtype {
    match values.dtype() {
        burn::tensor::DType::BF16 => WeightDtype::Bf16,
        burn::tensor::DType::F16 => WeightDtype::F16,
        _ => WeightDtype::F32,
    }
}

/// A checkpoint whose files are what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    dir: PathBuf,
}

impl Checkpoint {
    /// Opens a checkpoint and compares every file with the size and the hash it was saved with.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the directory was never a checkpoint to resume from.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let checkpoint = Self::of_model(dir)?;
        if !dir.join(STATE).is_file() {
            let reason = "it holds a model only, saved with save_only_model".into();
            return Err(TrainError::Damaged { dir: dir.into(), reason });
        }
        Ok(checkpoint)
    }

    /// Opens a checkpoint of which only the model is needed.
    pub(crate) fn of_model(dir: &Path) -> Result<Self, TrainError> {
        match integrity::damage(dir) {
            Some(reason) => Err(TrainError::Damaged { dir: dir.into(), reason }),
            None => Ok(Self { dir: dir.into() }),
        }
    }

    /// The newest intact checkpoint of a run, and what is wrong with those that are newer.
    ///
    /// # Errors
    /// If there is no intact checkpoint; every damaged one is named.
    pub fn newest(output_dir: &Path) -> Result<(Self, Vec<TrainError>), TrainError> {
        let mut damaged = Vec::new();
        for (_step, dir) in list(output_dir)?.into_iter().rev() {
            match Self::open(&dir) {
                Ok(checkpoint) => return Ok((checkpoint, damaged)),
                Err(error) => damaged.push(error),
            }
        }
        Err(TrainError::NoCheckpoint {
            dir: output_dir.into(),
            damaged: damaged.iter().map(ToString::to_string).collect(),
        })
    }

    /// The directories of a run's checkpoints, the oldest first, intact or not.
    ///
    /// # Errors
    /// If the directory cannot be read; one that does not exist has none.
    pub fn dirs(output_dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
        Ok(list(output_dir)?.into_iter().map(|(_step, dir)| dir).collect())
    }

    /// Its directory, which is also a model directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn state(&self) -> Result<TrainingState, TrainError> {
        self.read_json(STATE)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        let damaged = |reason: String| TrainError::Damaged { dir: self.dir.clone(), reason };
        let text = fs::read_to_string(self.dir.join(name))
            .map_err(|error| damaged(format!("`{name}` cannot be read: {error}")))?;
        exact::from_str(&text).map_err(|error| damaged(format!("`{name}` is of another version: {error}")))
    }

    /// What the method carries from step to step.
    pub(crate) fn method_state(&self, device: &Device) -> Result<MethodState, TrainError> {
        METHOD.read(self, device)
    }

    /// The trained parameters by name.
    pub(crate) fn weights(&self, device: &Device) -> Result<BTreeMap<String, Tensor<1>>, TrainError> {
        let master = self.dir.join(MASTER);
        let files = if master.is_file() { vec![master] } else { self.model_files()? };
        let tensors = read_floats(&files, device)?;
        Ok(tensors.into_iter().map(|(name, values)| (parameter_name(&name).to_owned(), values)).collect())
    }

    /// The optimizer's moments.
    pub(crate) fn moments(&self, device: &Device) -> Result<Vec<Moment>, TrainError> {
        let tensors = read_tensors(&[self.dir.join(OPTIMIZER)], device)?;
        let moments = tensors.into_iter().filter_map(|(name, values)| {
            let (parameter, kind) = name.rsplit_once('.')?;
            Some(Moment { parameter: parameter.into(), kind: kind.into(), values })
        });
        Ok(moments.collect())
    }

    fn model_files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let entries = fs::read_dir(&self.dir)
            .map_err(|error| TrainError::Damaged { dir: self.dir.clone(), reason: error.to_string() })?;
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        Ok(paths
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(".safetensors") && ![OPTIMIZER, METHOD.tensors].contains(&&*name)
            })
            .collect())
    }
}

/// Puts saved weights in place of a model's, each in the type that it has there.
///
/// # Errors
/// What is wrong: weights of another size, and those that are `required` and not there.
pub(crate) fn take_weights(
    model: Qwen2,
    mut weights: BTreeMap<String, Tensor<1>>,
    required: &BTreeSet<String>,
) -> (Qwen2, Result<(), String>) {
    let mut faults = Vec::new();
    let model = map_parameters(model, "", |name, value| match weights.remove(name) {
        Some(saved) if saved.dims() == value.dims() => saved.cast(value.dtype()),
        Some(saved) => {
            faults.push(format!("`{name}` has {} numbers, the model {}", saved.dims()[0], value.dims()[0]));
            value
        }
        None if required.contains(name) => {
            faults.push(format!("`{name}` is missing"));
            value
        }
        None => value,
    });
    let model = model.with_token_rows_written();
    (model, if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) })
}

/// Tensors of floating-point numbers; others mean nothing where these are expected, and what is expected is missed.
fn read_floats(files: &[PathBuf], device: &Device) -> Result<BTreeMap<String, Tensor<1>>, TrainError> {
    let tensors = read_tensors(files, device)?.into_iter();
    Ok(tensors.filter_map(|(name, numbers)| Some((name, numbers.floats()?))).collect())
}

fn read_tensors(files: &[PathBuf], device: &Device) -> Result<BTreeMap<String, Numbers>, TrainError> {
    let mut tensors = BTreeMap::new();
    for path in files {
        TensorFile::open(path)?.for_each(device, |name, tensor| {
            tensors.insert(name, tensor);
        })?;
    }
    Ok(tensors)
}

/// Every directory with a checkpoint's name, by step.
pub(crate) fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let entries = match fs::read_dir(output_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TrainError::Read { path: output_dir.into(), source }),
    };
    let mut checkpoints: Vec<(u64, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    checkpoints.sort();
    Ok(checkpoints)
}
