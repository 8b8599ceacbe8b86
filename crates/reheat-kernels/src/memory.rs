//! Settings of the allocator, and files mapped into memory.

use std::ffi::{c_int, c_long};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use libmimalloc_sys::mi_option_set;

/// `mi_option_allow_large_os_pages` of mimalloc 2 and 3 (`mi_option_e` in `mimalloc.h`).
const ALLOW_LARGE_OS_PAGES: c_int = 6;
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: c_int = 15;
/// Never return freed pages.
const NEVER: c_long = -1;

/// Lets mimalloc keep freed pages instead of returning them to the system, and ask for large ones.
///
/// A training step frees and takes the same gigabytes over and over; page faults cost more than the work on them.
/// Has an effect only in a program whose global allocator is mimalloc. Call it first thing in `main`.
pub fn keep_pages() {
    // SAFETY: setting an option is a store into mimalloc's own table, valid at any time and from any thread.
    unsafe {
        mi_option_set(PURGE_DELAY, NEVER);
        mi_option_set(ALLOW_LARGE_OS_PAGES, 1);
    }
}

/// A file mapped for reading.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file.
    ///
    /// A file that another process shortens while it is mapped ends this one with SIGBUS, as with any mapped checkpoint.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only; checkpoints are replaced by rename, never written in place.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
