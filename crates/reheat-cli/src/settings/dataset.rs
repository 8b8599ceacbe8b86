//! Which rows: the settings that every command with a dataset has.

use reheat_data::{Dataset, DatasetMixture, DatasetSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{fault::Fault, hub};

/// Where rows come from, and what is done to them before they are looked at.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DatasetSettings {
    /// Files, patterns such as 'data/*.jsonl', folders of rows, and names on the Hub such as trl-lib/Capybara. A split
    /// may stand behind: `my-data:test[:1000]`.
    #[schemars(extend("x-flag" = "dataset", "x-commas" = false))]
    pub(crate) dataset_name: Vec<String>,
    /// Datasets with settings of their own, for the config file: a list of `path`, `name`, `data_dir`, `data_files`,
    /// `split`, `rename`, `filter`, `columns`, `sample` and `fraction`, the target share in the mixture.
    #[schemars(with = "serde_json::Value")]
    pub(crate) datasets: Option<Vec<DatasetSpec>>,
    /// Which configuration of a folder's README.md.
    pub(crate) dataset_config: Option<String>,
    /// Which split or slice: train, 'train[:10%]', train+validation.
    #[schemars(extend("x-flag" = "split"))]
    pub(crate) dataset_train_split: String,
    /// New names of columns: old=new.
    pub(crate) rename: Vec<String>,
    /// Which rows are kept: "score >= 4 and lang in ('de', 'en')".
    pub(crate) filter: Option<String>,
    /// Which columns are kept; all by default.
    pub(crate) columns: Option<Vec<String>>,
    /// How many rows are drawn, keeping their order: 1000, 10%, 0.1.
    pub(crate) sample: Option<String>,
    /// Rows in random order before they are prepared. Each epoch has a new order anyway.
    #[schemars(extend("x-flag" = "shuffle"))]
    pub(crate) shuffle_dataset: bool,
    /// Rows among which --shuffle picks; only so many are held in memory.
    pub(crate) shuffle_buffer_size: usize,
    /// Seed of --sample and --shuffle.
    pub(crate) data_seed: u64,
}

impl Default for DatasetSettings {
    fn default() -> Self {
        let DatasetMixture { shuffle, shuffle_buffer_size, seed, .. } = DatasetMixture::default();
        Self {
            dataset_name: Vec::new(),
            datasets: None,
            dataset_config: None,
            dataset_train_split: "train".into(),
            rename: Vec::new(),
            filter: None,
            columns: None,
            sample: None,
            shuffle_dataset: shuffle,
            shuffle_buffer_size,
            data_seed: seed,
        }
    }
}

impl DatasetSettings {
    /// What is wrong without looking at any file.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match (&self.datasets, self.dataset_name.is_empty()) {
            (None, true) => faults.push("--dataset is missing".into()),
            (Some(_), false) => faults.push("`datasets` and --dataset (`dataset_name`) exclude each other".into()),
            (Some(datasets), true) if datasets.is_empty() => faults.push("`datasets` is empty".into()),
            _ => {}
        }
        faults.extend(self.renames().err());
        faults
    }

    /// The datasets as the library takes them. What one of `datasets` doesn't say, the settings for all of them do.
    pub(crate) fn mixture(&self) -> anyhow::Result<DatasetMixture> {
        let rename = self.renames().map_err(Fault::input)?;
        let named = || self.dataset_name.iter().map(DatasetSpec::new).collect();
        let specs = self.datasets.clone().unwrap_or_else(named).into_iter().map(|mut spec| {
            spec.name = spec.name.or_else(|| self.dataset_config.clone());
            spec.filter = spec.filter.or_else(|| self.filter.clone());
            spec.columns = spec.columns.or_else(|| self.columns.clone());
            if spec.rename.is_empty() {
                spec.rename.extend(rename.iter().cloned());
            }
            // A split behind the path is taken apart first: it knows which split is meant.
            if spec.split.is_none() {
                spec.split = Some(self.dataset_train_split.clone());
            }
            spec.normalized()
        });
        Ok(DatasetMixture {
            datasets: specs.collect(),
            sample: self.sample.as_deref().map(str::parse).transpose()?,
            shuffle: self.shuffle_dataset,
            shuffle_buffer_size: self.shuffle_buffer_size,
            seed: self.data_seed,
        })
    }

    /// Finds the files, on the Hub where a dataset is named `owner/name`, and says on stderr which of them are not read.
    pub(crate) fn open(&self) -> anyhow::Result<Dataset> {
        let mut mixture = self.mixture()?;
        for spec in &mut mixture.datasets {
            if hub::is_name(&spec.path) {
                *spec = hub::fetch_dataset(spec)?;
            }
        }
        let dataset = Dataset::open(&mixture)?;
        for note in dataset.notes() {
            eprintln!("note: {note}");
        }
        Ok(dataset)
    }

    fn renames(&self) -> Result<Vec<(String, String)>, String> {
        let pair = |text: &String| match text.split_once('=') {
            Some((old, new)) if !old.trim().is_empty() && !new.trim().is_empty() => {
                Ok((old.trim().to_owned(), new.trim().to_owned()))
            }
            _ => Err(format!("--rename: expected old=new, found `{text}`")),
        };
        self.rename.iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mixture(settings: Value) -> DatasetMixture {
        serde_json::from_value::<DatasetSettings>(settings).unwrap().mixture().unwrap()
    }

    #[test]
    fn settings_for_all_datasets_fill_what_one_leaves_open() {
        let mixture = mixture(json!({
            "datasets": [{"path": "a", "fraction": 0.5, "filter": "x = 1"}, {"path": "b:dev", "fraction": 0.5}],
            "dataset_train_split": "test", "filter": "y = 2", "rename": ["q=prompt", "a = b"], "sample": "10",
        }));
        let [a, b] = mixture.datasets.as_slice() else { panic!("two datasets") };
        assert_eq!((a.split.as_deref(), a.filter.as_deref()), (Some("test"), Some("x = 1")));
        assert_eq!((b.path.as_str(), b.split.as_deref(), b.filter.as_deref()), ("b", Some("dev"), Some("y = 2")));
        assert_eq!(b.rename.iter().map(|(old, new)| format!("{old}={new}")).collect::<Vec<_>>(), ["a=b", "q=prompt"]);
        assert_eq!(mixture.sample.map(|sample| sample.to_string()).as_deref(), Some("10"));
    }

    #[test]
    fn faults_need_no_file() {
        let faults = |settings: Value| serde_json::from_value::<DatasetSettings>(settings).unwrap().faults();
        assert_eq!(faults(json!({})), ["--dataset is missing"]);
        assert_eq!(
            faults(json!({"dataset_name": ["a"], "datasets": [], "rename": ["x"]})),
            ["`datasets` and --dataset (`dataset_name`) exclude each other", "--rename: expected old=new, found `x`"]
        );
    }
}
