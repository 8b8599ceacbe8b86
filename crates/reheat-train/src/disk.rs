//! File operations of a save, each lasting before the next begins.
//!
//! A crash may fall between any two of them; tests stop a save at each (`crash_after`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::TrainError;

/// The error of an operation on `path`.
pub(crate) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::Write { path, source }
}

/// Makes a directory and those above it.
pub(crate) fn create_dir(path: &Path) -> Result<(), TrainError> {
    boundary().and_then(|()| fs::create_dir_all(path)).map_err(write_error(path))
}

/// Writes a whole file; it lasts only after [`sync`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    boundary().and_then(|()| fs::write(path, bytes)).map_err(write_error(path))
}

/// Copies a file; the copy lasts only after [`sync`].
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), TrainError> {
    boundary().and_then(|()| fs::copy(from, to)).map(drop).map_err(write_error(to))
}

/// Waits until a file, or the names in a directory, are on the disk.
pub(crate) fn sync(path: &Path) -> Result<(), TrainError> {
    boundary().and_then(|()| File::open(path)).and_then(|file| file.sync_all()).map_err(write_error(path))
}

/// Gives a file or directory another name, at once; another file of that name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), TrainError> {
    boundary().and_then(|()| fs::rename(from, to)).map_err(write_error(to))
}

/// Removes a directory with all that is in it, where there is one.
pub(crate) fn remove_dir(path: &Path) -> Result<(), TrainError> {
    match boundary().and_then(|()| fs::remove_dir_all(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path)(error)),
        _ => Ok(()),
    }
}

/// Replaces a small file so that it is the old one or the new one at any moment, and lasts.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.unfinished"));
    let write = || {
        boundary()?;
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(write_error(path))?;
    rename(&unfinished, path)
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "tests put a crash here")]
fn boundary() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use crash::{boundary, crash_after, revive};

/// What a test sees of a machine that stops: one operation fails, and so does every later one.
#[cfg(test)]
mod crash {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Lets `operations` more operations of this thread succeed, and no more.
    pub(crate) fn crash_after(operations: usize) {
        LEFT.set(Some(operations));
    }

    /// Lets every operation succeed again.
    pub(crate) fn revive() {
        LEFT.set(None);
    }

    pub(crate) fn boundary() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the machine has stopped")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
