//! The `configs` in the front matter of a dataset's `README.md`, which say what files are which split.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::DataError;

/// Longest README that is looked at; the front matter is its beginning.
const MAX_README_BYTES: u64 = 16 << 20;

/// One configuration: a name, and the files of its splits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Config {
    #[serde(default = "default_name")]
    pub(crate) config_name: String,
    #[serde(default)]
    pub(crate) data_files: Option<DataFiles>,
    #[serde(default)]
    pub(crate) data_dir: Option<String>,
    #[serde(default)]
    pub(crate) default: bool,
}

fn default_name() -> String {
    "default".to_owned()
}

/// Patterns of files in the three spellings that `datasets` accepts.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum DataFiles {
    /// One pattern, for the split `train`.
    One(String),
    /// Several patterns, for the split `train`.
    Many(Vec<String>),
    /// `{split: …, path: …}` for each split.
    Splits(Vec<SplitFiles>),
    /// Patterns by split.
    BySplit(std::collections::BTreeMap<String, Patterns>),
}

/// The files of one split.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
pub struct SplitFiles {
    /// The split's name.
    pub split: String,
    /// Its files.
    pub path: Patterns,
}

/// One pattern or several.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum Patterns {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl DataFiles {
    /// Each split with its patterns.
    pub(crate) fn by_split(&self) -> Vec<(String, Vec<String>)> {
        let train = |patterns: Vec<String>| vec![(super::split::DEFAULT_SPLIT.to_owned(), patterns)];
        match self {
            Self::One(pattern) => train(vec![pattern.clone()]),
            Self::Many(patterns) => train(patterns.clone()),
            Self::Splits(splits) => splits.iter().map(|files| (files.split.clone(), files.path.all())).collect(),
            Self::BySplit(splits) => splits.iter().map(|(split, files)| (split.clone(), files.all())).collect(),
        }
    }
}

impl Patterns {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(pattern) => vec![pattern.clone()],
            Self::Many(patterns) => patterns.clone(),
        }
    }
}

/// The configurations of the dataset in `dir`; none where there is no README or nothing in it.
pub(crate) fn configs(dir: &Path) -> Result<Vec<Config>, DataError> {
    let path = dir.join("README.md");
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_README_BYTES => {}
        _ => return Ok(Vec::new()),
    }
    let bytes = fs::read(&path).map_err(DataError::read(&path))?;
    let text = String::from_utf8_lossy(&bytes);
    let Some(front_matter) = front_matter(&text) else { return Ok(Vec::new()) };
    parse(front_matter).map_err(|reason| DataError::Readme { path, reason })
}

/// The YAML between two lines of dashes at the beginning.
fn front_matter(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches('\u{feff}').strip_prefix("---")?;
    let rest = rest.strip_prefix('\r').unwrap_or(rest).strip_prefix('\n')?;
    let end = rest.find("\n---").or_else(|| rest.starts_with("---").then_some(0))?;
    Some(&rest[..end])
}

fn parse(yaml: &str) -> Result<Vec<Config>, String> {
    #[derive(Deserialize)]
    struct Card {
        #[serde(default)]
        configs: Option<Vec<Config>>,
    }
    // A card of comments alone is no mapping, and says nothing.
    let is_empty = yaml.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if is_empty {
        return Ok(Vec::new());
    }
    let card: Card = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    Ok(card.configs.unwrap_or_default())
}

/// The configuration called `name`, or the one that is meant where none is named.
pub(crate) fn choose<'a>(dir: &Path, configs: &'a [Config], name: Option<&str>) -> Result<&'a Config, DataError> {
    let chosen = match name {
        Some(name) => configs.iter().find(|config| config.config_name == name),
        None => match configs {
            [only] => Some(only),
            many => many
                .iter()
                .find(|config| config.default)
                .or_else(|| many.iter().find(|config| config.config_name == "default")),
        },
    };
    chosen.ok_or_else(|| {
        let available = configs.iter().map(|config| format!("`{}`", config.config_name)).collect::<Vec<_>>().join(", ");
        let path = dir.display().to_string();
        match name {
            Some(name) => DataError::UnknownConfig { path, name: name.to_owned(), available },
            None => DataError::ConfigNeeded { path, available },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_spellings_of_files_are_read() {
        let configs = parse(
            "license: mit\nconfigs:\n- config_name: a\n  data_files: a/*.jsonl\n- config_name: b\n  default: true\n  \
             data_files:\n  - split: train\n    path: [x.jsonl, y.jsonl]\n  - split: test\n    path: t.jsonl\n\
             - config_name: c\n  data_files: [p, q]\n  features: [1, 2]\n",
        )
        .unwrap();
        let files: Vec<_> = configs.iter().map(|config| config.data_files.as_ref().unwrap().by_split()).collect();
        let of = |split: &str, files: &[&str]| (split.to_owned(), files.iter().map(|&file| file.to_owned()).collect());
        assert_eq!(files[0], [of("train", &["a/*.jsonl"])]);
        assert_eq!(files[1], [of("train", &["x.jsonl", "y.jsonl"]), of("test", &["t.jsonl"])]);
        assert_eq!(files[2], [of("train", &["p", "q"])]);
        let dir = Path::new("d");
        assert_eq!(choose(dir, &configs, None).unwrap().config_name, "b");
        assert_eq!(choose(dir, &configs, Some("c")).unwrap().config_name, "c");
        assert_eq!(
            choose(dir, &configs, Some("z")).unwrap_err().to_string(),
            "`d` has no configuration `z`, only `a`, `b`, `c`"
        );
    }

    #[test]
    fn front_matter_is_what_stands_between_dashes() {
        assert_eq!(front_matter("---\na: 1\n---\ntext"), Some("a: 1"));
        assert_eq!(front_matter("\u{feff}---\r\na: 1\r\n---\r\n"), Some("a: 1\r"));
        assert_eq!(front_matter("---\n---\n"), Some(""));
        assert_eq!(front_matter("# Title\n---\na: 1\n---\n"), None);
        assert_eq!(front_matter("---\na: 1\n"), None);
        assert_eq!(parse("# nothing\n").unwrap(), []);
        assert!(parse("configs: 3").is_err());
    }
}
