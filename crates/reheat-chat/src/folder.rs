//! Chat templates in a model's folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{ChatError, ChatTemplate, TemplateTokens};

impl ChatTemplate {
    /// Reads the template of a model's folder: `chat_template.jinja` with those under `chat_templates/`, else what
    /// `tokenizer_config.json` holds (one template, or several by name), else `chat_template.json`. `None` where
    /// there is none, as in base models.
    ///
    /// # Errors
    /// If a file can't be read, or a template has a fault.
    pub fn from_dir(dir: impl AsRef<Path>, tokens: &TemplateTokens) -> Result<Option<Self>, ChatError> {
        let dir = dir.as_ref();
        let mut templates = template_files(dir)?;
        for file in ["tokenizer_config.json", "chat_template.json"] {
            if templates.is_empty() {
                templates = templates_in(&dir.join(file))?;
            }
        }
        if templates.is_empty() { Ok(None) } else { Self::from_named(templates, tokens).map(Some) }
    }

    /// Reads a template from a file.
    ///
    /// # Errors
    /// If the file can't be read, or the template has a fault.
    pub fn from_file(path: impl AsRef<Path>, tokens: &TemplateTokens) -> Result<Self, ChatError> {
        let path = path.as_ref();
        let source = fs::read_to_string(path).map_err(|source| ChatError::Read { path: path.to_owned(), source })?;
        Self::new(source, tokens)
    }

    /// Writes the [inference template](Self::inference_source) into a model's folder: `chat_template.jinja`, and
    /// `chat_templates/NAME.jinja` for further ones. A template that `tokenizer_config.json` holds there is taken out,
    /// so that no reader finds two that differ.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), ChatError> {
        let dir = dir.as_ref();
        for (name, source) in self.inference_sources() {
            if name == "default" {
                write(dir.join("chat_template.jinja"), &source)?;
            } else {
                write(dir.join("chat_templates").join(format!("{name}.jinja")), &source)?;
            }
        }
        let path = dir.join("tokenizer_config.json");
        if let Some(mut fields) = read_object(&path)?
            && fields.shift_remove("chat_template").is_some()
        {
            let mut text = serde_json::to_string_pretty(&fields).expect("JSON values with string keys serialize");
            text.push('\n');
            write(path, &text)?;
        }
        Ok(())
    }
}

fn write(path: PathBuf, text: &str) -> Result<(), ChatError> {
    let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
    parent.and_then(|()| fs::write(&path, text)).map_err(|source| ChatError::Write { path, source })
}

fn template_files(dir: &Path) -> Result<Vec<(String, String)>, ChatError> {
    let mut templates = Vec::new();
    if let Some(source) = read(&dir.join("chat_template.jinja"))? {
        templates.push(("default".to_owned(), source));
    }
    let folder = dir.join("chat_templates");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(templates);
        }
        Err(source) => return Err(ChatError::Read { path: folder, source }),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|source| ChatError::Read { path: folder.clone(), source })?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    paths.sort();
    for path in paths {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(source) = read(&path)? {
            templates.push((name, source));
        }
    }
    Ok(templates)
}

/// The field `chat_template`: a string, a list of `{name, template}`, or an object from names to templates.
fn templates_in(path: &Path) -> Result<Vec<(String, String)>, ChatError> {
    let Some(mut fields) = read_object(path)? else { return Ok(Vec::new()) };
    let wrong = || ChatError::Shape {
        place: path.display().to_string(),
        message: "`chat_template` must be a template, a list of objects with `name` and `template`, or an object from \
                  names to templates"
            .to_owned(),
        share_gpt: false,
    };
    match fields.remove("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source)]),
        Some(Value::Array(items)) => {
            let pair = |item: &Value| {
                Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()))
            };
            items.iter().map(|item| pair(item).ok_or_else(wrong)).collect()
        }
        Some(Value::Object(named)) => {
            named.into_iter().map(|(name, source)| Ok((name, source.as_str().ok_or_else(wrong)?.to_owned()))).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn read(path: &Path) -> Result<Option<String>, ChatError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChatError::Read { path: path.to_owned(), source }),
    }
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, ChatError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|source| ChatError::Json { place: path.display().to_string(), source })
}
