//! The shared data: real templates and reference renderings.

use std::path::{Path, PathBuf};

/// A folder of the shared data; `None`, with a word, where it isn't there.
pub(crate) fn folder(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {}", path.display());
    None
}
