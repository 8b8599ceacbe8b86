//! The Hub as the commands use it: bars on stderr, Ctrl-C stops a transfer where it can go on later.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use reheat_data::DatasetSpec;
use reheat_hub::{Event, Flow, Hub, HubError, RemoteFile, RepoName, Selection};

use crate::fault::Fault;
use crate::interrupt::Interrupt;

/// Between two lines of a transfer where stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A transfer as a person sees it.
pub(crate) struct Transfer {
    what: &'static str,
    name: String,
    bar: ProgressBar,
    /// When the last plain line was printed; `None` on a terminal.
    plain: Option<Mutex<Instant>>,
    interrupt: Interrupt,
}

impl Transfer {
    /// `what` is a word such as `fetching`.
    pub(crate) fn new(what: &'static str, name: &str) -> anyhow::Result<Self> {
        let plain = (!std::io::stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        let bar = ProgressBar::hidden();
        Ok(Self { what, name: name.to_owned(), bar, plain, interrupt: Interrupt::install()? })
    }

    /// Shows an event.
    pub(crate) fn event(&self, event: &Event) -> Flow {
        match event {
            Event::Planned { files, bytes, present_bytes } => self.start(*files, *bytes, *present_bytes),
            Event::Bytes(count) => self.bar.inc(*count),
            Event::Again(count) => self.bar.set_position(self.bar.position().saturating_sub(*count)),
            Event::Done { path } => tracing::info!("{path}: complete, its hash is right"),
            Event::Waiting { reason, time } => {
                let time = time.map(|time| format!(", again in {:.0} s", time.as_secs_f64().ceil()));
                self.say(&format!("{reason}{}", time.unwrap_or_default()));
            }
            Event::Stale { reason, commit } => {
                self.say(&format!("note: {reason}; using commit {} of the cache", &commit[..commit.len().min(8)]));
            }
            _ => {}
        }
        self.say_progress();
        if self.interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    }

    /// Shows what holds a transfer up, and not that of a small file before others.
    fn wait(&self, event: &Event) -> Flow {
        match event {
            Event::Planned { .. } | Event::Bytes(_) | Event::Again(_) if !self.interrupt.is_raised() => Flow::Continue,
            _ => self.event(event),
        }
    }

    fn start(&self, files: usize, bytes: u64, present_bytes: u64) {
        self.bar.set_length(bytes + self.bar.length().unwrap_or(0));
        self.bar.inc(present_bytes);
        if self.plain.is_none() {
            let template =
                "{msg}\n{bar:40.cyan/dim} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar.set_style(style.progress_chars("━╸─"));
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            self.bar.set_message(format!("{} {}: {files} files", self.what, self.name));
            self.bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            let present =
                if present_bytes > 0 { format!(", {} of them here", size(present_bytes)) } else { String::new() };
            eprintln!("{} {}: {files} files, {}{present}", self.what, self.name, size(bytes));
        }
    }

    fn say(&self, line: &str) {
        if self.plain.is_some() { eprintln!("{line}") } else { self.bar.suspend(|| eprintln!("{line}")) }
    }

    fn say_progress(&self) {
        let Some(Ok(mut last)) = self.plain.as_ref().map(Mutex::lock) else { return };
        if last.elapsed() >= PLAIN_INTERVAL
            && let Some(total) = self.bar.length()
        {
            *last = Instant::now();
            eprintln!("{} {}: {} of {}", self.what, self.name, size(self.bar.position()), size(total));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// Ends of files that a path with one `/` has more often than a repository.
const FILES: [&str; 13] = [
    ".json",
    ".jsonl",
    ".ndjson",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".gz",
    ".zst",
    ".md",
    ".yaml",
    ".safetensors",
];

/// Whether what was given names a repository, `owner/name` with `@revision` or not, since there is no such path here.
pub(crate) fn is_name(text: &str) -> bool {
    let looks_local = text.starts_with(['/', '.', '~']) || FILES.iter().any(|end| text.ends_with(end));
    let has_owner = text.split('@').next().is_some_and(|id| id.contains('/'));
    has_owner && !looks_local && !Path::new(text).exists() && RepoName::model(text).is_ok()
}

/// The folder of a model, fetched where it isn't here.
///
/// # Errors
/// If it can't be had; where a path may have been meant, that there is none is said too.
pub(crate) fn fetch_model(name: &str) -> anyhow::Result<PathBuf> {
    let repo = RepoName::model(name)?;
    let hub = Hub::from_env()?;
    let transfer = Transfer::new("fetching", name)?;
    let snapshot = hub
        .snapshot(&repo, &Selection::Model, &|event| transfer.event(event))
        .map_err(|error| or_a_path(name, error))?;
    tracing::info!("{name} is commit {} in {}", snapshot.commit, snapshot.dir.display());
    Ok(snapshot.dir)
}

/// A dataset of the Hub as one of files that are here: those that its configuration and split are made of are fetched.
///
/// # Errors
/// As [`fetch_model`]; and if there is no such configuration or split.
pub(crate) fn fetch_dataset(spec: &DatasetSpec) -> anyhow::Result<DatasetSpec> {
    const CARD: &str = "README.md";
    let name = &spec.path;
    let repo = RepoName::dataset(name)?;
    let hub = Hub::from_env()?;
    let transfer = Transfer::new("fetching", name)?;
    let listing = hub
        .files(&repo, &Selection::Dataset, &|event| transfer.event(event))
        .map_err(|error| or_a_path(name, error))?;
    let paths: Vec<String> = listing.files.iter().map(|file| file.path.clone()).collect();
    let card = Selection::Files(paths.iter().filter(|path| *path == CARD).cloned().collect());
    let dir = hub.snapshot(&repo.at(&listing.commit)?, &card, &|event| transfer.wait(event))?.dir;
    let chosen = spec.choose(&dir, &paths)?;
    for note in &chosen.notes {
        transfer.say(&format!("note: {note}"));
    }

    let (taken, left): (Vec<&RemoteFile>, Vec<&RemoteFile>) =
        listing.files.iter().filter(|file| file.path != CARD).partition(|file| chosen.files.contains(&file.path));
    let bytes = |files: &[&RemoteFile]| size(files.iter().map(|file| file.size).sum());
    let snapshot = hub.snapshot(&repo, &Selection::Files(chosen.files), &|event| transfer.event(event))?;
    if snapshot.fetched > 0 && !left.is_empty() {
        let (count, of) = (taken.len(), taken.len() + left.len());
        transfer.say(&format!(
            "{name}: {count} of {of} files, {}; the other {} are of no use here, {}",
            bytes(&taken),
            left.len(),
            bytes(&left)
        ));
    }
    tracing::info!("{name} is commit {} in {}", snapshot.commit, snapshot.dir.display());
    // Where the branch has moved in between, its files are in another folder.
    Ok(DatasetSpec { path: snapshot.dir.display().to_string(), ..chosen.spec })
}

/// An error that says that there is no path either, where one may have been meant.
fn or_a_path(name: &str, error: HubError) -> anyhow::Error {
    let may_be_a_path = matches!(
        error,
        HubError::RepositoryNotFound { .. } | HubError::NotCached { .. } | HubError::Unreachable { .. }
    );
    if may_be_a_path {
        Fault::input(format!("there is no path `{name}` here, and it can't be had from the Hub")).because(error).into()
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_an_owner_and_is_no_path() {
        for name in ["Qwen/Qwen2.5-0.5B", "trl-lib/Capybara@refs/convert/parquet", "a/b@main"] {
            assert!(is_name(name), "{name}");
        }
        for path in
            ["gpt2", "./a/b", "/a/b", "../b", "~/b", "data/train.jsonl", "a/b/c", "src/commands", "data/*", "a\\b"]
        {
            assert!(!is_name(path), "{path}");
        }
    }
}
