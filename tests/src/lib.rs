//! What the end-to-end and parity tests share: where fixtures and golden values are.

use std::path::{Path, PathBuf};

/// The workspace's root directory.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().expect("the tests lie in the workspace").to_owned()
}
