//! `config.json` of a Qwen2 checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ModelError;

/// What a model's hidden states become (`architectures` in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HeadKind {
    /// Logits of the next token (`Qwen2ForCausalLM`).
    #[default]
    LanguageModel,
    /// One number, read at the last token of a sequence: a reward model (`Qwen2ForSequenceClassification`, one label).
    Score,
}

/// Shape and constants of a Qwen2 model, with transformers' defaults (`configuration_qwen2.py`, 5.23).
///
/// Keys that the model does not use are kept and written back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Qwen2Config {
    /// Rows of the embedding; at least the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// What the hidden states become.
    pub head: HeadKind,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// The file as it was, with every key.
    raw: Map<String, Value>,
}

/// The keys as the file has them.
#[derive(Deserialize)]
struct File {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "default_range")]
    initializer_range: f64,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    id2label: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

fn default_eps() -> f64 {
    1e-6
}

fn default_positions() -> usize {
    32768
}

fn default_range() -> f64 {
    0.02
}

fn default_activation() -> String {
    "silu".into()
}

/// The architecture that reads one number per label at the last token.
const CLASSIFIER: &str = "Qwen2ForSequenceClassification";

/// Labels of a classifier whose file has none (transformers 5.23, `PretrainedConfig`).
const DEFAULT_LABELS: usize = 2;

/// Base of the rotary frequencies where the file has none (transformers 5.23).
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

impl Qwen2Config {
    /// Reads `config.json` in a checkpoint directory.
    ///
    /// # Errors
    /// If the file is absent or not JSON, of another architecture, or asks for something that is not computed here.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let raw = serde_json::from_str(&text).map_err(|source| ModelError::Json { path: path.clone(), source })?;
        Self::from_json(raw, path)
    }

    /// Takes the object of a `config.json`; `path` is for error messages.
    ///
    /// # Errors
    /// As [`Self::from_dir`].
    pub fn from_json(raw: Map<String, Value>, path: PathBuf) -> Result<Self, ModelError> {
        let model_type = raw.get("model_type").and_then(Value::as_str).unwrap_or("none");
        if model_type != "qwen2" {
            return Err(ModelError::Architecture { path, found: model_type.into() });
        }
        let file: File = serde_json::from_value(Value::Object(raw.clone()))
            .map_err(|source| ModelError::Json { path: path.clone(), source })?;
        let fault = |message: String| ModelError::Config { path: path.clone(), message };
        let rope = file.rope_parameters.or(file.rope_scaling);
        if let Some(kind) = rope.as_ref().and_then(|rope| rope.rope_type.as_deref())
            && kind != "default"
        {
            return Err(fault(format!("rope type `{kind}` is not supported, expected `default`")));
        }
        if file.hidden_act != "silu" {
            return Err(fault(format!("activation `{}` is not supported, expected `silu`", file.hidden_act)));
        }
        if file.use_sliding_window {
            return Err(fault("sliding-window attention (`use_sliding_window`) is not supported".into()));
        }
        let heads = file.num_attention_heads;
        let sizes = [
            ("vocab_size", file.vocab_size),
            ("hidden_size", file.hidden_size),
            ("intermediate_size", file.intermediate_size),
            ("num_attention_heads", heads),
            ("num_key_value_heads", file.num_key_value_heads.unwrap_or(heads)),
            ("max_position_embeddings", file.max_position_embeddings),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(fault(format!("`{key}` is 0")));
        }
        let is_classifier = file.architectures.iter().flatten().any(|name| name == CLASSIFIER);
        let num_labels = file.id2label.as_ref().map_or(DEFAULT_LABELS, Map::len);
        if is_classifier && num_labels != 1 {
            return Err(fault(format!(
                "a classifier of {num_labels} labels is not supported, expected 1: a reward model"
            )));
        }
        let config = Self {
            vocab_size: file.vocab_size,
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            num_hidden_layers: file.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: file.num_key_value_heads.unwrap_or(heads),
            head_dim: file.head_dim.unwrap_or(file.hidden_size / heads),
            rms_norm_eps: file.rms_norm_eps,
            rope_theta: rope.and_then(|rope| rope.rope_theta).or(file.rope_theta).unwrap_or(DEFAULT_ROPE_THETA),
            max_position_embeddings: file.max_position_embeddings,
            tie_word_embeddings: file.tie_word_embeddings,
            head: if is_classifier { HeadKind::Score } else { HeadKind::LanguageModel },
            initializer_range: file.initializer_range,
            raw,
        };
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            return Err(fault(format!(
                "{} attention heads cannot share {} key-value heads",
                config.num_attention_heads, config.num_key_value_heads
            )));
        }
        if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
            return Err(fault(format!("head size {} is not an even number above 0", config.head_dim)));
        }
        Ok(config)
    }

    /// A two-layer model small enough for tests and examples.
    pub fn tiny(vocab_size: usize) -> Self {
        let raw = json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
            "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "max_position_embeddings": 256, "tie_word_embeddings": true, "initializer_range": 0.1,
        });
        let Value::Object(raw) = raw else { unreachable!("an object literal") };
        Self::from_json(raw, PathBuf::from("tiny")).expect("the literal above is a valid configuration")
    }

    /// The object to write as `config.json`.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// A key of the file that the model itself does not use, such as `eos_token_id`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key)
    }

    /// Sets a key of the file that the model itself does not use, such as `eos_token_id`.
    ///
    /// # Panics
    /// If the key is one of the fields of this struct: those would no longer agree with the file.
    pub fn set(&mut self, key: &str, value: Value) {
        const TOKEN_KEYS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];
        assert!(TOKEN_KEYS.contains(&key), "`{key}` describes the model's computation and cannot be set");
        self.raw.insert(key.into(), value);
    }

    /// Makes it the configuration of a reward model, as transformers writes it.
    pub(crate) fn set_score_head(&mut self) {
        self.head = HeadKind::Score;
        self.raw.insert("architectures".into(), json!([CLASSIFIER]));
        self.raw.insert("id2label".into(), json!({ "0": "LABEL_0" }));
        self.raw.insert("label2id".into(), json!({ "LABEL_0": 0 }));
    }

    /// Gives the head a matrix of its own.
    pub(crate) fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.raw.insert("tie_word_embeddings".into(), Value::Bool(false));
    }

    /// Checkpoint names and shapes of all tensors, in the order of the model.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        crate::source::shapes(self)
    }

    /// Parameters of the model, the tied head counted once.
    pub fn num_parameters(&self) -> usize {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
