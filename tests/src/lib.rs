//! What the end-to-end and parity tests share: where fixtures and golden values are, and how numbers are compared.

mod golden;
mod hub_server;
mod python;
mod trajectory;

use std::path::{Path, PathBuf};

pub use self::{
    golden::{assert_close, floats, for_random_runs, golden, ids},
    hub_server::{Access, Fault, HubServer, Repository, Seen},
    python::reference_python,
    trajectory::{assert_probe, assert_trajectory, is_of_the_loop, training_config},
};

/// The workspace's root directory.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().expect("the tests lie in the workspace").to_owned()
}

/// A file or folder under `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    workspace_root().join("tests/fixtures").join(name)
}
