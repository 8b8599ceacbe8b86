//! Which files of a repository are needed.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;
use serde::Deserialize;

use crate::{HubError, RemoteFile, RepoName};

/// The files to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// What loading a model needs: configuration, tokenizer, template, and safetensors weights in one form; nothing
    /// pickled, no copies for other programs.
    Model,
    /// What reading a dataset needs: files of rows, and the card that says what they are.
    Dataset,
    /// These files and no other, by their path.
    Files(Vec<String>),
    /// Files whose path fits one of `include` (or any path, where that is empty) and none of `exclude`. In a pattern
    /// `*` stands for any characters, `/` among them, as in `huggingface_hub`.
    Patterns {
        /// To be taken.
        include: Vec<String>,
        /// To be left.
        exclude: Vec<String>,
    },
}

impl Selection {
    /// Everything.
    pub fn all() -> Self {
        Self::Patterns { include: Vec::new(), exclude: Vec::new() }
    }
}

/// Weights in one file.
const WEIGHTS: &str = "model.safetensors";
/// Weights in several: which tensor is in which.
pub(crate) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// Weights of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";
/// What other programs keep weights in.
const OTHER_WEIGHTS: [&str; 9] = [".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ckpt", ".pkl"];
/// Small files that a model may come with.
const COMPANIONS: [&str; 6] = [".json", ".jinja", ".txt", ".md", ".model", "LICENSE"];
/// Files of rows, before one of [`COMPRESSED`].
const ROWS: [&str; 11] =
    [".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow", ".feather", ".txt", ".jsonlines", ".tab"];
const COMPRESSED: [&str; 4] = ["", ".gz", ".zst", ".zstd"];

/// The files of `listing` to get. For a sharded model, `read_index` gives the content of its index.
///
/// # Errors
/// If nothing is left that could be used, or a pattern is malformed.
pub(crate) fn select(
    repo: &RepoName,
    selection: &Selection,
    listing: &[RemoteFile],
    read_index: &mut dyn FnMut(&RemoteFile) -> Result<Vec<u8>, HubError>,
) -> Result<Vec<RemoteFile>, HubError> {
    let paths: BTreeSet<String> = match selection {
        Selection::Model => model_paths(repo, listing, read_index)?,
        Selection::Dataset => dataset_paths(repo, listing)?,
        Selection::Files(paths) => named_paths(repo, paths, listing)?,
        Selection::Patterns { include, exclude } => pattern_paths(repo, include, exclude, listing)?,
    };
    Ok(listing.iter().filter(|file| paths.contains(&file.path)).cloned().collect())
}

fn model_paths(
    repo: &RepoName,
    listing: &[RemoteFile],
    read_index: &mut dyn FnMut(&RemoteFile) -> Result<Vec<u8>, HubError>,
) -> Result<BTreeSet<String>, HubError> {
    let find = |path: &str| listing.iter().find(|file| file.path == path);
    let weights: Vec<String> = if let Some(index) = find(WEIGHTS_INDEX) {
        shards(&index.path, &read_index(index)?)?
    } else {
        [WEIGHTS, ADAPTER].iter().filter(|name| find(name).is_some()).map(|&name| name.to_owned()).collect()
    };
    if weights.is_empty() {
        let other = listing.iter().find(|file| OTHER_WEIGHTS.iter().any(|end| file.path.ends_with(end)));
        let hint = other.map(|file| format!("it has `{}`; a checkpoint in safetensors is needed", file.path));
        return Err(HubError::NothingUseful { repo: repo.clone(), wanted: "weights in safetensors", hint });
    }
    if let Some(missing) = weights.iter().find(|path| find(path).is_none()) {
        return Err(HubError::FileNotFound { repo: repo.clone(), path: missing.clone() });
    }
    let is_companion = |path: &str| {
        let top = !path.contains('/') || path.starts_with("chat_templates/");
        top && COMPANIONS.iter().any(|end| path.ends_with(end))
    };
    let companions = listing.iter().map(|file| &file.path).filter(|path| is_companion(path)).cloned();
    Ok(companions.chain(weights).collect())
}

/// The files that an index names.
fn shards(path: &str, index: &[u8]) -> Result<Vec<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = serde_json::from_slice(index)
        .map_err(|error| HubError::Answer { url: path.to_owned(), reason: format!("not an index: {error}") })?;
    Ok(weight_map.into_values().collect::<BTreeSet<_>>().into_iter().collect())
}

fn dataset_paths(repo: &RepoName, listing: &[RemoteFile]) -> Result<BTreeSet<String>, HubError> {
    let has_rows = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        !path.split('/').any(|part| part.starts_with(['.', '_']))
            && !matches!(name, "dataset_infos.json" | "dataset_info.json" | "state.json" | "dataset_dict.json")
            && COMPRESSED.iter().any(|end| {
                name.strip_suffix(end).is_some_and(|name| ROWS.iter().any(|rows| name.to_lowercase().ends_with(rows)))
            })
    };
    if !listing.iter().any(|file| has_rows(&file.path)) {
        let script = listing.iter().find(|file| !file.path.contains('/') && file.path.ends_with(".py"));
        let hint = script.map(|_| {
            let converted = "refs/convert/parquet";
            format!("it is a program; the Hub's own conversion is `{}@{converted}`", repo.id())
        });
        return Err(HubError::NothingUseful { repo: repo.clone(), wanted: "files of rows", hint });
    }
    let described = |path: &str| {
        path == "README.md"
            || path.ends_with("dataset_info.json")
            || path.ends_with("state.json")
            || path.ends_with("dataset_dict.json")
    };
    Ok(listing.iter().map(|file| &file.path).filter(|path| has_rows(path) || described(path)).cloned().collect())
}

fn named_paths(repo: &RepoName, paths: &[String], listing: &[RemoteFile]) -> Result<BTreeSet<String>, HubError> {
    match paths.iter().find(|path| listing.iter().all(|file| file.path != **path)) {
        Some(missing) => Err(HubError::FileNotFound { repo: repo.clone(), path: missing.clone() }),
        None => Ok(paths.iter().cloned().collect()),
    }
}

fn pattern_paths(
    repo: &RepoName,
    include: &[String],
    exclude: &[String],
    listing: &[RemoteFile],
) -> Result<BTreeSet<String>, HubError> {
    let (include, exclude) = (patterns(include)?, patterns(exclude)?);
    let fits = |path: &str| {
        (include.is_empty() || include.iter().any(|pattern| pattern.matches(path)))
            && !exclude.iter().any(|pattern| pattern.matches(path))
    };
    let paths: BTreeSet<String> = listing.iter().map(|file| &file.path).filter(|path| fits(path)).cloned().collect();
    if paths.is_empty() {
        return Err(HubError::NothingUseful { repo: repo.clone(), wanted: "file that fits the patterns", hint: None });
    }
    Ok(paths)
}

/// Reads patterns; one that ends in `/` means everything below.
pub(crate) fn patterns(texts: &[String]) -> Result<Vec<Pattern>, HubError> {
    let pattern = |text: &String| {
        let whole = if text.ends_with('/') { format!("{text}*") } else { text.clone() };
        Pattern::new(&whole).map_err(|error| HubError::Pattern { pattern: text.clone(), reason: error.msg })
    };
    texts.iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(repo: &RepoName, selection: &Selection, paths: &[&str]) -> Result<Vec<String>, HubError> {
        let file = |path: &&str| RemoteFile::new(repo, (*path).to_owned(), 1, "a".repeat(40), None, None).unwrap();
        let listing: Vec<_> = paths.iter().map(file).collect();
        let index = r#"{"metadata":{},"weight_map":{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}}"#;
        let chosen = select(repo, selection, &listing, &mut |_| Ok(index.into()))?;
        Ok(chosen.into_iter().map(|file| file.path).collect())
    }

    fn model(paths: &[&str]) -> Result<Vec<String>, HubError> {
        chosen(&RepoName::model("a/b").unwrap(), &Selection::Model, paths)
    }

    #[test]
    fn a_model_is_what_loading_it_needs() {
        let wanted = [
            "LICENSE",
            "chat_template.jinja",
            "chat_templates/tools.jinja",
            "config.json",
            "merges.txt",
            "model.safetensors",
            "tokenizer.json",
        ];
        let unwanted = [
            "pytorch_model.bin",
            "model.gguf",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "original/config.json",
            "image.png",
            "tf_model.h5",
            "model.fp16.safetensors",
            "modeling.py",
        ];
        let mut all: Vec<&str> = wanted.iter().chain(&unwanted).copied().collect();
        all.sort_unstable();
        assert_eq!(model(&all).unwrap(), wanted);
    }

    #[test]
    fn of_a_sharded_model_the_shards_that_the_index_names() {
        let paths = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(model(&paths).unwrap(), [paths[0], paths[1], paths[2], paths[4]]);
        let error = model(&[paths[0], paths[1], paths[4]]).unwrap_err();
        assert_eq!(error.to_string(), "model `a/b` has no file `model-00002-of-00002.safetensors`");
    }

    #[test]
    fn pickled_weights_are_not_taken() {
        let error = model(&["config.json", "pytorch_model.bin"]).unwrap_err();
        assert_eq!(error.to_string(), "model `a/b` has no weights in safetensors");
        assert!(error.hint().unwrap().contains("pytorch_model.bin"));
    }

    #[test]
    fn a_dataset_is_its_rows_and_its_card() {
        let repo = RepoName::dataset("a/b").unwrap();
        let paths =
            [".gitattributes", "README.md", "data/test-0.jsonl.gz", "data/train-0.parquet", "image.png", "x.py"];
        assert_eq!(chosen(&repo, &Selection::Dataset, &paths).unwrap(), [paths[1], paths[2], paths[3]]);
        let error = chosen(&repo, &Selection::Dataset, &["README.md", "b.py"]).unwrap_err();
        assert!(error.hint().unwrap().contains("a/b@refs/convert/parquet"), "{error}");
    }

    #[test]
    fn named_files_are_taken_literally() {
        let repo = RepoName::dataset("a/b").unwrap();
        let of = |paths: &[&str]| {
            let selection = Selection::Files(paths.iter().map(|&path| path.to_owned()).collect());
            chosen(&repo, &selection, &["a[1].json", "a1.json"])
        };
        assert_eq!(of(&["a[1].json"]).unwrap(), ["a[1].json"]);
        assert_eq!(of(&[]).unwrap(), [""; 0]);
        assert_eq!(of(&["a*"]).unwrap_err().to_string(), "dataset `a/b` has no file `a*`");
    }

    #[test]
    fn patterns_cross_folders() {
        let repo = RepoName::model("a/b").unwrap();
        let of = |include: &[&str], exclude: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            let selection = Selection::Patterns { include: owned(include), exclude: owned(exclude) };
            chosen(&repo, &selection, &["a.json", "b/c.json", "b/d.bin"])
        };
        assert_eq!(of(&["*.json"], &[]).unwrap(), ["a.json", "b/c.json"]);
        assert_eq!(of(&["b/"], &["*.bin"]).unwrap(), ["b/c.json"]);
        assert_eq!(of(&[], &["*.json"]).unwrap(), ["b/d.bin"]);
        assert!(matches!(of(&["x"], &[]), Err(HubError::NothingUseful { .. })));
        assert!(matches!(of(&["[x"], &[]), Err(HubError::Pattern { .. })));
    }
}
