//! stdout: the result of a command, for a person or as JSON.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

/// `--json`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// Print the result as JSON on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Buffered stdout. Write errors are returned, so that a closed pipe ends the program quietly.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// Prints one JSON document on one line.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = stdout();
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Columns of the terminal that stderr is, or 80.
pub(crate) fn stderr_width() -> usize {
    width(&console::Term::stderr())
}

/// Columns of the terminal that stdout is, or 80.
pub(crate) fn stdout_width() -> usize {
    width(&console::Term::stdout())
}

fn width(term: &console::Term) -> usize {
    let columns = term.size_checked().map(|(_, columns)| usize::from(columns));
    columns.or_else(|| std::env::var("COLUMNS").ok()?.parse().ok()).unwrap_or(80).clamp(20, 400)
}

/// Replaces what would move the cursor or can't be seen: spaces become ␣, a newline ↵, control characters their pictures.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            ' ' => '␣',
            '\n' => '↵',
            '\t' => '⇥',
            '\r' => '␍',
            '\u{7f}' => '␡',
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('�'),
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_and_control_characters_become_visible() {
        assert_eq!(visible(" have\n\u{1b}[0m"), "␣have↵␛[0m");
    }
}
