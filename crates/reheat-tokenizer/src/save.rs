//! Writing a tokenizer so that every file agrees on where a sequence ends.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{Tokenizer, TokenizerError};

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, where the model came with
    /// one, `special_tokens_map.json` into `dir`, which is created if need be.
    ///
    /// `tokenizer.json` is written as it was read. The others keep all their fields, and the end of sequence is
    /// the same in each: vLLM and transformers stop at `generation_config.json`, trainers look at the tokenizer.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(|source| TokenizerError::Write { path: dir.to_owned(), source })?;
        match &self.definition {
            Some(definition) => write(dir, "tokenizer.json", definition)?,
            None => {
                let definition = self.inner.to_string(true).map_err(|error| TokenizerError::Definition {
                    path: dir.join("tokenizer.json"),
                    reason: error.to_string(),
                })?;
                write(dir, "tokenizer.json", definition.as_bytes())?;
            }
        }

        let fields = |file: &Option<crate::files::JsonFile>| file.as_ref().map(|file| file.fields.clone());
        let mut config = fields(&self.files.tokenizer_config)
            .unwrap_or_else(|| Map::from_iter([("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"))]));
        self.write_roles(&mut config);
        write_json(dir, "tokenizer_config.json", &config)?;

        if let Some(mut map) = fields(&self.files.special_tokens_map) {
            self.write_roles(&mut map);
            write_json(dir, "special_tokens_map.json", &map)?;
        }

        let mut generation = fields(&self.files.generation_config).unwrap_or_default();
        match self.eos_ids() {
            [] => {}
            [id] => drop(generation.insert("eos_token_id".to_owned(), json!(id))),
            ids => drop(generation.insert("eos_token_id".to_owned(), json!(ids))),
        }
        if let Some(pad) = self.pad_id() {
            generation.entry("pad_token_id").or_insert_with(|| json!(pad));
        }
        if let Some(bos) = self.special.bos() {
            generation.entry("bos_token_id").or_insert_with(|| json!(bos.id));
        }
        write_json(dir, "generation_config.json", &generation)
    }

    fn write_roles(&self, fields: &mut Map<String, Value>) {
        let Some(eos) = self.special.eos() else { return };
        // A token given as an object carries flags; only its text changes.
        match fields.get_mut("eos_token") {
            Some(Value::Object(token)) => drop(token.insert("content".to_owned(), json!(eos.content))),
            _ => drop(fields.insert("eos_token".to_owned(), json!(eos.content))),
        }
    }
}

fn write_json(dir: &Path, name: &str, fields: &Map<String, Value>) -> Result<(), TokenizerError> {
    let mut text = serde_json::to_string_pretty(fields).expect("JSON values with string keys serialize");
    text.push('\n');
    write(dir, name, text.as_bytes())
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), TokenizerError> {
    let path = dir.join(name);
    fs::write(&path, bytes).map_err(|source| TokenizerError::Write { path, source })
}
