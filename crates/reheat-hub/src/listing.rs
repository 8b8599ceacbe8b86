//! The files of a commit. A commit never changes, so neither does its list: it is kept in the cache, in the file and
//! form of `huggingface_hub` (`trees/COMMIT.json`, 2.4).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::{HubError, RepoName};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it is in the repository, with `/` between folders.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    pub(crate) digest: Digest,
    /// The git blob, which for a large file is its pointer.
    pub(crate) blob_id: String,
    /// Kept for the Python libraries, which may fetch by it.
    pub(crate) xet_hash: Option<String>,
}

impl RemoteFile {
    pub(crate) fn new(
        repo: &RepoName,
        path: String,
        size: u64,
        blob_id: String,
        lfs: Option<(String, u64)>,
        xet_hash: Option<String>,
    ) -> Result<Self, HubError> {
        let (digest, size) = match lfs {
            Some((sha256, size)) => (Digest::Sha256(sha256), size),
            None => (Digest::GitBlob(blob_id.clone()), size),
        };
        if !is_safe(&path) {
            return Err(HubError::UnsafePath { repo: repo.clone(), path });
        }
        // It becomes the name of a file too.
        if !digest.is_well_formed() {
            return Err(HubError::Answer { url: repo.api(), reason: format!("no hash of `{path}`") });
        }
        Ok(Self { path, size, digest, blob_id, xet_hash })
    }

    /// The path on this system, relative to the snapshot.
    pub(crate) fn local_path(&self) -> PathBuf {
        self.path.split('/').collect()
    }
}

/// Whether a path stays in its folder, on every system.
fn is_safe(path: &str) -> bool {
    // Backslashes, colons and NUL mean something on some of them.
    let is_plain =
        |part: &str| matches!(Path::new(part).components().next(), Some(Component::Normal(name)) if name == part);
    !path.contains(['\\', ':', '\0']) && path.split('/').all(is_plain)
}

/// The cached form.
#[derive(Debug, Serialize, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, Entry>,
}

const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

/// The list that an earlier download left, or `None` where there is none that can be used.
pub(crate) fn read(path: &Path, repo: &RepoName) -> Option<Vec<RemoteFile>> {
    let tree: Tree = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if tree.format_version != FORMAT_VERSION {
        return None;
    }
    let file = |(path, entry): (String, Entry)| {
        let lfs = entry.lfs_sha256.map(|sha256| (sha256, entry.lfs_size.unwrap_or(entry.size)));
        RemoteFile::new(repo, path, entry.size, entry.blob_id, lfs, entry.xet_hash)
    };
    tree.files.into_iter().map(file).collect::<Result<_, _>>().ok()
}

/// The text to keep.
pub(crate) fn to_json(files: &[RemoteFile]) -> Vec<u8> {
    let entry = |file: &RemoteFile| {
        let sha256 = match &file.digest {
            Digest::Sha256(hex) => Some(hex.clone()),
            Digest::GitBlob(_) => None,
        };
        Entry {
            size: file.size,
            blob_id: file.blob_id.clone(),
            lfs_size: sha256.as_ref().map(|_| file.size),
            lfs_sha256: sha256,
            xet_hash: file.xet_hash.clone(),
        }
    };
    let files = files.iter().map(|file| (file.path.clone(), entry(file))).collect();
    serde_json::to_vec(&Tree { format_version: FORMAT_VERSION, files }).expect("strings and numbers serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for path in ["a", "a/b.txt", ".gitattributes", "a b/ü.txt", "..a", "data/train-00000-of-00001.parquet"] {
            assert!(is_safe(path), "{path:?}");
        }
        for path in
            ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", "./a", "a/.", "..", "a\\..\\b", "C:a", "a\0b"]
        {
            assert!(!is_safe(path), "{path:?}");
        }
    }

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let repo = RepoName::model("a/b").unwrap();
        let file = |path: &str, lfs| RemoteFile::new(&repo, path.into(), 12, "a".repeat(40), lfs, None).unwrap();
        let files = vec![file("a.json", None), file("b/c.bin", Some(("0f".repeat(32), 99)))];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.json");
        assert_eq!(read(&path, &repo), None);
        fs::write(&path, to_json(&files)).unwrap();
        assert_eq!(read(&path, &repo), Some(files));
        fs::write(&path, r#"{"format_version":1,"files":{"../x":{"size":1,"blob_id":"00"}}}"#).unwrap();
        assert_eq!(read(&path, &repo), None);
    }
}
