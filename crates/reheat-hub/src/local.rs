//! A folder of the user's own instead of the cache, with the notes that `huggingface_hub` keeps there too
//! (`.cache/huggingface/download/FILE.metadata`, `_local_folder.py`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cache::replace;
use crate::snapshot::Places;
use crate::{HubError, RemoteFile};

/// A folder that gets a commit's files.
#[derive(Debug)]
pub(crate) struct LocalFolder<'a> {
    root: &'a Path,
    commit: &'a str,
}

impl<'a> LocalFolder<'a> {
    pub(crate) fn new(root: &'a Path, commit: &'a str) -> Self {
        Self { root, commit }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root
    }

    fn target(&self, file: &RemoteFile) -> PathBuf {
        self.root.join(file.local_path())
    }

    /// `.cache/huggingface/download/FILE.SUFFIX`
    fn note(&self, file: &RemoteFile, suffix: &str) -> PathBuf {
        self.root.join(".cache/huggingface/download").join(format!("{}.{suffix}", file.path))
    }

    /// Whether the file is there with the content that it must have; a file of the user's is hashed, not believed.
    pub(crate) fn holds(&self, file: &RemoteFile) -> bool {
        let same_size = fs::metadata(self.target(file)).is_ok_and(|metadata| metadata.len() == file.size);
        if !same_size {
            return false;
        }
        let mut hasher = file.digest.hasher(file.size);
        let read = File::open(self.target(file)).and_then(|content| hasher.update_from(content));
        read.is_ok() && hasher.finish() == file.digest.hex()
    }

    pub(crate) fn places_of(&self, file: &RemoteFile) -> Places {
        Places {
            lock: self.note(file, "lock"),
            partial: self.note(file, &format!("{}.incomplete", file.digest.hex())),
            target: self.target(file),
        }
    }

    /// Notes what the file is, so that the Python library need not fetch it again.
    pub(crate) fn remember(&self, file: &RemoteFile) -> Result<(), HubError> {
        let notes = self.root.join(".cache/huggingface");
        replace(&notes.join(".gitignore"), b"*")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let text = format!("{}\n{}\n{now}\n", self.commit, file.digest.hex());
        replace(&self.note(file, "metadata"), text.as_bytes())
    }
}
