//! What can be wrong with a checkpoint.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A tensor whose shape is not what `config.json` implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape that the configuration implies.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}

impl fmt::Display for Misshapen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` has shape {:?}, expected {:?}", self.name, self.found, self.expected)
    }
}

/// Why a model cannot be loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("`{}` is not valid", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// The checkpoint is of another architecture.
    #[error("`{}`: model type `{found}` is not supported, expected `qwen2`", .path.display())]
    Architecture {
        /// The configuration file.
        path: PathBuf,
        /// Its `model_type`.
        found: String,
    },
    /// A value of the configuration cannot be served.
    #[error("`{}`: {message}", .path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong, with the value.
        message: String,
    },
    /// There are no weights in a format that is read.
    #[error("`{}` holds no `model.safetensors` and no `model.safetensors.index.json`", .dir.display())]
    NoWeights {
        /// The checkpoint.
        dir: PathBuf,
        /// Whether there are pickled weights, which are never read.
        pickled: bool,
    },
    /// The shard index names a file outside the checkpoint.
    #[error("`{}`: shard `{shard}` is not a plain file name", .path.display())]
    ShardPath {
        /// The index.
        path: PathBuf,
        /// The name in it.
        shard: String,
    },
    /// A safetensors file is damaged.
    #[error("`{}` is damaged or truncated", .path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// Tensors do not match the configuration; every fault is listed.
    #[error("the tensors in `{}` do not match its config.json{}", .dir.display(), list(.missing, .unexpected, .misshapen))]
    Tensors {
        /// The checkpoint.
        dir: PathBuf,
        /// Names that the configuration implies and no file has.
        missing: Vec<String>,
        /// Names that some file has and the model does not.
        unexpected: Vec<String>,
        /// Tensors of another shape.
        misshapen: Vec<Misshapen>,
    },
    /// Settings of adapters that cannot work; every fault is listed.
    #[error("{}", .0.join("; "))]
    AdapterSettings(Vec<String>),
    /// Names that match no module.
    #[error("{setting}: no module is called {}", quoted(.unknown).join(", "))]
    UnknownModules {
        /// The setting.
        setting: &'static str,
        /// The names.
        unknown: Vec<String>,
        /// What modules are called.
        existing: Vec<String>,
    },
    /// The head or the embedding was to get an adapter.
    #[error("`{name}` cannot get an adapter")]
    HeadAdapter {
        /// The name in the setting.
        name: String,
    },
    /// An adapter of another method.
    #[error("`{}`: adapters of type `{found}` are not supported, expected `LORA`", .path.display())]
    PeftType {
        /// The settings file.
        path: PathBuf,
        /// Its `peft_type`.
        found: String,
    },
    /// An adapter asks for something that is not computed here.
    #[error("`{}`: `{key}` is {value}, which is not supported", .path.display())]
    AdapterFeature {
        /// The settings file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// There are no adapter weights in a format that is read.
    #[error("`{}` holds no `adapter_model.safetensors`", .dir.display())]
    NoAdapterWeights {
        /// The adapter.
        dir: PathBuf,
        /// Whether there are pickled weights, which are never read.
        pickled: bool,
    },
    /// The base model of an adapter is not where the adapter says.
    #[error("the adapter in `{}` belongs to the model `{}`, which is not there", .dir.display(), .base.display())]
    NoAdapterBase {
        /// The adapter.
        dir: PathBuf,
        /// Name or path of its base.
        base: PathBuf,
    },
    /// An adapter does not fit the base model; every fault is listed.
    #[error("the adapter `{}` does not fit the base model{}", .path.display(), list(.missing, .unexpected, .misshapen))]
    AdapterTensors {
        /// The weights.
        path: PathBuf,
        /// Names that belong to others in the file.
        missing: Vec<String>,
        /// Names for which the base model has no place.
        unexpected: Vec<String>,
        /// Tensors of another shape.
        misshapen: Vec<Misshapen>,
    },
    /// A tensor has a type that is not read.
    #[error("`{}`: tensor `{name}` has dtype {dtype}, expected F32, F16 or BF16", .path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The weights were rounded when they were loaded.
    #[error("a model whose matrices are held in bfloat16 or int8 cannot be saved")]
    Rounded,
    /// A tensor holds NaN or infinity.
    #[error("`{}`: tensor `{name}` holds {count} values that are NaN or infinite", .path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// How many.
        count: usize,
    },
}

/// Up to this many names of a kind are spelled out.
const LISTED: usize = 8;

fn quoted(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("`{name}`")).collect()
}

fn list(missing: &[String], unexpected: &[String], misshapen: &[Misshapen]) -> String {
    let part = |title: &str, items: Vec<String>| {
        if items.is_empty() {
            return String::new();
        }
        let rest = items.len().saturating_sub(LISTED);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("; {} {title}: {}{more}", items.len(), items[..items.len().min(LISTED)].join(", "))
    };
    part("missing", quoted(missing))
        + &part("unexpected", quoted(unexpected))
        + &part("misshapen", misshapen.iter().map(Misshapen::to_string).collect())
}

impl ModelError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Architecture { .. } => Some("use a Qwen2 or Qwen2.5 checkpoint".into()),
            Self::UnknownModules { existing, .. } => Some(format!("there are {}", existing.join(", "))),
            Self::HeadAdapter { .. } => Some(
                "adapters go on the dense layers of the blocks; train the head or the embedding whole with --lora-modules-to-save"
                    .into(),
            ),
            Self::PeftType { .. } => Some("only LoRA adapters (with rsLoRA and DoRA) are read".into()),
            Self::AdapterFeature { .. } => Some("merge the adapter with PEFT first: `merge_and_unload()`".into()),
            Self::NoAdapterBase { .. } => Some("give the folder of the base model with --base-model".into()),
            Self::AdapterTensors { .. } => Some("the adapter was trained on another model; give its base with --base-model".into()),
            Self::NoAdapterWeights { pickled: true, .. } => {
                Some("pickled weights (.bin) can run code and are never read; save the adapter with safe_serialization=True".into())
            }
            Self::NoAdapterWeights { pickled: false, .. } => {
                Some("give the directory that holds adapter_config.json and adapter_model.safetensors".into())
            }
            Self::NoWeights { pickled: true, .. } => Some(
                "pickled weights (.bin, .pt) can run code and are never read; save the model with safe_serialization=True"
                    .into(),
            ),
            Self::NoWeights { pickled: false, .. } => {
                Some("give the directory that holds config.json and the safetensors files".into())
            }
            Self::Safetensors { .. } => Some("download or copy the file again".into()),
            Self::Tensors { .. } => Some("config.json and the weights come from different models".into()),
            _ => None,
        }
    }
}
