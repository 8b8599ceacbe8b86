//! What a person writes to name a dataset.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    layout::{self, Splits},
    readme::{DataFiles, Patterns},
    split::{self, DEFAULT_SPLIT, SplitExpr},
};
use crate::DataError;

/// One dataset, and what is done to its rows: renamed, then filtered, then reduced to some columns, then sampled.
///
/// The keys are those of TRL's `DatasetConfig`; `rename`, `filter` and `sample` are added.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSpec {
    /// A file, a pattern such as `data/*.jsonl`, or a folder, with or without a split behind it: `my-data:train[:1000]`.
    ///
    /// TRL's `json`, `csv`, `parquet`, `arrow` and `text` are accepted where `data_files` says which files.
    pub path: String,
    /// Which configuration of a folder's `README.md`.
    pub name: Option<String>,
    /// A folder below `path` that is read instead.
    pub data_dir: Option<String>,
    /// Patterns of files below `path`.
    pub data_files: Option<DataFiles>,
    /// Splits and slices as `datasets` writes them: `train[:10%]+validation`. Default `train`.
    pub split: Option<String>,
    /// New names of columns, by the old.
    pub rename: BTreeMap<String, String>,
    /// Which rows are kept, as `score >= 4 and lang = 'en'`.
    pub filter: Option<String>,
    /// Which columns are kept; all when absent.
    pub columns: Option<Vec<String>>,
    /// How many rows are kept, drawn from the seed, in their order.
    pub sample: Option<Sample>,
    /// Target share in a mixture. Shares are normalised to a sum of one, and the mixture is as large as it can be
    /// without a row coming twice. All datasets of a mixture have one, or none has.
    pub fraction: Option<f64>,
}

impl DatasetSpec {
    /// All rows of what `path` names.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// Takes `path` apart where it has a split behind it and no file has that name.
    ///
    /// ```
    /// use reheat_data::DatasetSpec;
    ///
    /// let spec = DatasetSpec::new("owner/name:test[:100]").normalized();
    /// assert_eq!((spec.path.as_str(), spec.split.as_deref()), ("owner/name", Some("test[:100]")));
    /// ```
    #[must_use]
    pub fn normalized(mut self) -> Self {
        if !names_something(&self.path)
            && let Some((path, split)) = split::cut_suffix(&self.path)
        {
            // A slice of the default split is a slice of the one that is named beside it.
            let split = match (&self.split, split.strip_prefix(DEFAULT_SPLIT)) {
                (Some(named), Some(slice)) if self.path.len() == path.len() + slice.len() => format!("{named}{slice}"),
                _ => split,
            };
            (self.path, self.split) = (path.to_owned(), Some(split));
        }
        self
    }

    /// Chooses the files that the splits are made of, where a folder's files are known by name and are not here yet.
    ///
    /// `dir` is where the folder will be; its `README.md` has to be there. `files` are paths in it, with `/` between the
    /// parts.
    ///
    /// ```
    /// use reheat_data::DatasetSpec;
    ///
    /// let files = ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"].map(str::to_owned);
    /// let chosen = DatasetSpec::new("owner/name").choose("not/here".as_ref(), &files)?;
    /// assert_eq!(chosen.files, ["data/train-00000-of-00001.parquet"]);
    /// # Ok::<(), reheat_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such configuration or split, or nothing in the folder is data.
    pub fn choose(&self, dir: &Path, files: &[String]) -> Result<Chosen, DataError> {
        let data_dir = self.data_dir.as_deref().unwrap_or_default();
        let base = dir.join(data_dir);
        let listed = layout::below(data_dir, files);
        let splits = layout::of_listed(&base, &listed, self.name.as_deref(), self.data_files.as_ref())?;
        let (mut chosen, mut data_files) = (Vec::new(), BTreeMap::new());
        for part in self.split_expr()?.parts {
            let Some((_, files)) = splits.files.iter().find(|(name, _)| *name == part.name) else {
                let (path, available) = (self.path.clone(), splits.names());
                return Err(DataError::UnknownSplit { path, split: part.name, available });
            };
            let relative = |file: &PathBuf| {
                let parts = file.strip_prefix(dir).unwrap_or(file).components();
                parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
            };
            let files: Vec<String> = files.iter().map(relative).collect();
            let literal = files.iter().map(|file| glob::Pattern::escape(file)).collect();
            chosen.extend(files.into_iter().filter(|file| !chosen.contains(file)).collect::<Vec<_>>());
            data_files.insert(part.name, Patterns::Many(literal));
        }
        let spec = Self {
            path: dir.display().to_string(),
            name: None,
            data_dir: None,
            data_files: Some(DataFiles::BySplit(data_files)),
            ..self.clone()
        };
        Ok(Chosen { spec, files: chosen, notes: splits.notes })
    }

    pub(super) fn split_expr(&self) -> Result<SplitExpr, DataError> {
        self.split.as_deref().unwrap_or(DEFAULT_SPLIT).parse()
    }

    /// The splits that there are.
    pub(super) fn splits(&self) -> Result<Splits, DataError> {
        let path = Path::new(&self.path);
        let only_folder = |setting: &'static str, value: &str| DataError::Setting {
            setting,
            value: value.to_owned(),
            reason: format!("`{}` is no folder", self.path),
        };
        if path.is_dir() {
            let dir = self.data_dir.as_ref().map_or_else(|| path.to_owned(), |data_dir| path.join(data_dir));
            if !dir.is_dir() {
                return Err(DataError::NotFound { path: dir.display().to_string() });
            }
            return layout::of_folder(&dir, self.name.as_deref(), self.data_files.as_ref());
        }
        if is_builder(&self.path)
            && !path.exists()
            && let Some(data_files) = &self.data_files
        {
            return files_anywhere(data_files, self.data_dir.as_deref());
        }
        if let Some(name) = &self.name {
            return Err(only_folder("name", name));
        }
        if let Some(data_dir) = &self.data_dir {
            return Err(only_folder("data_dir", data_dir));
        }
        if self.data_files.is_some() {
            return Err(only_folder("data_files", "…"));
        }
        named_files(&self.path).map(Splits::of_files)
    }
}

/// What of a folder a dataset needs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Chosen {
    /// The dataset with its files by name, so that whatever else lies in the folder does not count.
    pub spec: DatasetSpec,
    /// The files of its splits, by their paths in the folder.
    pub files: Vec<String>,
    /// What a person should know: files that are not read.
    pub notes: Vec<String>,
}

/// The loaders of `datasets` that take local files.
fn is_builder(path: &str) -> bool {
    matches!(path, "json" | "csv" | "parquet" | "arrow" | "text")
}

/// Files that are given by path, as `load_dataset("json", data_files=…)` has them.
fn files_anywhere(data_files: &DataFiles, data_dir: Option<&str>) -> Result<Splits, DataError> {
    let base = PathBuf::from(data_dir.unwrap_or_default());
    let mut splits = Splits::default();
    for (split, patterns) in data_files.by_split() {
        let mut files = Vec::new();
        for pattern in patterns {
            files.extend(named_files(&base.join(pattern).display().to_string())?);
        }
        splits.files.push((split, files));
    }
    Ok(splits)
}

/// The file of that name, or those that match the pattern.
fn named_files(text: &str) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(text);
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = matches(text);
    // A star may match more than data; where it matches nothing else, the content decides.
    if files.iter().any(|file| layout::is_data_file(file)) {
        files.retain(|file| layout::is_data_file(file));
    }
    if files.is_empty() { Err(not_found(text)) } else { Ok(files) }
}

/// That nothing is there, or that what stands behind a name that exists is no slice.
fn not_found(text: &str) -> DataError {
    let misspelt = text.rfind('[').filter(|&bracket| Path::new(&text[..bracket]).exists());
    match misspelt.map(|bracket| split::slice_fault(&text[bracket..])) {
        Some(Some(reason)) => DataError::Setting { setting: "split", value: text.to_owned(), reason },
        _ => DataError::NotFound { path: text.to_owned() },
    }
}

/// The files that match a pattern, in order.
fn matches(pattern: &str) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[']) {
        return Vec::new();
    }
    let paths = glob::glob(pattern).into_iter().flatten();
    paths.filter_map(Result::ok).filter(|path| path.is_file()).collect()
}

fn names_something(path: &str) -> bool {
    Path::new(path).exists() || !matches(path).is_empty()
}

/// A part of a dataset's rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sample {
    /// So many; all where there are fewer.
    Rows(u64),
    /// So many of one, rounded to the closest row.
    Fraction(f64),
}

impl Sample {
    pub(super) fn of(self, num_rows: u64) -> u64 {
        match self {
            Self::Rows(rows) => rows.min(num_rows),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the number of rows")]
            Self::Fraction(fraction) => (fraction * num_rows as f64).round_ties_even() as u64,
        }
    }
}

impl FromStr for Sample {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let wrong =
            |reason: &str| DataError::Setting { setting: "sample", value: text.to_owned(), reason: reason.to_owned() };
        let expected = "expected a number of rows (`1000`) or a share (`10%`, `0.1`)";
        let fraction = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map_err(|_| wrong(expected))? / 100.0,
            None => match text.replace('_', "").parse() {
                Ok(rows) => return Ok(Self::Rows(rows)),
                Err(_) => text.parse::<f64>().map_err(|_| wrong(expected))?,
            },
        };
        if !(0.0..=1.0).contains(&fraction) {
            return Err(wrong("a share lies between 0 and 1"));
        }
        Ok(Self::Fraction(fraction))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            // A point tells a share from a number of rows.
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
        }
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Rows(rows) => serializer.serialize_u64(*rows),
            Self::Fraction(fraction) => serializer.serialize_f64(*fraction),
        }
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_rows_or_shares() {
        let sample = |text: &str| text.parse::<Sample>().map_err(|error| error.to_string());
        assert_eq!(sample("1_000"), Ok(Sample::Rows(1000)));
        assert_eq!(sample("10%"), Ok(Sample::Fraction(0.1)));
        assert_eq!(sample("1.0"), Ok(Sample::Fraction(1.0)));
        assert_eq!(sample("1.5"), Err("sample `1.5`: a share lies between 0 and 1".to_owned()));
        assert!(sample("-3").is_err() && sample("some").is_err() && sample("NaN").is_err());
        assert_eq!((Sample::Rows(7).of(5), Sample::Fraction(0.5).of(5)), (5, 2));
        let yaml: DatasetSpec = serde_json::from_str(r#"{"path": "a", "sample": 0.25}"#).unwrap();
        assert_eq!(yaml.sample, Some(Sample::Fraction(0.25)));
        assert_eq!(Sample::Fraction(1.0).to_string().parse::<Sample>().unwrap(), Sample::Fraction(1.0));
    }

    #[test]
    fn a_slice_goes_with_the_split_that_is_named_beside_it() {
        let spec = |path: &str, split: Option<&str>| {
            let spec = DatasetSpec { split: split.map(str::to_owned), ..DatasetSpec::new(path) }.normalized();
            (spec.path, spec.split.unwrap_or_default())
        };
        let of = |path: &str, split: &str| (path.to_owned(), split.to_owned());
        assert_eq!(spec("owner/name", Some("test")), of("owner/name", "test"));
        assert_eq!(spec("owner/name[:10]", Some("test")), of("owner/name", "test[:10]"));
        assert_eq!(spec("owner/name:train[:10]", Some("test")), of("owner/name", "train[:10]"));
        assert_eq!(spec("owner/name[:10]", None), of("owner/name", "train[:10]"));
    }
}
