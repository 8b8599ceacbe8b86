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

/// Reads the next message or command; `None` at the end. `prompt` is called before each line, with whether the line
/// goes on with a message.
///
/// A line that ends in a backslash goes on in the next one, and lines between two of `"""` are one message.
pub(super) fn read(lines: &mut impl BufRead, prompt: &mut dyn FnMut(bool)) -> io::Result<Option<Input>> {
    loop {
        prompt(false);
        let Some(first) = read_line(lines)? else { return Ok(None) };
        let message = match first.trim_start().strip_prefix(BLOCK) {
            Some(rest) => read_block(rest, lines, prompt)?,
            None if first.trim_start().starts_with('/') => {
                let line = first.trim();
                let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                return Ok(Some(Input::Command { name: name.into(), rest: rest.trim().into() }));
            }
            None => read_continued(first, lines, prompt)?,
        };
        if !message.trim().is_empty() {
            return Ok(Some(Input::Message(message.trim().to_owned())));
        }
    }
}

fn read_block(first: &str, lines: &mut impl BufRead, prompt: &mut dyn FnMut(bool)) -> io::Result<String> {
    let mut message = first.to_owned();
    loop {
        if let Some(text) = message.trim_end().strip_suffix(BLOCK) {
            return Ok(text.to_owned());
        }
        prompt(true);
        match read_line(lines)? {
            Some(line) => {
                message.push('\n');
                message.push_str(&line);
            }
            None => return Ok(message),
        }
    }
}

fn read_continued(first: String, lines: &mut impl BufRead, prompt: &mut dyn FnMut(bool)) -> io::Result<String> {
    let mut message = first;
    while let Some(start) = message.strip_suffix('\\') {
        prompt(true);
        let start = start.to_owned();
        match read_line(lines)? {
            Some(line) => message = format!("{start}\n{line}"),
            None => return Ok(start),
        }
    }
    Ok(message)
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
        std::iter::from_fn(|| read(&mut lines, &mut |_| ()).unwrap()).collect()
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
    fn a_slash_begins_a_command() {
        let command = |name: &str, rest: &str| Input::Command { name: name.into(), rest: rest.into() };
        assert_eq!(all("/reset\n/system  Be brief. "), [command("/reset", ""), command("/system", "Be brief.")]);
    }
}
