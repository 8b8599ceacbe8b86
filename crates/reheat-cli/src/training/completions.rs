//! Completions for a person: a table with every logged row, and a file with all of them.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use console::{pad_str, style};
use reheat_train::{CompletionRecord, CompletionsFn, TrainError};
use serde_json::Value;

use crate::{output, painted::harmless};

/// Columns of a number.
const NUMBER: usize = 9;

/// Completions on their way from the method to the terminal.
#[derive(Debug, Clone, Default)]
pub(crate) struct CompletionsLog {
    since_last: Arc<Mutex<Vec<CompletionRecord>>>,
}

impl CompletionsLog {
    /// Keeps completions for the next table, and writes each as a line of `path`. What a run that is taken up again wrote
    /// there of later steps is forgotten.
    pub(super) fn writer(&self, path: PathBuf) -> Box<CompletionsFn> {
        let since_last = Arc::clone(&self.since_last);
        let mut is_first = true;
        Box::new(move |records| {
            let cannot_write = |source| TrainError::Write { path: path.clone(), source };
            if std::mem::take(&mut is_first) {
                rewind(&path, records.first().map_or(0, |record| record.step)).map_err(cannot_write)?;
            }
            let mut lines = String::new();
            for record in records {
                lines += &serde_json::to_string(record).expect("text and numbers by name");
                lines.push('\n');
            }
            let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(cannot_write)?;
            file.write_all(lines.as_bytes()).map_err(cannot_write)?;
            since_last.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(records);
            Ok(())
        })
    }

    /// Shows up to `count` of the completions since the last table, every so many steps.
    pub(super) fn table(&self, every: u64, count: Option<usize>, unique_prompts: bool) -> CompletionsTable {
        CompletionsTable { log: self.clone(), every, count, unique_prompts }
    }
}

/// Keeps the lines of steps before `step`.
fn rewind(path: &PathBuf, step: u64) -> std::io::Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    let before = |line: &&str| serde_json::from_str::<CompletionRecord>(line).is_ok_and(|record| record.step < step);
    let kept: String = text.lines().filter(before).map(|line| format!("{line}\n")).collect();
    fs::write(path, kept)
}

/// Shows completions with every logged row.
#[derive(Debug)]
pub(crate) struct CompletionsTable {
    log: CompletionsLog,
    every: u64,
    count: Option<usize>,
    unique_prompts: bool,
}

impl CompletionsTable {
    /// The table, where it is time for one.
    pub(super) fn observe(&mut self, step: u64) -> Option<String> {
        if !step.is_multiple_of(self.every) {
            return None;
        }
        let mut records = std::mem::take(&mut *self.log.since_last.lock().unwrap_or_else(PoisonError::into_inner));
        if self.unique_prompts {
            let mut seen = BTreeSet::new();
            records.retain(|record| seen.insert(record.prompt.to_string()));
        }
        let count = self.count.unwrap_or(records.len()).min(records.len());
        // Spread over what there is, so that a few show more than one prompt.
        let shown = (0..count).map(|index| &records[index * records.len() / count]).collect::<Vec<_>>();
        (!shown.is_empty()).then(|| render(step, &shown, output::stderr_width()))
    }
}

/// A heading and a line for each completion, no wider than `width` where that leaves room for texts.
fn render(step: u64, records: &[&CompletionRecord], width: usize) -> String {
    let names: Vec<&String> = records[0].rewards.keys().collect();
    let texts = width.saturating_sub((names.len() + 1) * (NUMBER + 1)).max(40);
    let prompts = texts / 3;
    let number = |text: &str| pad_str(text, NUMBER, console::Alignment::Right, Some("…")).into_owned();
    let cell = |text: &str, width: usize| pad_str(text, width, console::Alignment::Left, Some("…")).into_owned();
    let mut lines = vec![format!("completions of step {step}")];
    let heading: Vec<String> = [cell("prompt", prompts), cell("completion", texts - prompts)]
        .into_iter()
        .chain(names.iter().map(|name| number(name)))
        .chain([number("advantage")])
        .collect();
    lines.push(style(heading.join(" ")).bold().for_stderr().to_string());
    for record in records {
        let reward = |name: &&String| match record.rewards.get(*name).and_then(Value::as_f64) {
            Some(reward) => number(&format!("{reward:.2}")),
            None => number("–"),
        };
        let end = if record.truncated { "…" } else { "" };
        let completion = format!("{}{end}", one_line(&record.completion));
        let cells: Vec<String> = [cell(&last_of(&record.prompt), prompts), cell(&completion, texts - prompts)]
            .into_iter()
            .chain(names.iter().map(reward))
            .chain([number(&format!("{:+.2}", record.advantage))])
            .collect();
        lines.push(cells.join(" ").trim_end().to_owned());
    }
    lines.join("\n")
}

/// Text, or what the last message says.
fn last_of(prompt: &Value) -> String {
    let last = prompt.as_array().and_then(|messages| messages.last());
    match last.and_then(|message| message.get("content")).unwrap_or(prompt) {
        Value::String(text) => one_line(text),
        other => one_line(&other.to_string()),
    }
}

/// Line breaks as ↵, and nothing that moves the cursor.
fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "↵").replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(step: u64, prompt: &str, completion: &str, reward: Value) -> CompletionRecord {
        serde_json::from_value(json!({
            "step": step, "prompt": [{ "role": "user", "content": prompt }], "completion": completion,
            "rewards": { "accuracy": reward, "brief": -3 }, "advantage": 0.707, "num_tokens": 4, "truncated": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_table_shows_prompts_completions_rewards_and_advantages() {
        console::set_colors_enabled_stderr(false);
        let records = [record(3, "What is 2+2?", "It is\n4", json!(1)), record(3, "a\u{1b}[2Jb", "", json!(null))];
        let table = render(3, &records.iter().collect::<Vec<_>>(), 70);
        assert_eq!(
            table,
            "completions of step 3\n\
             prompt        completion                   accuracy     brief advantage\n\
             What is 2+2?  It is↵4                          1.00     -3.00     +0.71\n\
             a␛[2Jb                                            –     -3.00     +0.71"
        );
    }

    #[test]
    fn a_resumed_run_forgets_what_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("completions.jsonl");
        let log = CompletionsLog::default();
        let mut write = log.writer(path.clone());
        for step in 1..=3 {
            write(&[record(step, "p", "c", json!(0))]).unwrap();
        }
        log.writer(path.clone())(&[record(3, "p", "again", json!(0))]).unwrap();
        let lines = fs::read_to_string(&path).unwrap();
        let steps: Vec<CompletionRecord> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(steps.iter().map(|record| record.step).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(steps[2].completion, "again");

        let mut table = log.table(2, Some(1), true);
        assert_eq!(table.observe(3), None);
        assert!(table.observe(4).unwrap().starts_with("completions of step 4\n"));
        assert_eq!(table.observe(6), None);
    }
}
