//! A child process with its peak memory.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::workspace;

/// How often the kernel's own high-water mark is read; only growth in the last such moment can be missed.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a finished child left.
pub(crate) struct Measured {
    /// What it printed.
    pub(crate) stdout: String,
    /// Most memory it had resident, in bytes.
    pub(crate) peak_bytes: u64,
}

/// Runs `command` to its end; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Measured> {
    eprintln!("$ {}", workspace::shown(command));
    let shown = workspace::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let mut pipe = child.stdout.take().expect("piped above");
    let reader = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = peak_bytes.max(high_water_mark(&status_file));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(INTERVAL);
    };
    if !status.success() {
        bail!("`{shown}` failed with {status}");
    }
    let stdout = reader.join().expect("reading a pipe does not panic")?;
    Ok(Measured { stdout, peak_bytes })
}

/// `VmHWM` of a process in bytes; 0 once it has ended.
fn high_water_mark(status_file: &str) -> u64 {
    let text = fs::read_to_string(status_file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default();
    kib * 1024
}
