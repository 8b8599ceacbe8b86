//! The Python environment that holds the reference implementations.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::workspace;

/// The environment's Python; makes the environment, or mends it, where the pinned versions are not installed.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    let dir = workspace::target_dir().join("venv");
    let python = dir.join("bin/python");
    if is_complete(&python)? {
        return Ok(python);
    }
    eprintln!("setting up {}: a few gigabytes the first time", dir.display());
    if !python.exists() {
        workspace::run(Command::new("python3").args(["-m", "venv"]).arg(&dir))
            .context("python3 with its `venv` module is needed for the reference implementations")?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    workspace::run(Command::new(&python).args(pip).arg(requirements()))?;
    Ok(python)
}

/// A command that runs `script`, relative to the workspace's root, in the environment.
pub(crate) fn script(script: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(python()?);
    command.arg(workspace::root().join(script)).env("HF_HUB_OFFLINE", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn requirements() -> PathBuf {
    workspace::root().join("tests/golden/requirements.txt")
}

/// Whether every pinned package is there in its version.
fn is_complete(python: &std::path::Path) -> anyhow::Result<bool> {
    let path = requirements();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let pins: Vec<_> = text.lines().filter(|line| line.contains("==")).collect();
    // A build of torch for some card calls itself `2.15.0+cu132`; what stands after the plus does not count.
    let program = "import sys, importlib.metadata as m\n\
        for pin in sys.argv[1:]:\n    \
        name, version = pin.split('==')\n    \
        assert m.version(name).split('+')[0] == version, name";
    let status = Command::new(python).args(["-c", program]).args(pins).stderr(Stdio::null()).status();
    Ok(status.is_ok_and(|status| status.success()))
}
