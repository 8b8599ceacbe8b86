//! The line editor of a terminal: arrow keys, a history, several lines at a time.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use console::style;
use rustyline::completion::Completer;
use rustyline::config::{Behavior, CompletionType, Config};
use rustyline::error::{ReadlineError, Signal};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::COMMANDS;
use super::input::{self, Input};
use crate::fault::Fault;

const PROMPT: &str = "› ";
/// Messages that are remembered.
const HISTORY_ENTRIES: usize = 1000;
/// Shortest word that may be a token.
const SECRET_LEN: usize = 20;

/// Reads what a person types.
pub(super) struct Editor {
    lines: rustyline::Editor<Rules, DefaultHistory>,
    /// Where messages are remembered from chat to chat.
    history: Option<PathBuf>,
}

impl Editor {
    /// An editor on the terminal itself, so that stdout holds answers alone; `keeps_history` between chats.
    pub(super) fn open(keeps_history: bool) -> anyhow::Result<Self> {
        let config = Config::builder()
            .behavior(Behavior::PreferTerm)
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_ENTRIES)
            .map_err(failed)?
            .history_ignore_space(true)
            .build();
        let mut lines = rustyline::Editor::with_config(config).map_err(failed)?;
        lines.set_helper(Some(Rules));
        let history = if keeps_history { history_path() } else { None };
        if let Some(path) = history.as_deref().filter(|path| path.exists())
            && let Err(error) = lines.load_history(path)
        {
            warn_of(path, &error);
        }
        Ok(Self { lines, history })
    }

    /// The next message or command; `None` at the end.
    pub(super) fn read(&mut self) -> anyhow::Result<Option<Input>> {
        loop {
            match self.lines.readline(PROMPT) {
                Ok(text) => {
                    if let Some(input) = Input::of(&text) {
                        self.remember(text.trim_end());
                        return Ok(Some(input));
                    }
                }
                Err(ReadlineError::Interrupted | ReadlineError::Signal(Signal::Interrupt)) => {
                    eprintln!("Ctrl-D ends the chat");
                }
                Err(ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Keeps a text for the arrow keys, here and, where that is wanted, for later chats.
    fn remember(&mut self, text: &str) {
        if may_be_secret(text) {
            return;
        }
        // Held in memory: nothing that could fail.
        let _ = self.lines.add_history_entry(text);
        let Some(path) = &self.history else { return };
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all).map_err(ReadlineError::from);
        if let Err(error) = folder.and_then(|()| self.lines.append_history(path)) {
            warn_of(path, &error);
            self.history = None;
        }
    }
}

fn failed(error: ReadlineError) -> anyhow::Error {
    Fault::failed("cannot read from the terminal").because(error).into()
}

fn warn_of(path: &Path, error: &ReadlineError) {
    eprintln!("note: the history of `{}` is not kept: {error}", path.display());
}

/// `$XDG_STATE_HOME/reheat/chat_history`, by default under `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = given.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
    Some(state.join("reheat/chat_history"))
}

/// Whether a text has a word like an access token of the Hub or of an API, which no file should hold.
fn may_be_secret(text: &str) -> bool {
    let is_secret = |word: &str| word.len() >= SECRET_LEN && (word.starts_with("hf_") || word.starts_with("sk-"));
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).any(is_secret)
}

/// When a message ends, what Tab completes, how the prompt looks.
struct Rules;

impl Validator for Rules {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let complete = input::is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Rules {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let begins = |name: &&str| typed.starts_with('/') && name.starts_with(typed);
        Ok((0, COMMANDS.iter().map(|command| command.name).filter(begins).map(str::to_owned).collect()))
    }
}

impl Highlighter for Rules {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        style(prompt).cyan().bold().force_styling(true).to_string().into()
    }
}

impl Hinter for Rules {
    type Hint = String;
}

impl Helper for Rules {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_remembered() {
        for text in ["my token is hf_abcdefghijklmnopqrstuvwxyz", "key='sk-proj-0123456789abcdef'"] {
            assert!(may_be_secret(text), "{text}");
        }
        for text in ["What is hf_transfer?", "sk-learn", "an-ordinary-but-rather-long-word"] {
            assert!(!may_be_secret(text), "{text}");
        }
    }
}
