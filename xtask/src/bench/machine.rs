//! What numbers were measured on: without it they mean nothing.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::workspace;

/// The machine and the code.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: f64,
    /// Load average of the last minute before the run: far above 0, the numbers are of a busy machine.
    load_before: f64,
    commit: String,
    /// Whether the tree had changes that are in no commit.
    modified: bool,
}

impl Machine {
    /// Looks around; what cannot be found out is empty or 0.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        let load = read("/proc/loadavg");
        let git = |args: &[&str]| {
            let output = Command::new("git").current_dir(workspace::root()).args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            load_before: load.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default(),
            commit: git(&["rev-parse", "--short=12", "HEAD"]),
            modified: !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} cores, {} GiB, load {} before the run; commit {}{}",
            self.cpu,
            self.cores,
            self.memory_gib,
            self.load_before,
            self.commit,
            if self.modified { " with changes" } else { "" }
        )
    }
}
