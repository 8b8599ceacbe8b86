//! Commits, files, accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{Fault, Seen};

/// Files from this size on are large, as are all with these ends.
const LARGE_BYTES: usize = 1 << 20;
const LARGE: [&str; 3] = [".safetensors", ".parquet", ".bin"];

/// Who may read a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    #[default]
    Public,
    /// Its owner.
    Private,
    /// Those who accepted its conditions.
    Gated(BTreeSet<String>),
}

/// A repository: its commits by hash, and which commit a branch is.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// Who may read it.
    pub access: Access,
    /// Commits by branch or tag.
    pub refs: BTreeMap<String, String>,
    pub(super) commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Messages of the commits, oldest first.
    pub messages: Vec<String>,
}

impl Repository {
    /// One commit on `main` with these files.
    pub fn new<C: Into<Vec<u8>>>(files: impl IntoIterator<Item = (&'static str, C)>) -> Self {
        let mut repository = Self::default();
        let files = files.into_iter().map(|(path, content)| (path.to_owned(), content.into())).collect();
        repository.commit("main", files, "initial commit");
        repository
    }

    /// The same for fewer people.
    #[must_use]
    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Puts files on top of a branch.
    pub fn commit(&mut self, branch: &str, files: BTreeMap<String, Vec<u8>>, message: &str) -> String {
        let mut all = self.files(branch).cloned().unwrap_or_default();
        all.extend(files);
        let mut hasher = Sha1::new();
        hasher.update(format!("{}", self.messages.len()));
        for (path, content) in &all {
            hasher.update(path);
            hasher.update(content);
        }
        let commit = hex(&hasher.finalize());
        self.commits.insert(commit.clone(), all);
        self.refs.insert(branch.to_owned(), commit.clone());
        self.messages.push(message.to_owned());
        commit
    }

    /// The commit of a branch, tag or commit.
    pub fn resolve(&self, revision: &str) -> Option<String> {
        let is_commit = self.commits.contains_key(revision);
        if is_commit { Some(revision.to_owned()) } else { self.refs.get(revision).cloned() }
    }

    /// The files at a revision.
    pub fn files(&self, revision: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.commits.get(&self.resolve(revision)?)
    }
}

/// Everything the server knows.
#[derive(Debug)]
pub(super) struct State {
    pub(super) hub: String,
    pub(super) storage: String,
    /// Names by token.
    pub(super) accounts: BTreeMap<String, String>,
    /// By `models/owner/name`.
    pub(super) repositories: BTreeMap<String, Repository>,
    /// What was uploaded to storage, by SHA-256.
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// Parts that wait for their completion, by SHA-256 and number.
    pub(super) parts: BTreeMap<(String, usize), Vec<u8>>,
    pub(super) faults: Vec<(String, usize, Fault)>,
    pub(super) seen: Vec<Seen>,
    pub(super) part_size: usize,
    pub(super) page_size: usize,
}

impl State {
    pub(super) fn new(hub: String, storage: String) -> Self {
        Self {
            hub,
            storage,
            accounts: BTreeMap::new(),
            repositories: BTreeMap::new(),
            objects: BTreeMap::new(),
            parts: BTreeMap::new(),
            faults: Vec::new(),
            seen: Vec::new(),
            part_size: usize::MAX,
            page_size: 1000,
        }
    }

    /// The fault that is due for a request.
    pub(super) fn fault(&mut self, target: &str) -> Option<Fault> {
        let (_, times, fault) =
            self.faults.iter_mut().find(|(path, times, _)| *times > 0 && target.contains(path.as_str()))?;
        *times -= 1;
        Some(fault.clone())
    }

    /// Content of a large file, wherever it is.
    pub(super) fn object(&self, oid: &str) -> Option<Vec<u8>> {
        if let Some(content) = self.objects.get(oid) {
            return Some(content.clone());
        }
        let commits = self.repositories.values().flat_map(|repository| repository.commits.values());
        commits.flat_map(BTreeMap::values).find(|content| sha256(content) == oid).cloned()
    }
}

/// Whether a file goes to storage.
pub(super) fn is_large(path: &str, size: usize) -> bool {
    // Nothing is never large.
    size > 0 && (size >= LARGE_BYTES || LARGE.iter().any(|end| path.ends_with(end)))
}

pub(super) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// The name that git gives a content.
pub(super) fn git_blob(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}
