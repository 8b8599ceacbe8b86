//! What each fuzz target does with its bytes. A target fails by panicking, by taking too long or too much memory.
//!
//! Here and not in the targets, so that an ordinary test runs the same with a corpus of its own.

use std::fs;

use reheat_data::{Dataset, DatasetMixture, DatasetSpec};

/// Names of files by which a reader is chosen where the content leaves it open.
const NAMES: [&str; 9] =
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.zst"];

/// Most rows that are looked at: what a few bytes inflate to is bounded by bytes, and takes its time.
const MAX_ROWS: usize = 10_000;

/// Reads a file: the first byte picks its name, the others are its content.
pub fn readers(data: &[u8]) {
    let Some((&first, content)) = data.split_first() else { return };
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join(NAMES[usize::from(first) % NAMES.len()]);
    if fs::write(&path, content).is_err() {
        return;
    }
    let Ok(dataset) = Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into()) else { return };
    for row in dataset.rows().take(MAX_ROWS) {
        let Ok(row) = row else { break };
        let _ = row.text();
        if let (id, Err(problem)) = row.parse() {
            let _ = format!("{id}: {problem} {:?} {}", problem.hint(), problem.reason());
        }
    }
}

/// A specification, a line each: split, filter, sample, and the `README.md` of the folder, over a few rows.
pub fn expressions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(4, '\n');
    let Ok(folder) = tempfile::tempdir() else { return };
    let rows = "{\"a\": 1, \"b\": \"x\", \"c\": [1, {\"d\": null}]}\n{\"a\": null}\n";
    if fs::write(folder.path().join("train.jsonl"), rows).is_err() {
        return;
    }
    let mut next = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let mut spec = DatasetSpec::new(folder.path().to_string_lossy());
    (spec.split, spec.filter) = (next(), next());
    let sample = next().and_then(|sample| sample.parse().ok());
    if let Some(readme) = next() {
        let _ = fs::write(folder.path().join("README.md"), readme);
    }
    let mixture = DatasetMixture { datasets: vec![spec], sample, shuffle: true, ..DatasetMixture::default() };
    if let Ok(dataset) = Dataset::open(&mixture) {
        let _ = dataset.rows().count();
    }
}
