//! The JSON files beside `tokenizer.json`: which tokens have a role, and where generation stops.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::TokenizerError;

/// Roles that transformers gives to templates, in its order.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A JSON object file as it was read. Keys keep their order, so that saving changes only what it must.
#[derive(Debug, Clone)]
pub(crate) struct JsonFile {
    pub(crate) path: PathBuf,
    pub(crate) fields: Map<String, Value>,
}

impl JsonFile {
    /// `None` where there is no such file.
    pub(crate) fn read(path: PathBuf) -> Result<Option<Self>, TokenizerError> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TokenizerError::Read { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Some(Self { path, fields })),
            Ok(_) => Err(TokenizerError::Shape { path, key: "the file".to_owned(), expected: "a JSON object" }),
            Err(source) => Err(TokenizerError::Json { path, source }),
        }
    }

    fn shape(&self, key: &str, expected: &'static str) -> TokenizerError {
        TokenizerError::Shape { path: self.path.clone(), key: key.to_owned(), expected }
    }
}

/// The configuration files of one model folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) tokenizer_config: Option<JsonFile>,
    pub(crate) special_tokens_map: Option<JsonFile>,
    pub(crate) generation_config: Option<JsonFile>,
}

/// What the files ask of the tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    /// Tokens with ids that must exist.
    pub(crate) added: Vec<(u32, AddedToken)>,
    /// Tokens with a role.
    pub(crate) named: Vec<(String, AddedToken)>,
    pub(crate) additional: Vec<AddedToken>,
    /// Control tokens spelled in a text are text (`split_special_tokens`).
    pub(crate) split_special_tokens: bool,
    /// Ends of generation, by `generation_config.json`.
    pub(crate) generation_eos: Vec<u32>,
}

impl Files {
    pub(crate) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        Ok(Self {
            tokenizer_config: JsonFile::read(dir.join("tokenizer_config.json"))?,
            special_tokens_map: JsonFile::read(dir.join("special_tokens_map.json"))?,
            generation_config: JsonFile::read(dir.join("generation_config.json"))?,
        })
    }

    pub(crate) fn declared(&self) -> Result<Declared, TokenizerError> {
        let mut declared = Declared::default();
        if let Some(config) = &self.tokenizer_config {
            declared.added = added_tokens(config)?;
            declared.split_special_tokens =
                config.fields.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false);
            read_special_tokens(config, &mut declared)?;
        }
        // transformers reads the older file only where `added_tokens_decoder` is missing, and lets it win there. With
        // both present the two agree in practice; a role that only the older file knows is kept.
        if let Some(map) = &self.special_tokens_map {
            let mut older = Declared::default();
            read_special_tokens(map, &mut older)?;
            let wins = declared.added.is_empty();
            for (name, token) in older.named {
                match declared.named.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, value)) if wins => *value = token,
                    Some(_) => {}
                    None => declared.named.push((name, token)),
                }
            }
            for token in older.additional {
                if !declared.additional.iter().any(|known| known.content == token.content) {
                    declared.additional.push(token);
                }
            }
        }
        if let Some(generation) = &self.generation_config {
            declared.generation_eos = eos_ids(generation)?;
        }
        Ok(declared)
    }
}

/// The added tokens of `tokenizer.json` with the ids written there.
pub(crate) fn defined_tokens(path: &Path, definition: &[u8]) -> Result<Vec<(u32, AddedToken)>, TokenizerError> {
    #[derive(Deserialize)]
    struct Definition {
        #[serde(default)]
        added_tokens: Vec<Defined>,
    }
    #[derive(Deserialize)]
    struct Defined {
        id: u32,
        #[serde(flatten)]
        token: AddedToken,
    }
    let definition: Definition = serde_json::from_slice(definition)
        .map_err(|error| TokenizerError::Definition { path: path.to_owned(), reason: error.to_string() })?;
    Ok(definition.added_tokens.into_iter().map(|defined| (defined.id, defined.token)).collect())
}

fn added_tokens(config: &JsonFile) -> Result<Vec<(u32, AddedToken)>, TokenizerError> {
    const KEY: &str = "added_tokens_decoder";
    let expected = "an object from ids to tokens";
    let entries = match config.fields.get(KEY) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(config.shape(KEY, expected)),
    };
    let mut tokens = Vec::with_capacity(entries.len());
    for (id, token) in entries {
        let id = id.parse().map_err(|_| config.shape(KEY, expected))?;
        let token = added_token(token, Fallback::Plain).ok_or_else(|| config.shape(KEY, expected))?;
        tokens.push((id, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

fn read_special_tokens(file: &JsonFile, declared: &mut Declared) -> Result<(), TokenizerError> {
    for role in ROLES {
        match file.fields.get(role) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let token = added_token(value, Fallback::Special)
                    .ok_or_else(|| file.shape(role, "a string or an object with `content`"))?;
                declared.named.push((role.to_owned(), token));
            }
        }
    }
    // Roles of one model, such as `image_token`. Keys that end alike and hold something else (`add_bos_token`) are
    // settings, not tokens.
    for (key, value) in &file.fields {
        if key.ends_with("_token") && !ROLES.contains(&key.as_str()) && value.is_string() {
            declared.named.extend(added_token(value, Fallback::Special).map(|token| (key.clone(), token)));
        }
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let expected = "a list of tokens";
        match file.fields.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) => {
                for value in values {
                    let token = added_token(value, Fallback::Special).ok_or_else(|| file.shape(key, expected))?;
                    declared.additional.push(token);
                }
            }
            Some(Value::Object(values)) => {
                for (name, value) in values {
                    let token = added_token(value, Fallback::Special).ok_or_else(|| file.shape(key, expected))?;
                    declared.named.push((name.clone(), token));
                }
            }
            Some(_) => return Err(file.shape(key, expected)),
        }
    }
    Ok(())
}

fn eos_ids(generation: &JsonFile) -> Result<Vec<u32>, TokenizerError> {
    const KEY: &str = "eos_token_id";
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match generation.fields.get(KEY) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| generation.shape(KEY, "a token id or a list of them"))
}

/// What a token given as a bare string is.
#[derive(Clone, Copy)]
enum Fallback {
    Special,
    Plain,
}

fn added_token(value: &Value, fallback: Fallback) -> Option<AddedToken> {
    let special = matches!(fallback, Fallback::Special);
    match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), special)),
        Value::Object(fields) => {
            let content = fields.get("content")?.as_str()?;
            let flag = |name: &str, default: bool| fields.get(name).and_then(Value::as_bool).unwrap_or(default);
            let special = flag("special", special);
            Some(AddedToken {
                content: content.to_owned(),
                single_word: flag("single_word", false),
                lstrip: flag("lstrip", false),
                rstrip: flag("rstrip", false),
                normalized: flag("normalized", !special),
                special,
            })
        }
        _ => None,
    }
}
