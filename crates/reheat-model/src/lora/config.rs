//! `adapter_config.json`: what an adapter is, under PEFT's names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::{HeadKind, ModelError};

/// The layers that PEFT 0.21.2 adapts in a Qwen2 when it is not told (`utils/constants.py`).
const DEFAULT_TARGETS: [&str; 2] = ["q_proj", "v_proj"];

/// Names of the dense layers of a block.
const DENSE_LAYERS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The word for every dense layer of the blocks.
const ALL_LINEAR: &str = "all-linear";

/// Which layers get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every dense layer of the blocks.
    AllLinear,
    /// Layers with one of these names, or whose path ends in one of them.
    Names(Vec<String>),
    /// Layers whose whole path matches the regular expression.
    Pattern(String),
}

impl Default for TargetModules {
    /// The queries and the values, as in PEFT.
    fn default() -> Self {
        Self::Names(DEFAULT_TARGETS.map(str::to_owned).to_vec())
    }
}

/// Settings of low-rank adapters, under the names of PEFT's `LoraConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the updates.
    pub r: usize,
    /// Updates are scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of an adapter's input that is left out while training.
    pub lora_dropout: f64,
    /// Which layers get an adapter.
    pub target_modules: TargetModules,
    /// Modules that are trained whole and saved beside the adapters: names, or ends of paths.
    pub modules_to_save: Vec<String>,
    /// Tokens whose rows of the embedding are trained, and of the head where it is tied.
    pub trainable_token_indices: Vec<u32>,
    /// Scale by `lora_alpha / √r` (rsLoRA).
    pub use_rslora: bool,
    /// Train the lengths of the weight's rows apart from their directions (DoRA).
    pub use_dora: bool,
    /// Other ranks for layers whose path ends in a match of the key.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other `lora_alpha` for layers whose path ends in a match of the key.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    /// PEFT 0.21.2's defaults.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::default(),
            modules_to_save: Vec::new(),
            trainable_token_indices: Vec::new(),
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl TargetModules {
    /// What a person wrote: the word `all-linear`, names, or one regular expression.
    ///
    /// One word alone is a name, unless it has a character that only a regular expression has.
    pub fn parse(words: &[String]) -> Self {
        match words {
            [word] if word.eq_ignore_ascii_case(ALL_LINEAR) => Self::AllLinear,
            [word] if word.contains(['*', '(', '|', '[', '^', '$', '\\', '+', '?']) => Self::Pattern(word.clone()),
            words => Self::Names(words.to_vec()),
        }
    }

    /// As `adapter_config.json` holds it.
    pub fn to_json(&self) -> Value {
        match self {
            // PEFT spells the word out too, and not every reader of its files knows it.
            Self::AllLinear => json!(DENSE_LAYERS),
            Self::Names(names) => json!(names),
            Self::Pattern(pattern) => json!(pattern),
        }
    }
}

impl LoraConfig {
    /// Everything that is wrong with the values, in the order of the fields.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.r == 0 || self.rank_pattern.values().any(|rank| *rank == 0) {
            faults.push("lora_r is 0, expected 1 or more".into());
        }
        for alpha in self.alpha_pattern.values().chain([&self.lora_alpha]) {
            if !(alpha.is_finite() && *alpha > 0.0) {
                faults.push(format!("lora_alpha is {alpha}, expected more than 0"));
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            faults.push(format!("lora_dropout is {}, expected 0 or more and below 1", self.lora_dropout));
        }
        if let TargetModules::Pattern(pattern) = &self.target_modules
            && let Err(error) = full_match(pattern)
        {
            faults.push(format!("lora_target_modules `{pattern}` is not a regular expression: {error}"));
        }
        let mut seen = BTreeSet::new();
        if let Some(id) = self.trainable_token_indices.iter().find(|id| !seen.insert(**id)) {
            faults.push(format!("trainable_token_indices has {id} twice"));
        }
        if !self.trainable_token_indices.is_empty() && self.saves_module("model.embed_tokens") {
            faults.push("embed_tokens is trained whole by modules_to_save: leave trainable_token_indices out".into());
        }
        faults
    }

    /// Rank of the layer at `path`.
    pub(crate) fn rank(&self, path: &str) -> usize {
        by_pattern(&self.rank_pattern, path).unwrap_or(self.r)
    }

    /// Factor on the update of rank `rank` of the layer at `path`.
    pub(crate) fn scale(&self, path: &str, rank: usize) -> f64 {
        let alpha = by_pattern(&self.alpha_pattern, path).unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether the layer at `path` gets an adapter.
    pub(crate) fn targets(&self, path: &str) -> bool {
        !self.saves_module(path)
            && match &self.target_modules {
                TargetModules::AllLinear => true,
                TargetModules::Names(names) => names.iter().any(|name| ends_in(path, name)),
                TargetModules::Pattern(pattern) => full_match(pattern).is_ok_and(|regex| regex.is_match(path)),
            }
    }

    /// Whether the module at `path` is trained whole.
    pub(crate) fn saves_module(&self, path: &str) -> bool {
        self.modules_to_save.iter().any(|name| ends_in(path, name))
    }

    /// Reads `adapter_config.json` in `dir`; gives the name of the base model too.
    ///
    /// # Errors
    /// If the file is absent or damaged, of another method, or asks for something that is not computed here.
    pub(crate) fn from_dir(dir: &Path) -> Result<(Self, Option<String>), ModelError> {
        let path = dir.join("adapter_config.json");
        let text = fs::read_to_string(&path).map_err(|source| ModelError::Read { path: path.clone(), source })?;
        let json = |source| ModelError::Json { path: path.clone(), source };
        let raw: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let peft_type = raw.get("peft_type").and_then(Value::as_str).unwrap_or("none");
        if peft_type != "LORA" {
            return Err(ModelError::PeftType { path, found: peft_type.into() });
        }
        if let Some(key) = unsupported(&raw) {
            let value = raw[key].to_string();
            return Err(ModelError::AdapterFeature { path, key: key.into(), value });
        }
        let fault = |message: String| ModelError::Config { path: path.clone(), message };
        let config = Self::from_json(&raw).map_err(fault)?;
        if let [fault, ..] = config.faults().as_slice() {
            return Err(ModelError::Config { path, message: fault.clone() });
        }
        let base = raw.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
        Ok((config, base))
    }

    fn from_json(raw: &Map<String, Value>) -> Result<Self, String> {
        let default = Self::default();
        let value = |key: &str| raw.get(key).filter(|value| !value.is_null());
        let number = |key: &str, default: f64| match value(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| format!("`{key}` is {value}, expected a number")),
        };
        let flag = |key: &str| match value(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is {value}, expected true or false")),
        };
        let rank = |key: &str, value: &Value| {
            let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
            rank.ok_or_else(|| format!("`{key}` is {value}, expected a whole number"))
        };
        let entries = |key: &str| value(key).and_then(Value::as_object).into_iter().flatten();
        let target_modules = match value("target_modules") {
            None => TargetModules::default(),
            Some(Value::String(word)) if word.eq_ignore_ascii_case(ALL_LINEAR) => TargetModules::AllLinear,
            Some(Value::String(pattern)) => TargetModules::Pattern(pattern.clone()),
            Some(value) => TargetModules::Names(names("target_modules", value)?),
        };
        Ok(Self {
            r: value("r").map_or(Ok(default.r), |value| rank("r", value))?,
            lora_alpha: number("lora_alpha", default.lora_alpha)?,
            lora_dropout: number("lora_dropout", default.lora_dropout)?,
            target_modules,
            modules_to_save: value("modules_to_save")
                .map_or(Ok(Vec::new()), |value| names("modules_to_save", value))?,
            trainable_token_indices: value("trainable_token_indices").map_or(Ok(Vec::new()), token_indices)?,
            use_rslora: flag("use_rslora")?,
            use_dora: flag("use_dora")?,
            rank_pattern: entries("rank_pattern")
                .map(|(path, value)| Ok((path.clone(), rank("rank_pattern", value)?)))
                .collect::<Result<_, String>>()?,
            alpha_pattern: entries("alpha_pattern")
                .map(|(path, value)| {
                    let alpha =
                        value.as_f64().ok_or_else(|| format!("`alpha_pattern` holds {value}, expected a number"))?;
                    Ok((path.clone(), alpha))
                })
                .collect::<Result<_, String>>()?,
        })
    }

    /// The object to write as `adapter_config.json`, with every key that PEFT and vLLM look at.
    pub(crate) fn to_json(&self, base_model: &str, head: HeadKind) -> Value {
        let tokens = &self.trainable_token_indices;
        let tokens = if tokens.is_empty() { Value::Null } else { json!(tokens) };
        let modules_to_save = if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) };
        json!({
            "alpha_pattern": self.alpha_pattern,
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": whole(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": modules_to_save,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "target_modules": self.target_modules.to_json(),
            "task_type": match head {
                HeadKind::LanguageModel => "CAUSAL_LM",
                HeadKind::Score => "SEQ_CLS",
            },
            "trainable_token_indices": tokens,
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        })
    }
}

/// PEFT's type says that `lora_alpha` is a whole number, and some readers insist.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn names(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("`{key}` is {value}, expected a list of names");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

/// A list of tokens, or such a list for the embedding by its name.
fn token_indices(value: &Value) -> Result<Vec<u32>, String> {
    let list = match value {
        Value::Object(lists) => {
            if let Some((layer, _)) = lists.iter().find(|(layer, _)| !ends_in("model.embed_tokens", layer)) {
                return Err(format!(
                    "`trainable_token_indices` names `{layer}`; only the embedding's rows are trained"
                ));
            }
            lists.values().next().cloned().unwrap_or(Value::Array(Vec::new()))
        }
        list => list.clone(),
    };
    let wrong = || format!("`trainable_token_indices` is {value}, expected a list of token ids");
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
    list.as_array().ok_or_else(wrong)?.iter().map(id).collect()
}

/// A key that changes the computation in a way that is not supported.
fn unsupported(raw: &Map<String, Value>) -> Option<&'static str> {
    const OFF: [&str; 4] = ["fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"];
    const EMPTY: [&str; 6] = [
        "layer_replication",
        "target_parameters",
        "alora_invocation_tokens",
        "velora_config",
        "kasa_config",
        "monteclora_config",
    ];
    // Other ways to begin change the base weights too, and the file does not hold those.
    const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];
    let given = |key: &str| raw.get(key).filter(|value| !value.is_null());
    let off = OFF.into_iter().find(|key| given(key).is_some_and(|value| *value != false));
    let empty = EMPTY.into_iter().find(|key| given(key).is_some_and(|value| !is_empty(value)));
    let bias = given("bias").filter(|value| **value != "none").map(|_| "bias");
    let init = given("init_lora_weights")
        .filter(|value| !value.is_boolean() && !BEGINNINGS.iter().any(|word| *value == word))
        .map(|_| "init_lora_weights");
    off.or(empty).or(bias).or(init)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Whether a path is `name` or ends in `.name`, as PEFT matches names.
pub(crate) fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn full_match(pattern: &str) -> Result<Regex, Box<regex::Error>> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(Box::new)
}

/// The value of the first key that matches the end of a path (PEFT's `get_pattern_key`).
fn by_pattern<T: Copy>(patterns: &BTreeMap<String, T>, path: &str) -> Option<T> {
    let matches = |key: &str| full_match(&format!(r"(.*\.)?({key})")).is_ok_and(|regex| regex.is_match(path));
    patterns.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "model.layers.0.self_attn.q_proj";

    fn targeting(words: &[&str]) -> LoraConfig {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        LoraConfig { target_modules: TargetModules::parse(&words), ..LoraConfig::default() }
    }

    #[test]
    fn names_match_whole_parts_at_the_end_of_a_path() {
        assert!(targeting(&["q_proj", "v_proj"]).targets(PATH));
        assert!(targeting(&["self_attn.q_proj"]).targets(PATH) && targeting(&[PATH]).targets(PATH));
        assert!(!targeting(&["proj"]).targets(PATH) && !targeting(&["self_attn"]).targets(PATH));
        assert!(targeting(&["all-linear"]).targets(PATH));
    }

    #[test]
    fn a_pattern_matches_the_whole_path() {
        assert!(targeting(&[r".*layers\.[02]\..*_proj"]).targets(PATH));
        assert!(!targeting(&["(q|v)_proj"]).targets(PATH));
    }

    #[test]
    fn modules_to_save_get_no_adapter() {
        let config = LoraConfig { modules_to_save: vec!["q_proj".into()], ..targeting(&["all-linear"]) };
        assert!(!config.targets(PATH) && config.targets("model.layers.0.self_attn.k_proj"));
    }

    #[test]
    fn scales_follow_the_papers() {
        let config = LoraConfig { r: 16, lora_alpha: 32.0, ..LoraConfig::default() };
        assert_eq!(config.scale(PATH, 16), 2.0);
        assert_eq!(LoraConfig { use_rslora: true, ..config.clone() }.scale(PATH, 16), 8.0);
        let patterns = LoraConfig {
            rank_pattern: [("q_proj".into(), 4)].into(),
            alpha_pattern: [(r"layers\.0\..*".into(), 2.0)].into(),
            ..config
        };
        assert_eq!((patterns.rank(PATH), patterns.scale(PATH, 4)), (4, 0.5));
        assert_eq!(patterns.rank("model.layers.0.mlp.up_proj"), 16);
    }

    #[test]
    fn every_fault_is_reported_with_its_value() {
        let config = LoraConfig {
            r: 0,
            lora_alpha: f64::NAN,
            lora_dropout: 1.0,
            target_modules: TargetModules::Pattern("(".into()),
            ..LoraConfig::default()
        };
        let faults = config.faults();
        assert_eq!(
            faults[..3],
            [
                "lora_r is 0, expected 1 or more",
                "lora_alpha is NaN, expected more than 0",
                "lora_dropout is 1, expected 0 or more and below 1",
            ]
        );
        assert!(faults[3].starts_with("lora_target_modules `(` is not a regular expression"), "{}", faults[3]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = LoraConfig {
            r: 4,
            lora_alpha: 7.5,
            target_modules: TargetModules::Pattern(".*_proj".into()),
            modules_to_save: vec!["norm".into()],
            trainable_token_indices: vec![3, 1],
            use_dora: true,
            rank_pattern: [("q_proj".into(), 2)].into(),
            ..LoraConfig::default()
        };
        let Value::Object(raw) = config.to_json("base", HeadKind::LanguageModel) else { panic!("an object") };
        assert_eq!(LoraConfig::from_json(&raw), Ok(config));
        assert_eq!(unsupported(&raw), None);
    }
}
