//! The dashboard in a pseudo-terminal: what is on it, and how runs end from it.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Longest wait for something to appear.
const PATIENCE: Duration = Duration::from_secs(60);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Steps for hours.
const ENDLESS: &str = "1000000";

fn sft(output_dir: &Path, steps: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reheat"));
    command.arg("sft").arg("--model").arg(fixtures().join("tied-grouped"));
    command.arg("--dataset").arg(fixtures().join("conversations.jsonl"));
    command.args(["--max-steps", steps, "--per-device-train-batch-size", "1", "--logging-steps", "1"]);
    command.arg("--output-dir").arg(output_dir).arg("--tui");
    command
}

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    /// Everything that was written to it.
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let side = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(side()).stdout(side()).stderr(Stdio::piped()).spawn().unwrap();
        let keys = File::from(pty.master);
        let (mut screen, written) = (keys.try_clone().unwrap(), Arc::default());
        let into = Arc::clone(&written);
        // Keeps the other side open, so that its mode can be asked for when the program has ended.
        let slave = pty.slave;
        thread::spawn(move || {
            let _open = slave;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                let into: &Mutex<Vec<u8>> = &into;
                into.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self { child, keys, written }
    }

    fn has_written(&self, text: &str) -> bool {
        self.written.lock().unwrap().windows(text.len()).any(|part| part == text.as_bytes())
    }

    fn wait_for(&self, text: &str) {
        let started = Instant::now();
        while !self.has_written(text) {
            assert!(started.elapsed() < PATIENCE, "`{text}` never appeared");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, key: char) {
        write!(self.keys, "{key}").unwrap();
    }

    /// How it ended, and its stderr.
    fn end(mut self) -> (ExitStatus, String) {
        let mut talk = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
        let status = self.child.wait().unwrap();
        // The terminal is as it was: lines, echo, the ordinary screen, a cursor.
        let mode = tcgetattr(&self.keys).unwrap().local_flags;
        assert!(mode.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG), "{mode:?}");
        self.wait_for("\x1b[?1049l");
        self.wait_for("\x1b[?25h");
        (status, talk)
    }
}

fn checkpoints(output_dir: &Path) -> usize {
    let entries = std::fs::read_dir(output_dir).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("checkpoint-")).count()
}

#[test]
fn the_stop_key_saves_as_an_interrupt_does() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut terminal = Terminal::start(sft(&dir, ENDLESS));
    for text in ["\x1b[?1049h", "Plots", "loss", "grad_norm", "tokens per second", "Train"] {
        terminal.wait_for(text);
    }
    terminal.press('q');
    terminal.wait_for("Cancel");
    terminal.press('s');
    let (status, talk) = terminal.end();
    assert_eq!(status.code(), Some(130), "{talk}");
    assert!(talk.contains("the checkpoint is saved"), "{talk}");
    assert!(!talk.contains("panicked") && !talk.contains("left"), "a bar under the dashboard: {talk}");
    assert_eq!(checkpoints(&dir), 1);
}

#[test]
fn the_kill_key_leaves_at_once_and_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut terminal = Terminal::start(sft(&dir, ENDLESS));
    terminal.wait_for("grad_norm");
    terminal.press('q');
    terminal.wait_for("Cancel");
    terminal.press('k');
    let (status, talk) = terminal.end();
    assert_eq!(status.code(), Some(130), "{talk}");
    assert!(talk.contains("killed") && !talk.contains("internal fault"), "{talk}");
    assert_eq!(checkpoints(&dir), 0);
}

#[test]
fn a_signal_saves_and_gives_the_terminal_back() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let terminal = Terminal::start(sft(&dir, ENDLESS));
    terminal.wait_for("grad_norm");
    let signal = Command::new("kill").args(["-INT", &terminal.child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let (status, talk) = terminal.end();
    assert_eq!(status.code(), Some(130), "{talk}");
    assert_eq!(checkpoints(&dir), 1);
}

#[test]
fn without_a_terminal_there_are_plain_lines_and_a_word_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = sft(&folder.path().join("run"), "2").stdin(Stdio::null()).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}");
    assert!(talk.contains("note: --tui needs a terminal") && talk.contains("step 2/2"), "{talk}");
}
