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

fn list(missing: &[String], unexpected: &[String], misshapen: &[Misshapen]) -> String {
    let part = |title: &str, items: Vec<String>| {
        if items.is_empty() {
            return String::new();
        }
        let rest = items.len().saturating_sub(LISTED);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("; {} {title}: {}{more}", items.len(), items[..items.len().min(LISTED)].join(", "))
    };
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect();
    part("missing", quoted(missing))
        + &part("unexpected", quoted(unexpected))
        + &part("misshapen", misshapen.iter().map(Misshapen::to_string).collect())
}

impl ModelError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Architecture { .. } => Some("use a Qwen2 or Qwen2.5 checkpoint".into()),
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
