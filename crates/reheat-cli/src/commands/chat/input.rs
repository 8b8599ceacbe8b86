//! What a person types: messages of one line or several, and commands.

use std::io::{self, BufRead};

/// One thing that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// To be answered.
    Message(String),
    /// `/name rest of the line`
    Command { name: String, rest: String },
}

/// What marks the first and the last line of a long message.
const BLOCK: &str = "\"\"\"";

impl Input {
    /// What a text is; `None` where it says nothing.
    ///
    /// A line that begins with a slash is a command. Lines between two of `"""` are a message as they stand; elsewhere a
    /// backslash before a line break belongs to the break.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.starts_with('/') && !text.contains('\n') {
            let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            return Some(Self::Command { name: name.into(), rest: rest.trim().into() });
        }
        let message = match text.strip_prefix(BLOCK) {
            Some(block) => block.strip_suffix(BLOCK).unwrap_or(block).to_owned(),
            None => text.strip_suffix('\\').unwrap_or(text).replace("\\\n", "\n"),
        };
        let message = message.trim();
        (!message.is_empty()).then(|| Self::Message(message.to_owned()))
    }
}

/// Whether a message ends here, and does not go on in the next line.
pub(super) fn is_complete(text: &str) -> bool {
    match text.trim().strip_prefix(BLOCK) {
        Some(block) => block.ends_with(BLOCK),
        None => !text.ends_with('\\'),
    }
}

/// Reads the next message or command from lines of a pipe; `None` at the end.
pub(super) fn read(lines: &mut impl BufRead) -> io::Result<Option<Input>> {
    loop {
        let Some(mut text) = read_line(lines)? else { return Ok(None) };
        while !is_complete(&text) {
            let Some(line) = read_line(lines)? else { break };
            text.push('\n');
            text.push_str(&line);
        }
        if let Some(input) = Input::of(&text) {
            return Ok(Some(input));
        }
    }
}

/// A line without its end.
fn read_line(lines: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Input> {
        let mut lines = text.as_bytes();
        std::iter::from_fn(|| read(&mut lines).unwrap()).collect()
    }

    fn message(text: &str) -> Input {
        Input::Message(text.into())
    }

    #[test]
    fn lines_blocks_and_continued_lines_are_messages() {
        assert_eq!(all("one\n\n  two\r\n"), [message("one"), message("two")]);
        assert_eq!(all("a\\\nb\\\nc\nd"), [message("a\nb\nc"), message("d")]);
        assert_eq!(all("\"\"\"a\n\n/b\nc\"\"\"\nd"), [message("a\n\n/b\nc"), message("d")]);
        assert_eq!(all("\"\"\"one\"\"\""), [message("one")]);
        assert_eq!(all("\"\"\"never\nclosed"), [message("never\nclosed")]);
    }

    #[test]
    fn a_block_stays_as_it_was_typed() {
        assert_eq!(all("\"\"\"\nls \\\n  -l\n\"\"\"\n"), [message("ls \\\n  -l")]);
        assert_eq!(all("\"\"\"\nnever\n\nclosed"), [message("never\n\nclosed")]);
        assert_eq!(all("\"\"\"\"\"\"\na\\"), [message("a")]);
    }

    #[test]
    fn a_pasted_text_is_one_message() {
        assert_eq!(Input::of("/etc/hosts\nwhat is it?"), Some(message("/etc/hosts\nwhat is it?")));
        assert_eq!(Input::of(" \n "), None);
    }

    #[test]
    fn a_slash_begins_a_command() {
        let command = |name: &str, rest: &str| Input::Command { name: name.into(), rest: rest.into() };
        assert_eq!(all("/reset\n/system  Be brief. "), [command("/reset", ""), command("/system", "Be brief.")]);
    }
}
