//! What `--dataset` may name, on real folders: files, patterns, splits, slices, filters, samples, mixtures.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::Write;
use std::path::Path;

use reheat_data::{DataError, Dataset, DatasetMixture, DatasetSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with these files, which the paths in specifications are relative to.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, content) in files {
            folder.write(name, content.as_bytes());
        }
        folder
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn spec(&self, name: &str) -> DatasetSpec {
        DatasetSpec::new(self.path(name))
    }

    /// The error without the temporary folder's name.
    fn plain(&self, error: &DataError) -> String {
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn ids(&self, name: &str) -> Result<Vec<i64>, String> {
        self.ids_of(&self.spec(name).into())
    }

    fn ids_of(&self, mixture: &DatasetMixture) -> Result<Vec<i64>, String> {
        ids(mixture).map_err(|error| self.plain(&error))
    }
}

/// The column `id` of all rows.
fn ids(mixture: &DatasetMixture) -> Result<Vec<i64>, DataError> {
    let rows = Dataset::open(mixture)?.rows();
    rows.map(|row| {
        let (id, row) = row?.parse();
        let row = row.map_err(|problem| DataError::Row { row: id, problem })?;
        Ok(row["id"].as_i64().expect("ids are numbers"))
    })
    .collect()
}

/// Lines with the ids of a range.
fn lines(ids: std::ops::Range<i64>) -> String {
    ids.map(|id| format!("{}\n", json!({"id": id, "parity": if id % 2 == 0 { "even" } else { "odd" }}))).collect()
}

#[test]
fn files_patterns_and_folders_are_named_alike() {
    let folder = Folder::new(&[
        ("a/1.jsonl", &lines(0..2)),
        ("a/2.jsonl", &lines(2..4)),
        ("a/notes.md", "no data"),
        ("b.json", r#"[{"id": 7}, {"id": 8}]"#),
    ]);
    assert_eq!(folder.ids("a/1.jsonl"), Ok(vec![0, 1]));
    assert_eq!(folder.ids("a/*"), Ok(vec![0, 1, 2, 3]));
    assert_eq!(folder.ids("a"), Ok(vec![0, 1, 2, 3]));
    assert_eq!(folder.ids("b.json[1:]"), Ok(vec![8]));
    assert_eq!(folder.ids("a/?.jsonl[1:3]"), Ok(vec![1, 2]));
    assert_eq!(
        folder.ids("c"),
        Err(format!("dataset `{}` does not exist", folder.path("c")))
            .map_err(|text| { text.replace(&format!("{}/", folder.0.path().display()), "") })
    );
    assert_eq!(
        folder.ids("b.json[1]"),
        Err("split `b.json[1]`: `[1]` lacks the `:` of a slice, expected one such as `[:1000]`".to_owned())
    );
    folder.write("empty/x.bin", b"");
    assert_eq!(folder.ids("empty"), Err("`empty` holds no data files".to_owned()));
}

#[test]
fn slices_run_through_all_files_of_a_split() {
    let folder = Folder::new(&[
        ("d/train-1.jsonl", &lines(0..6)),
        ("d/train-2.jsonl", &lines(6..10)),
        ("d/test.jsonl", &lines(100..105)),
    ]);
    assert_eq!(folder.ids("d"), Ok((0..10).collect()));
    assert_eq!(folder.ids("d:train[4:8]"), Ok(vec![4, 5, 6, 7]));
    assert_eq!(folder.ids("d[8:]"), Ok(vec![8, 9]));
    assert_eq!(folder.ids("d:train[-20%:]+test[:1]"), Ok(vec![8, 9, 100]));
    assert_eq!(folder.ids("d:test[:1000]"), Ok((100..105).collect()));
    assert_eq!(folder.ids("d:dev"), Err("`d` has no split `dev`, only `train`, `test`".to_owned()));
    let spec = DatasetSpec { split: Some("train[7".into()), ..folder.spec("d") };
    assert!(folder.ids_of(&spec.into()).unwrap_err().starts_with("split `train[7`: `[7` is no slice"));
}

#[test]
fn a_readme_says_what_the_files_are() {
    let readme = "---\nlicense: mit\nconfigs:\n- config_name: easy\n  default: true\n  data_files:\n  - split: train\n    \
                  path: x/*.jsonl\n  - split: extra\n    path: [y/1.jsonl]\n- config_name: hard\n  data_dir: z\n\
                  - config_name: bad\n  data_files: ../secret.jsonl\n---\n# Title\n";
    let folder = Folder::new(&[
        ("d/README.md", readme),
        ("d/x/1.jsonl", &lines(0..2)),
        ("d/y/1.jsonl", &lines(2..3)),
        ("d/z/dev.jsonl", &lines(3..5)),
        ("secret.jsonl", &lines(9..10)),
    ]);
    assert_eq!(folder.ids("d"), Ok(vec![0, 1]));
    assert_eq!(folder.ids("d:train+extra"), Ok(vec![0, 1, 2]));
    let config = |name: &str, split: &str| {
        let spec = DatasetSpec { name: Some(name.into()), split: Some(split.into()), ..folder.spec("d") };
        folder.ids_of(&spec.into())
    };
    assert_eq!(config("hard", "validation"), Ok(vec![3, 4]));
    assert_eq!(config("none", "train"), Err("`d` has no configuration `none`, only `easy`, `hard`, `bad`".to_owned()));
    assert_eq!(config("bad", "train"), Err("`d/README.md`: `../secret.jsonl` leaves the dataset's folder".to_owned()));
}

#[test]
fn folders_that_datasets_saved_are_read() {
    let folder = Folder::new(&[
        ("saved/dataset_dict.json", r#"{"splits": ["train", "test"]}"#),
        ("saved/train/state.json", "{}"),
        ("saved/train/dataset_info.json", "{}"),
        ("saved/train/data-00000-of-00001.jsonl", &lines(0..2)),
        ("saved/test/data-00000-of-00001.jsonl", &lines(2..3)),
    ]);
    assert_eq!(folder.ids("saved"), Ok(vec![0, 1]));
    assert_eq!(folder.ids("saved:test"), Ok(vec![2]));
}

#[test]
fn the_loaders_of_datasets_are_names_too() {
    let folder = Folder::new(&[("t.jsonl", &lines(0..2)), ("e1.jsonl", &lines(2..3)), ("e2.jsonl", &lines(3..4))]);
    let spec: DatasetSpec = serde_json::from_value(json!({
        "path": "json", "split": "train+test",
        "data_files": {"train": folder.path("t.jsonl"), "test": [folder.path("e*.jsonl")]},
    }))
    .unwrap();
    assert_eq!(folder.ids_of(&spec.into()), Ok(vec![0, 1, 2, 3]));
}

#[test]
fn compressed_files_are_read_to_their_last_member() {
    let folder = Folder::new(&[]);
    let gz = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    folder.write("d/train.jsonl.gz", &[gz(&lines(0..2)), gz(&lines(2..3))].concat());
    assert_eq!(folder.ids("d"), Ok(vec![0, 1, 2]));
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    folder.write("z.jsonl.zst", &[zst(&lines(5..7)), zst(&lines(7..8))].concat());
    assert_eq!(folder.ids("z.jsonl.zst"), Ok(vec![5, 6, 7]));
}

#[test]
fn rows_are_renamed_filtered_and_reduced() {
    let folder = Folder::new(&[("a.jsonl", &lines(0..6))]);
    let spec = DatasetSpec {
        rename: [("parity".to_owned(), "kind".to_owned())].into(),
        filter: Some("kind = 'odd' and id > 1".into()),
        columns: Some(vec!["id".into()]),
        ..folder.spec("a.jsonl")
    };
    let mut rows = Dataset::open(&spec.clone().into()).unwrap().rows();
    let found: Vec<Value> = rows.by_ref().map(|row| Value::Object(row.unwrap().parse().1.unwrap())).collect();
    assert_eq!(found, [json!({"id": 3}), json!({"id": 5})]);
    assert_eq!(rows.num_filtered(), 4);
    let spec = DatasetSpec { columns: Some(vec!["parity".into()]), ..spec };
    assert_eq!(
        folder.ids_of(&spec.into()),
        Err("a.jsonl:1: there is no column `parity` to keep, only `id`, `kind`".to_owned())
    );
}

#[test]
fn a_row_that_cannot_be_judged_keeps_its_problem_and_text() {
    let folder = Folder::new(&[("a.jsonl", "{\"id\": 1}\n{\"id\": \"x\"}\n{\"id\"\n")]);
    let spec = DatasetSpec { filter: Some("id > 5".into()), ..folder.spec("a.jsonl") };
    let rows: Vec<_> = Dataset::open(&spec.into()).unwrap().rows().map(Result::unwrap).collect();
    let texts: Vec<_> = rows.iter().map(|row| row.text().unwrap()).collect();
    assert_eq!(texts, ["{\"id\": \"x\"}", "{\"id\""]);
    let problems: Vec<_> = rows.into_iter().map(|row| row.parse().1.unwrap_err().to_string()).collect();
    assert_eq!(problems[0], "`id` must be a number, found the text `x`");
    assert!(problems[1].starts_with("not JSON"), "{problems:?}");
}

fn shuffled(folder: &Folder, seed: u64, buffer: usize) -> Vec<i64> {
    let mixture = DatasetMixture {
        datasets: vec![folder.spec("a.jsonl")],
        shuffle: true,
        shuffle_buffer_size: buffer,
        seed,
        ..DatasetMixture::default()
    };
    folder.ids_of(&mixture).unwrap()
}

#[test]
fn shuffling_keeps_every_row_once_and_reaches_as_far_as_its_buffer() {
    let folder = Folder::new(&[("a.jsonl", &lines(0..1000))]);
    for buffer in [10, 5000] {
        let order = shuffled(&folder, 1, buffer);
        assert_eq!(order, shuffled(&folder, 1, buffer));
        assert_ne!(order, shuffled(&folder, 2, buffer));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        // A row can come late by chance and never early by more than the buffer.
        let earliest = order.iter().enumerate().map(|(place, id)| id - place as i64).max().unwrap();
        assert_eq!(earliest < 10, buffer == 10, "{earliest}");
    }
}

#[test]
fn samples_are_exact_in_order_and_drawn_from_the_seed() {
    let folder = Folder::new(&[("a.jsonl", &lines(0..100)), ("b.jsonl", &lines(100..200))]);
    let sampled = |sample: &str, seed: u64, filter: Option<&str>| {
        let sample = Some(sample.parse().unwrap());
        let filter = filter.map(str::to_owned);
        let one = DatasetSpec { sample, filter: filter.clone(), ..folder.spec("a.jsonl") };
        let each = ids(&DatasetMixture { seed, ..one.into() }).unwrap();
        let datasets = vec![
            DatasetSpec { filter: filter.clone(), ..folder.spec("a.jsonl") },
            DatasetSpec { filter, ..folder.spec("b.jsonl") },
        ];
        (each, ids(&DatasetMixture { datasets, sample, seed, ..DatasetMixture::default() }).unwrap())
    };
    let (one, both) = sampled("20", 3, None);
    assert_eq!((one.len(), both.len()), (20, 20));
    assert!(one.is_sorted() && both.is_sorted());
    assert!(both.iter().any(|id| *id < 100) && both.iter().any(|id| *id >= 100));
    assert_eq!(sampled("20", 3, None), (one.clone(), both));
    assert_ne!(sampled("20", 4, None).0, one);
    // A share is one of what the filter leaves.
    let (one, both) = sampled("10%", 3, Some("parity = 'even'"));
    assert_eq!((one.len(), both.len()), (5, 10));
    assert!(both.iter().all(|id| id % 2 == 0));
    assert_eq!(sampled("1000", 0, None).0, (0..100).collect::<Vec<_>>());
}

#[test]
fn fractions_take_the_first_rows_of_each() {
    let folder = Folder::new(&[("a.jsonl", &lines(0..100)), ("b.jsonl", &lines(1000..2000))]);
    let mixture = |a: Option<f64>, b: Option<f64>| DatasetMixture {
        datasets: vec![
            DatasetSpec { fraction: a, ..folder.spec("a.jsonl") },
            DatasetSpec { fraction: b, ..folder.spec("b.jsonl") },
        ],
        ..DatasetMixture::default()
    };
    let expected: Vec<i64> = (0..100).chain(1000..1033).collect();
    assert_eq!(ids(&mixture(Some(0.75), Some(0.25))).unwrap(), expected);
    assert_eq!(ids(&mixture(None, None)).unwrap().len(), 1100);
    assert_eq!(
        folder.ids_of(&mixture(Some(0.5), None)),
        Err("fraction `none`: `b.jsonl` has none; all datasets of a mixture have one, or none has".to_owned())
    );
    assert!(folder.ids_of(&mixture(Some(-1.0), Some(1.0))).is_err());
    assert!(folder.ids_of(&mixture(Some(0.0), Some(0.0))).is_err());
}

/// Reference data that is not part of the repository; the test passes where it is absent.
#[test]
fn every_shared_file_is_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    for (folder, expected) in [("llama-factory", 12), ("derived", 6), ("self-instruct", 2), ("gsm8k", 2)] {
        let Ok(entries) = fs::read_dir(data.join(folder)) else { return };
        let mut read = 0;
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_none_or(|extension| extension != "json" && extension != "jsonl") {
                continue;
            }
            let dataset = Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into()).unwrap();
            let problems = dataset.rows().map(|row| row.unwrap().parse().1).filter(Result::is_err).count();
            assert_eq!(problems, 0, "{}", path.display());
            assert!(dataset.rows().count() > 3, "{}", path.display());
            read += 1;
        }
        assert_eq!(read, expected, "{folder}");
    }
}

/// What is chosen by name alone is what a whole folder gives, and stays so beside files that were fetched for others.
#[test]
fn files_are_chosen_by_name_before_they_are_here() {
    let card = "---\nconfigs:\n- config_name: a\n  data_dir: a\n- config_name: b\n  default: true\n  data_files:\n  \
                - split: train\n    path: b/t*.jsonl\n  - split: test\n    path: b/[x].jsonl\n---\n";
    let files = [
        (".hidden/train.jsonl", lines(0..1)),
        ("a/test.jsonl", lines(0..3)),
        ("a/train.jsonl", lines(3..5)),
        ("b/t1.jsonl", lines(5..6)),
        ("b/t2.jsonl", lines(6..8)),
        ("b/x.jsonl", lines(8..9)),
    ];
    let names = files.each_ref().map(|(name, _)| (*name).to_owned());
    for (config, split, expected) in [
        (Some("a"), None, &["a/train.jsonl"][..]),
        (Some("a"), Some("test[:1]"), &["a/test.jsonl"]),
        (None, None, &["b/t1.jsonl", "b/t2.jsonl"]),
        (None, Some("test+train[1:]+test"), &["b/x.jsonl", "b/t1.jsonl", "b/t2.jsonl"]),
    ] {
        let spec = |folder: &Folder| DatasetSpec {
            name: config.map(str::to_owned),
            split: split.map(str::to_owned),
            ..folder.spec("")
        };
        let here = Folder::new(&[("README.md", card)]);
        let chosen = spec(&here).choose(here.0.path(), &names).unwrap();
        assert_eq!(chosen.files, expected);
        let whole = Folder::new(&[("README.md", card)]);
        for (name, content) in &files {
            whole.write(name, content.as_bytes());
            if expected.contains(name) {
                here.write(name, content.as_bytes());
            }
        }
        here.write("train.csv", b"id\n99\n");
        assert_eq!(ids(&chosen.spec.into()).unwrap(), ids(&spec(&whole).into()).unwrap());
    }
    let here = Folder::new(&[("README.md", card)]);
    let refused = |spec: DatasetSpec| here.plain(&spec.choose(here.0.path(), &names).unwrap_err());
    let of = |split: &str| DatasetSpec { split: Some(split.into()), ..DatasetSpec::new("owner/name") };
    assert_eq!(refused(of("dev")), "`owner/name` has no split `dev`, only `train`, `test`");
    let elsewhere = DatasetSpec { data_dir: Some("c".into()), ..DatasetSpec::new("owner/name") };
    assert_eq!(refused(elsewhere), "`c` holds no data files");
}
