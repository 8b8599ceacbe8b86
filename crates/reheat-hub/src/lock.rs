//! One process at a time for one file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::http::tell;
use crate::{Event, HubError, Progress};

/// Between two attempts to get a lock.
const TICK: Duration = Duration::from_millis(100);
/// How long a wait stays unmentioned.
const QUIET: Duration = Duration::from_secs(1);

/// A lock that is held until it is dropped: `flock` on Unix, as the Python libraries' `filelock`.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// If the file can't be made, or the caller says stop.
    pub(crate) fn acquire(path: &Path, what: &str, progress: &Progress) -> Result<Self, HubError> {
        let failed = |source| HubError::Write { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let start = Instant::now();
        let mut mentioned = false;
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
            match file.try_lock() {
                // `filelock` may remove the file when it lets go: then another one has this name now.
                Ok(()) if is_at(&file, path) => return Ok(Self { _file: file }),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                // A file system without locks: the worst that can happen is that a file is fetched twice.
                Err(TryLockError::Error(error)) => {
                    tracing::debug!("no lock on {}: {error}", path.display());
                    return Ok(Self { _file: file });
                }
            }
            if !mentioned && start.elapsed() > QUIET {
                mentioned = true;
                tell(&Event::Waiting { reason: format!("another process fetches {what}"), time: None }, progress)?;
            }
            std::thread::sleep(TICK);
            tell(&Event::Bytes(0), progress)?;
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => identity(ours) == identity(named),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true // an open file can't be removed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Flow;

    #[test]
    fn one_holds_the_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/a.lock");
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _lock = Lock::acquire(&path, "a", &|_| Flow::Continue).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
    }

    #[test]
    fn a_wait_ends_when_the_caller_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let _held = Lock::acquire(&path, "a", &|_| Flow::Continue).unwrap();
        assert!(matches!(Lock::acquire(&path, "a", &|_| Flow::Stop), Err(HubError::Stopped)));
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_on_a_removed_file_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        File::create(&path).unwrap();
        assert!(!is_at(&file, &path));
    }
}
