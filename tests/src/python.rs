//! Finding a Python that has the reference implementations.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::workspace_root;

/// A Python that can import transformers: `$REHEAT_PYTHON`, or the environment that `cargo xtask golden` sets up.
///
/// Prints that the test is skipped where there is none.
#[must_use]
pub fn reference_python() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let python = std::env::var_os("REHEAT_PYTHON")
        .map_or_else(|| workspace_root().join(target).join("venv/bin/python"), PathBuf::from);
    let import = Command::new(&python).args(["-c", "import transformers"]).stderr(Stdio::null()).status();
    if import.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    eprintln!("skipped: no Python with transformers; `cargo xtask golden --setup-only` makes one");
    None
}
