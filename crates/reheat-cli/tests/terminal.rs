//! `chat` on a pseudo-terminal, as a person has it: arrow keys, Ctrl-C, Ctrl-D, what is remembered.
//!
//! `script` of util-linux makes the terminal; where it is missing, the test says so and passes.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const UP: &str = "\u{1b}[A";
const HOME: &str = "\u{1}";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const ENTER: &str = "\r";
const PROMPT: &str = "› ";

/// A program on a terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// What was shown and not yet expected.
    shown: Vec<u8>,
}

impl Terminal {
    fn start(folder: &Path, command: &str) -> Self {
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &format!("exec {command}"), "/dev/null"])
            .current_dir(folder)
            .env("XDG_STATE_HOME", folder.join("state"))
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keys: child.stdin.take().unwrap(), child, screen, shown: Vec::new() }
    }

    fn press(&mut self, keys: &[&str]) {
        self.keys.write_all(keys.concat().as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until the screen shows a text that it did not show at the last wait.
    fn wait_for(&mut self, text: &str) {
        loop {
            let found = self.shown.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                self.shown.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(Duration::from_secs(120)) {
                Ok(more) => self.shown.extend(more),
                Err(_) => panic!("`{text}` never comes after: {}", String::from_utf8_lossy(&self.shown)),
            }
        }
    }

    fn end(mut self) -> Option<i32> {
        drop(self.keys);
        self.child.wait().unwrap().code()
    }
}

/// A model that says nothing but `a`, and would do so for minutes.
fn talkative(folder: &Path) -> String {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped");
    for entry in fs::read_dir(fixture).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 200000");
    fs::write(folder.join("config.json"), config).unwrap();
    let tokenized = Command::new(env!("CARGO_BIN_EXE_reheat"))
        .args(["tokenize", "--json", "a", "--model"])
        .arg(folder)
        .output()
        .unwrap();
    let a = serde_json::from_slice::<Value>(&tokenized.stdout).unwrap()["ids"][0].clone();
    let binary = env!("CARGO_BIN_EXE_reheat");
    format!("'{binary}' chat --model . --max-new-tokens 150000 --logit-bias {a}=1000")
}

/// The conversation that was saved last, as role and content.
fn saved(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let row: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let of = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
    row["messages"].as_array().unwrap().iter().map(|message| (of(message, "role"), of(message, "content"))).collect()
}

#[test]
fn a_chat_on_a_terminal_is_edited_interrupted_and_remembered() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script`");
        return;
    }
    let folder = TempDir::new().unwrap();
    let chat = talkative(folder.path());
    let mut terminal = Terminal::start(folder.path(), &chat);
    terminal.wait_for(PROMPT);
    terminal.press(&["Hello", ENTER]);
    terminal.wait_for("aaaa");
    terminal.press(&[CTRL_C]);
    // The answer ends, and the program goes on.
    terminal.wait_for(PROMPT);
    terminal.press(&[UP, HOME, "Oh! ", ENTER]);
    terminal.wait_for("aaaa");
    terminal.press(&[CTRL_C]);
    terminal.wait_for(PROMPT);
    terminal.press(&["never said", CTRL_C]);
    terminal.wait_for("Ctrl-D ends the chat");
    terminal.wait_for(PROMPT);
    terminal.press(&["two\\", ENTER, "lines", ENTER]);
    terminal.wait_for("aaaa");
    terminal.press(&[CTRL_C]);
    terminal.wait_for(PROMPT);
    terminal.press(&["/sa\t saved.jsonl", ENTER]);
    terminal.wait_for("added to saved.jsonl");
    terminal.wait_for(PROMPT);
    terminal.press(&["/nonsense", ENTER]);
    terminal.wait_for("is no command");
    terminal.wait_for(PROMPT);
    terminal.press(&[" /save secret.jsonl", ENTER]);
    terminal.wait_for("added to secret.jsonl");
    terminal.wait_for(PROMPT);
    terminal.press(&[CTRL_D]);
    assert_eq!(terminal.end(), Some(0));

    let messages = saved(&folder.path().join("saved.jsonl"));
    let asked: Vec<&str> = messages.iter().step_by(2).map(|(_, content)| content.as_str()).collect();
    assert_eq!(asked, ["Hello", "Oh! Hello", "two\nlines"]);
    for (role, answer) in messages.iter().skip(1).step_by(2) {
        assert!(role == "assistant" && answer.starts_with("aaaa") && answer.len() < 150_000, "{}", answer.len());
    }

    // The next chat knows what was typed, but for what began with a space.
    let history = folder.path().join("state/reheat/chat_history");
    assert_eq!(fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(&history).unwrap();
    assert!(kept.contains("Oh! Hello") && !kept.contains("secret"), "{kept}");
    let mut terminal = Terminal::start(folder.path(), &chat);
    terminal.wait_for(PROMPT);
    terminal.press(&[UP, UP, ENTER]);
    terminal.wait_for("added to saved.jsonl");
    terminal.press(&[CTRL_D]);
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(saved(&folder.path().join("saved.jsonl")), []);

    let before = fs::read(&history).unwrap();
    let mut terminal = Terminal::start(folder.path(), &format!("{chat} --no-history"));
    terminal.wait_for(PROMPT);
    terminal.press(&[UP, "/save new.jsonl", ENTER]);
    terminal.wait_for("added to new.jsonl");
    terminal.press(&[CTRL_D]);
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(fs::read(&history).unwrap(), before);
}
