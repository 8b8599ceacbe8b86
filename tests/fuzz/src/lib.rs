//! What each fuzz target does with its bytes. A target fails by panicking, by taking too long or too much memory.
//!
//! Here and not in the targets, so that an ordinary test runs the same with a corpus of its own.

use std::{fs, panic};

use reheat_chat::{Cases, ChatTemplate, RenderOptions, TemplateTokens};
use reheat_data::{
    Conversion, ConversionOptions, Dataset, DatasetMixture, DatasetSpec, Example, OnBadRow, panic_is_expected,
};

/// Names of files by which a reader is chosen where the content leaves it open.
const NAMES: [&str; 9] =
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.zst"];

/// Most rows that are looked at: what a few bytes inflate to is bounded by bytes, and takes its time.
const MAX_ROWS: usize = 10_000;

/// Sets a panic hook that passes over the panics of decoders that `reheat-data` catches and makes errors; a fuzzer's
/// own hook ends the process at any.
pub fn let_caught_panics_pass() {
    let end = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic_is_expected() {
            end(panic);
        }
    }));
}

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

/// Converts rows, one a line: each becomes examples or a bad row, and an example becomes a row again.
pub fn converters(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("rows.jsonl");
    if fs::write(&path, data).is_err() {
        return;
    }
    let Ok(dataset) = Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into()) else { return };
    let options = ConversionOptions { on_bad_row: OnBadRow::Skip, ..ConversionOptions::default() };
    let mut conversion = Conversion::new(&dataset, options);
    while let Ok(rows) = conversion.next_chunk() {
        if rows.is_empty() {
            return;
        }
        for (id, examples) in rows {
            match examples {
                Ok(examples) => examples.into_iter().map(Example::into_row).for_each(drop),
                Err(problem) => drop(format!("{id}: {problem} {:?} {}", problem.hint(), problem.reason())),
            }
        }
    }
}

/// Renders conversations: the template comes first, then a line of four dashes, then the conversations.
pub fn templates(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, cases) = text.split_once("\n----\n").unwrap_or((text, "[{\"role\": \"user\", \"content\": \"a\"}]"));
    let tokens = TemplateTokens::new([("eos_token", "<|im_end|>")]);
    let (Ok(template), Ok(cases)) = (ChatTemplate::new(source, &tokens), Cases::read(cases)) else { return };
    let _ = template.inference_source();
    for case in cases.cases.into_iter().take(4) {
        // The clock of the run would make it another run each time.
        let options = RenderOptions { now: "2025-01-02T03:04:05".parse().ok(), ..case.options };
        if let Ok(rendered) = template.render(&case.conversation, &options) {
            let _ = rendered.in_characters(&rendered.generation_spans);
        }
        if let Ok(transcript) = template.render_for_training(&case.conversation, &options) {
            for span in &transcript.assistant_spans {
                // A span cuts no character in two.
                let _ = &transcript.text[span.bytes.clone()];
            }
        }
    }
}
