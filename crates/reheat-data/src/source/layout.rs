//! Which files of a folder belong to which split, found as `datasets` 5.2 finds it (`data_files.py`).
//!
//! 1. the `configs` of `README.md`;
//! 2. else `data/NAME-00000-of-00002.EXT`, whatever the name;
//! 3. else folders whose name has a word for a split in it; else files;
//! 4. else all files are the split `train`.
//!
//! Departs in what several kinds of files in one folder mean: `datasets` counts extensions, here JSON and JSON lines
//! are one kind, and a note names what is not read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use glob::{MatchOptions, Pattern};

use super::{
    readme::{self, DataFiles},
    split::DEFAULT_SPLIT,
};
use crate::DataError;

/// Splits and what words in names of files and folders stand for them.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Files that describe data.
const DESCRIPTIONS: [&str; 6] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "README.md"];

/// How deep folders are followed; links to folders are not, so that a loop ends.
const MAX_DEPTH: usize = 32;

/// How many names a note lists.
const NAMES_IN_NOTE: usize = 3;

/// The splits of a dataset, in the order in which an error lists them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Splits {
    pub(crate) files: Vec<(String, Vec<PathBuf>)>,
    /// What a person should know: files that are not read.
    pub(crate) notes: Vec<String>,
}

impl Splits {
    /// Files that the user named are one split.
    pub(crate) fn of_files(files: Vec<PathBuf>) -> Self {
        Self { files: vec![(DEFAULT_SPLIT.to_owned(), files)], notes: Vec::new() }
    }

    pub(crate) fn names(&self) -> String {
        self.files.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

/// The kinds of data files, best first where a folder has equally many of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Text,
    Csv,
    Json,
    Arrow,
    Parquet,
}

fn kind(path: &str) -> Option<Kind> {
    let lower = path.to_lowercase();
    let name = lower.rsplit('/').next().unwrap_or_default();
    let plain = [".gz", ".zst", ".gzip", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    Some(match plain.rsplit_once('.')?.1 {
        "parquet" => Kind::Parquet,
        "arrow" | "feather" | "ipc" => Kind::Arrow,
        "jsonl" | "json" | "ndjson" | "jsonlines" => Kind::Json,
        "csv" | "tsv" | "tab" => Kind::Csv,
        "txt" | "text" => Kind::Text,
        _ => return None,
    })
}

/// Whether a file's name is that of a data file.
pub(crate) fn is_data_file(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    kind(&name).is_some() && !DESCRIPTIONS.contains(&name.as_str())
}

/// The splits of the dataset in a folder. `config` names one of its configurations, `data_files` overrides what files
/// it has.
pub(crate) fn of_folder(dir: &Path, config: Option<&str>, data_files: Option<&DataFiles>) -> Result<Splits, DataError> {
    of_listed(dir, &list(dir)?, config, data_files)
}

/// The same where the files are known by their paths in the folder; `README.md` alone has to be there.
pub(crate) fn of_listed(
    dir: &Path,
    listed: &[String],
    config: Option<&str>,
    data_files: Option<&DataFiles>,
) -> Result<Splits, DataError> {
    if let Some(data_files) = data_files {
        return by_pattern(dir, listed, data_files, |pattern, reason| DataError::Setting {
            setting: "data_files",
            value: pattern.to_owned(),
            reason,
        });
    }
    let configs = readme::configs(dir)?;
    if configs.is_empty() {
        return match config {
            None | Some("default") => by_name(dir, listed),
            Some(name) => Err(DataError::UnknownConfig {
                path: dir.display().to_string(),
                name: name.to_owned(),
                available: "`default`".to_owned(),
            }),
        };
    }
    let config = readme::choose(dir, &configs, config)?;
    match config.data_dir.as_deref().map(|data_dir| data_dir.trim_matches('/')) {
        None | Some("" | ".") => of_config(dir, listed, config),
        Some(data_dir) if leaves(data_dir) => {
            let reason = format!("`data_dir: {data_dir}` leaves the dataset's folder");
            Err(DataError::Readme { path: dir.join("README.md"), reason })
        }
        Some(data_dir) => of_config(&dir.join(data_dir), &below(data_dir, listed), config),
    }
}

/// The files of a folder in the folder, by their paths in it; hidden ones are left out.
pub(crate) fn below(folder: &str, listed: &[String]) -> Vec<String> {
    let folder = folder.trim_start_matches("./").trim_matches('/');
    let inside = |file: &String| match folder {
        "" | "." => Some(file.clone()),
        folder => file.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
    };
    listed.iter().filter_map(inside).filter(|file| !file.split('/').any(is_hidden)).collect()
}

fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("__")
}

fn of_config(dir: &Path, listed: &[String], config: &readme::Config) -> Result<Splits, DataError> {
    match &config.data_files {
        None => by_name(dir, listed),
        Some(data_files) => by_pattern(dir, listed, data_files, |pattern, reason| DataError::Readme {
            path: dir.join("README.md"),
            reason: format!("`{pattern}` {reason}"),
        }),
    }
}

/// All files below `dir`, relative to it, with `/` between the parts, in order; hidden ones are left out.
fn list(dir: &Path) -> Result<Vec<String>, DataError> {
    fn walk(dir: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Result<(), DataError> {
        for entry in fs::read_dir(dir).map_err(DataError::read(dir))? {
            let entry = entry.map_err(DataError::read(dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_hidden(&name) {
                continue;
            }
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(DataError::read(entry.path()))?;
            if kind.is_dir() {
                if depth < MAX_DEPTH {
                    walk(&entry.path(), &format!("{path}/"), depth + 1, found)?;
                }
            // A cache of the Hub has links to files.
            } else if kind.is_file() || entry.path().is_file() {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(dir, "", 0, &mut found)?;
    found.sort();
    Ok(found)
}

/// Whether a path taken from a file would lead out of its folder.
fn leaves(path: &str) -> bool {
    Path::new(path).is_absolute() || path.contains('\\') || path.split('/').any(|part| part == "..")
}

fn by_pattern(
    dir: &Path,
    listed: &[String],
    data_files: &DataFiles,
    wrong: impl Fn(&str, String) -> DataError,
) -> Result<Splits, DataError> {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
    let mut splits = Splits::default();
    for (split, patterns) in data_files.by_split() {
        let mut files: Vec<PathBuf> = Vec::new();
        for text in &patterns {
            if leaves(text) {
                return Err(wrong(text, "leaves the dataset's folder".to_owned()));
            }
            let plain = text.trim_start_matches("./");
            // `datasets` reads `**` as it reads `**/*`.
            let plain = if plain == "**" || plain.ends_with("/**") { format!("{plain}/*") } else { plain.to_owned() };
            let pattern = Pattern::new(&plain).map_err(|error| wrong(text, format!("is no pattern: {}", error.msg)))?;
            let before = files.len();
            for file in listed.iter().filter(|file| pattern.matches_with(file, options)) {
                let is_description = DESCRIPTIONS.contains(&file.rsplit('/').next().unwrap_or_default());
                let path = dir.join(file);
                // A pattern with a star may match more than data; a name means what it says.
                if (!is_description || plain == *file) && !files.contains(&path) {
                    files.push(path);
                }
            }
            if files.len() == before {
                return Err(wrong(text, format!("matches no file in `{}`", dir.display())));
            }
        }
        splits.files.push((split, files));
    }
    Ok(splits)
}

fn by_name(dir: &Path, listed: &[String]) -> Result<Splits, DataError> {
    let mut notes = Vec::new();
    let files = one_kind(listed, &mut notes);
    if files.is_empty() {
        return Err(DataError::NoFiles { path: dir.to_owned() });
    }
    let found = sharded(&files)
        .or_else(|| by_word(&files, |file| file.rsplit_once('/').map_or("", |(folders, _)| folders)))
        .or_else(|| by_word(&files, |file| file.rsplit('/').next().unwrap_or_default()))
        .unwrap_or_else(|| vec![(DEFAULT_SPLIT.to_owned(), files.clone())]);
    let left: Vec<&str> =
        files.iter().filter(|file| !found.iter().any(|(_, files)| files.contains(file))).copied().collect();
    if !left.is_empty() {
        notes.push(format!("{}: belong to no split and are not read: {}", dir.display(), shown(&left)));
    }
    let files = found.into_iter().map(|(split, files)| (split, files.iter().map(|file| dir.join(file)).collect()));
    Ok(Splits { files: files.collect(), notes })
}

/// The files of the kind that the folder has most of.
fn one_kind<'a>(listed: &'a [String], notes: &mut Vec<String>) -> Vec<&'a str> {
    let mut by_kind: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
    for file in listed {
        if let Some(kind) = kind(file)
            && !DESCRIPTIONS.contains(&file.rsplit('/').next().unwrap_or_default())
        {
            by_kind.entry(kind).or_default().push(file);
        }
    }
    // Text beside data describes it, as a licence does.
    let most = by_kind.iter().max_by_key(|(kind, files)| (**kind != Kind::Text, files.len(), **kind));
    let Some(most) = most.map(|(kind, _)| *kind) else { return Vec::new() };
    let files = by_kind.remove(&most).unwrap_or_default();
    let others: Vec<&str> =
        by_kind.into_iter().filter(|(kind, _)| *kind != Kind::Text).flat_map(|(_, files)| files).collect();
    if !others.is_empty() {
        notes.push(format!("the folder's data are files such as `{}`; not read: {}", files[0], shown(&others)));
    }
    files
}

fn shown(files: &[&str]) -> String {
    let names = files.iter().take(NAMES_IN_NOTE).map(|file| format!("`{file}`")).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(NAMES_IN_NOTE) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// `data/train-00000-of-00002-abc.parquet`
fn sharded<'a>(files: &[&'a str]) -> Option<Vec<(String, Vec<&'a str>)>> {
    let split_of = |file: &str| {
        let name = file.strip_prefix("data/").filter(|name| !name.contains('/'))?;
        let at = name.find("-of-")?;
        let (before, after) = (&name[..at], &name[at + 4..]);
        let (split, shard) = before.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        (is_number(shard) && after.get(..5).is_some_and(is_number) && !split.is_empty()).then(|| split.to_owned())
    };
    let mut splits: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files {
        if let Some(split) = split_of(file) {
            splits.entry(split).or_default().push(file);
        }
    }
    let rank = |split: &str| SPLITS.iter().position(|(known, _)| *known == split).unwrap_or(SPLITS.len());
    let mut splits: Vec<_> = splits.into_iter().collect();
    splits.sort_by_key(|(split, _)| rank(split));
    (!splits.is_empty()).then_some(splits)
}

/// Splits by a word in `part` of the path; a file that has words for two belongs to both.
fn by_word<'a>(files: &[&'a str], part: impl Fn(&'a str) -> &'a str) -> Option<Vec<(String, Vec<&'a str>)>> {
    let splits = SPLITS.iter().filter_map(|(split, words)| {
        let has_word =
            |file: &&&'a str| part(file).split('/').any(|name| words.iter().any(|word| contains_word(name, word)));
        let files: Vec<&str> = files.iter().filter(has_word).copied().collect();
        (!files.is_empty()).then(|| ((*split).to_owned(), files))
    });
    let splits: Vec<_> = splits.collect();
    (!splits.is_empty()).then_some(splits)
}

/// Whether `word` stands in `name` between separators, digits or the ends.
fn contains_word(name: &str, word: &str) -> bool {
    let bounds = |c: Option<char>| c.is_none_or(|c| matches!(c, '-' | '.' | '_' | ' ' | '0'..='9'));
    name.match_indices(word)
        .any(|(at, _)| bounds(name[..at].chars().next_back()) && bounds(name[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The splits of a folder with these files, as `split: file file; …`.
    fn found(files: &[&str]) -> (String, Vec<String>) {
        let listed: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
        let splits = by_name(Path::new("d"), &listed).unwrap();
        let shown = splits.files.iter().map(|(split, files)| {
            let files: Vec<_> = files.iter().map(|file| file.strip_prefix("d").unwrap().to_string_lossy()).collect();
            format!("{split}: {}", files.join(" "))
        });
        (shown.collect::<Vec<_>>().join("; "), splits.notes)
    }

    fn splits(files: &[&str]) -> String {
        found(files).0
    }

    #[test]
    fn shards_in_data_name_their_split() {
        let files = [
            "data/extra-00000-of-00001.parquet",
            "data/test-00000-of-00001-ab12.parquet",
            "data/train-00000-of-00002.parquet",
        ];
        assert_eq!(
            splits(&files),
            "train: data/train-00000-of-00002.parquet; test: data/test-00000-of-00001-ab12.parquet; \
             extra: data/extra-00000-of-00001.parquet"
        );
    }

    #[test]
    fn folders_come_before_files() {
        assert_eq!(splits(&["dev/a.jsonl", "train_v2/b.jsonl"]), "train: train_v2/b.jsonl; validation: dev/a.jsonl");
        assert_eq!(splits(&["x/train.jsonl", "x/my-test.1.jsonl"]), "train: x/train.jsonl; test: x/my-test.1.jsonl");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(splits(&["constraints.jsonl", "contest.jsonl"]), "train: constraints.jsonl contest.jsonl");
        assert_eq!(splits(&["gsm8k_eval2.csv", "train0001.csv"]), "train: train0001.csv; test: gsm8k_eval2.csv");
    }

    #[test]
    fn files_that_are_not_read_are_named() {
        let (splits, notes) = found(&["LICENSE.txt", "a.csv", "more.jsonl", "state.json", "train.jsonl"]);
        assert_eq!(splits, "train: train.jsonl");
        assert_eq!(
            notes,
            [
                "the folder's data are files such as `more.jsonl`; not read: `a.csv`",
                "d: belong to no split and are not read: `more.jsonl`"
            ]
        );
        assert_eq!(found(&["a.txt", "b.md"]).0, "train: a.txt");
    }

    #[test]
    fn a_readme_cannot_lead_out_of_its_folder() {
        assert!(leaves("../a") && leaves("a/../../b") && leaves("/etc/passwd") && leaves("..\\a"));
        assert!(!leaves("a/b..c/*.jsonl"));
    }
}
