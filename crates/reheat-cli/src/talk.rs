//! Talk on stderr, held back while a dashboard has the screen.

use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is held back; `None` where talk goes straight to stderr.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Prints a line, now or when the screen is free.
pub(crate) fn say(line: &str) {
    // Printing fails only where nobody reads.
    let _ = Talk.write_all(format!("{line}\n").as_bytes());
}

/// Holds talk back from now on.
pub(crate) fn hold() {
    held().get_or_insert_default();
}

/// Prints what was held back, and holds nothing any more.
pub(crate) fn release() {
    if let Some(text) = held().take() {
        let _ = io::stderr().write_all(&text);
    }
}

/// A writer of talk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk;

impl io::Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match held().as_mut() {
            Some(text) => text.write(bytes),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    // Bytes stay bytes, whoever panicked while holding them.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}
