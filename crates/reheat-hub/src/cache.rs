//! The folder that the Python libraries share:
//!
//! ```text
//! hub/models--org--name/blobs/HASH               content, once
//!                      /snapshots/COMMIT/FILE    link to a blob
//!                      /refs/REVISION            the commit that a branch or tag was
//!                      /trees/COMMIT.json        all files of a commit
//!                      /.no_exist/COMMIT/FILE    the commit has no such file (Python asks file by file)
//! hub/.locks/models--org--name/HASH.lock
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::name::is_commit;
use crate::{HubError, RemoteFile, RepoName, listing};

/// One repository's folder in the cache.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &RepoName) -> Self {
        Self { root: cache.join(repo.folder()), locks: cache.join(".locks").join(repo.folder()) }
    }

    /// The same in a folder that is one repository's alone.
    pub(crate) fn in_folder(root: &Path) -> Self {
        Self { root: root.to_owned(), locks: root.join("locks") }
    }

    /// Where blobs are.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.blobs().join(file.digest.hex())
    }

    pub(crate) fn partial(&self, file: &RemoteFile) -> PathBuf {
        self.blobs().join(format!("{}.incomplete", file.digest.hex()))
    }

    pub(crate) fn lock(&self, file: &RemoteFile) -> PathBuf {
        self.locks.join(format!("{}.lock", file.digest.hex()))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where a file of a commit is, or would be.
    pub(crate) fn pointer(&self, commit: &str, file: &RemoteFile) -> PathBuf {
        self.snapshot(commit).join(file.local_path())
    }

    fn tree(&self, commit: &str) -> PathBuf {
        self.root.join("trees").join(format!("{commit}.json"))
    }

    /// The commit that a revision was when it was last fetched.
    pub(crate) fn known_commit(&self, repo: &RepoName) -> Option<String> {
        if let Some(commit) = repo.commit() {
            return Some(commit.to_owned());
        }
        let text = fs::read_to_string(self.root.join("refs").join(repo.revision())).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag.
    pub(crate) fn remember_commit(&self, repo: &RepoName, commit: &str) -> Result<(), HubError> {
        if repo.commit().is_some() || self.known_commit(repo).as_deref() == Some(commit) {
            return Ok(());
        }
        replace(&self.root.join("refs").join(repo.revision()), commit.as_bytes())
    }

    /// The files of a commit, where they were listed before.
    pub(crate) fn known_files(&self, repo: &RepoName, commit: &str) -> Option<Vec<RemoteFile>> {
        listing::read(&self.tree(commit), repo)
    }

    /// Remembers the files of a commit.
    pub(crate) fn remember_files(&self, commit: &str, files: &[RemoteFile]) -> Result<(), HubError> {
        replace(&self.tree(commit), &listing::to_json(files))
    }

    /// Makes the snapshot's file, which is a link to the blob.
    pub(crate) fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let pointer = self.pointer(commit, file);
        let failed = |source| HubError::Write { path: pointer.clone(), source };
        // A link that leads nowhere does not exist to `exists`.
        if pointer.exists() {
            return Ok(());
        }
        if let Some(parent) = pointer.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let up = "../".repeat(file.path.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", file.digest.hex()));
        match symlink(&target, &pointer) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&pointer).and_then(|()| symlink(&target, &pointer)).map_err(failed)
            }
            // No links here, as on Windows without developer mode: a copy.
            Err(_) => fs::copy(self.blob(file), &pointer).map(drop).map_err(failed),
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Tells backup tools that the folder can be made again (<https://bford.info/cachedir/>).
pub(crate) fn tag(cache: &Path) -> Result<(), HubError> {
    let path = cache.join("CACHEDIR.TAG");
    if path.exists() {
        return Ok(());
    }
    replace(&path, b"Signature: 8a477f597d28d172789f06886806bc55\n# Files of the Hugging Face Hub.\n")
}

/// Writes a small file whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), HubError> {
    let failed = |source| HubError::Write { path: path.to_owned(), source };
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    #[cfg(unix)]
    {
        // Temporary files are private; the cache may be shared.
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
