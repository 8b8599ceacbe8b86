//! One run of a program: lines in, lines out, and never a wait without an end.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{ProgramFault, Talk};

/// Lines of standard error that an error shows.
const LAST_WORDS: usize = 8;

/// Longest line that is read: numbers for a million completions.
const MAX_LINE_BYTES: u64 = 32 << 20;

/// Characters of a wrong line that an error shows.
const SHOWN: usize = 120;

/// How long a program whose input is closed may take to end by itself, and what is left in its pipes to arrive.
const GRACE: Duration = Duration::from_millis(300);

/// How often a process that should end is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A running program.
///
/// Each pipe has a thread of its own, so that a program that neither reads nor writes cannot hold up training.
pub(super) struct Process {
    child: Child,
    /// Dropped to close the program's input.
    questions: Option<Sender<String>>,
    answers: Receiver<String>,
    listener: JoinHandle<()>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    pub(super) fn start(command: &str, talk: Talk) -> io::Result<Self> {
        let mut child = shell(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let (questions, asked) = mpsc::channel::<String>();
        thread::spawn(move || {
            // A program that is gone is noticed where its answer is missing.
            while let Ok(question) = asked.recv()
                && stdin.write_all(question.as_bytes()).and_then(|()| stdin.flush()).is_ok()
            {}
        });
        let (answered, answers) = mpsc::channel();
        thread::spawn(move || read_lines(stdout, |line| answered.send(line).is_ok()));
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let words = Arc::clone(&last_words);
        let listener = thread::spawn(move || {
            read_lines(stderr, |line| {
                talk(&line);
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                words.push_back(start_of(&line));
                if words.len() > LAST_WORDS {
                    words.pop_front();
                }
                true
            });
        });
        Ok(Self { child, questions: Some(questions), answers, listener, last_words })
    }

    /// Sends one line and gives the one that comes back.
    pub(super) fn ask(&mut self, question: &str, timeout: Duration) -> Result<String, ProgramFault> {
        match self.answers.try_recv() {
            Ok(line) => return Err(ProgramFault::Unasked { line: start_of(&line) }),
            Err(TryRecvError::Disconnected) => return Err(ProgramFault::Ended(self.status())),
            Err(TryRecvError::Empty) => {}
        }
        if let Some(questions) = &self.questions {
            // Fails only where the program is gone, as is found next.
            let _ = questions.send(format!("{question}\n"));
        }
        match self.answers.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => Err(ProgramFault::Silent { timeout_secs: timeout.as_secs() }),
            Err(RecvTimeoutError::Disconnected) => Err(ProgramFault::Ended(self.status())),
        }
    }

    /// How it ended, if it does within the time for that.
    fn status(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + GRACE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(POLL),
                _ => return None,
            }
        }
    }

    /// Its last lines on standard error. Ends the program.
    pub(super) fn last_words(mut self) -> Vec<String> {
        self.kill();
        let until = Instant::now() + GRACE;
        while !self.listener.is_finished() && Instant::now() < until {
            thread::sleep(POLL);
        }
        let mut words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        words.drain(..).collect()
    }

    /// Ends the program and what it has started.
    pub(super) fn kill(&mut self) {
        self.questions = None;
        kill_group(&mut self.child);
        // Gone already, or killed just now: either way this leaves no zombie.
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    /// The end of its input tells a program to end; one that doesn't is killed.
    fn drop(&mut self) {
        self.questions = None;
        if self.status().is_none() {
            self.kill();
        }
    }
}

/// Calls `take` for each line until it refuses or there are no more. A line that is too long is cut in two.
fn read_lines(source: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut source = BufReader::new(source);
    loop {
        let mut line = Vec::new();
        let read = source.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        match read {
            Ok(1..) => {
                let text = String::from_utf8_lossy(&line);
                if !take(text.trim_end_matches(['\n', '\r']).to_owned()) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// The start of a line, for a message.
pub(crate) fn start_of(line: &str) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("sh");
    // A group of its own: an interrupt from the terminal is for training, which ends the program when it is done.
    shell.arg("-c").arg(command).process_group(0);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command);
    shell
}

#[cfg(unix)]
fn kill_group(child: &mut Child) {
    // Not after it was waited for: then its number may be another's.
    if matches!(child.try_wait(), Ok(None))
        && let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill_group(child: &mut Child) {
    let _ = child.kill();
}
