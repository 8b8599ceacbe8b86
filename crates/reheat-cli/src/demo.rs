//! The bundled model and dataset, made by `cargo xtask demo-model`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use tempfile::TempDir;

use crate::fault::Fault;

/// Conversations to learn from, JSON lines of `messages`.
pub(crate) const TRAIN: &str = include_str!("../demo/train.jsonl");
/// Conversations with an assistant that mostly tells more than it was asked.
pub(crate) const CHATTY: &str = include_str!("../demo/chatty.jsonl");
/// Pairs of answers, of which the better one says what was asked and no more.
pub(crate) const PREFERENCES: &str = include_str!("../demo/preferences.jsonl");
/// Questions with the word that their answer has.
pub(crate) const QUESTIONS: &str = include_str!("../demo/questions.jsonl");
const HELD_OUT: &str = include_str!("../demo/heldout.jsonl");

/// The files of the base model.
const BASE: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../demo/base/config.json")),
    ("generation_config.json", include_bytes!("../demo/base/generation_config.json")),
    ("model.safetensors", include_bytes!("../demo/base/model.safetensors")),
    ("tokenizer.json", include_bytes!("../demo/base/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../demo/base/tokenizer_config.json")),
];

/// A question about an animal that no training conversation mentions, and how its answer is judged.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct HeldOut {
    messages: Vec<Turn>,
    /// What the answer must contain as whole words.
    pub(crate) expected: String,
    /// What it must not contain: the attribute's other values.
    wrong: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Turn {
    content: String,
}

impl HeldOut {
    pub(crate) fn question(&self) -> &str {
        self.messages.last().map_or("", |turn| &turn.content)
    }

    /// Whether an answer has the expected value and none of the others.
    pub(crate) fn is_right(&self, answer: &str) -> bool {
        has_words(answer, &self.expected) && !self.wrong.iter().any(|wrong| has_words(answer, wrong))
    }
}

/// Whether `words` stand in `text` as whole words, whatever their case.
fn has_words(text: &str, words: &str) -> bool {
    let plain = |text: &str| -> Vec<String> {
        text.to_lowercase()
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (text, words) = (plain(text), plain(words));
    text.windows(words.len().max(1)).any(|window| window == words)
}

/// The held-out questions.
pub(crate) fn held_out() -> Vec<HeldOut> {
    HELD_OUT.lines().map(|line| serde_json::from_str(line).expect("the bundle is tested")).collect()
}

/// Puts the base model where it can be read as a folder.
pub(crate) fn unpack_base() -> Result<TempDir, Fault> {
    let failed = |error| Fault::failed("cannot unpack the bundled model").because(error);
    let folder = TempDir::new().map_err(failed)?;
    write_base(folder.path()).map_err(failed)?;
    Ok(folder)
}

/// Writes the base model into a folder.
pub(crate) fn write_base(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    BASE.iter().try_for_each(|(name, bytes)| fs::write(dir.join(name), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_needs_its_value_as_whole_words_and_no_other() {
        let row = HeldOut { messages: Vec::new(), expected: "South America".into(), wrong: vec!["Asia".into()] };
        assert!(row.is_right("Llamas come from south america."));
        assert!(!row.is_right("Llamas come from South Americas."));
        assert!(!row.is_right("From South America or Asia."));
    }

    #[test]
    fn no_conversation_gives_a_held_out_answer_away() {
        let rows = held_out();
        assert_eq!(rows.len(), 100);
        for part in [TRAIN, CHATTY, PREFERENCES, QUESTIONS] {
            assert!(rows.iter().all(|row| !part.contains(row.question())));
        }
    }
}
