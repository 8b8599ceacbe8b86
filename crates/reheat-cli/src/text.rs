//! Tokens as text: one by one for looking at, and drawn ones in whole characters, with nothing from a stop string on.

use reheat_generate::StopStrings;
use reheat_tokenizer::{DecodeMode, DecodeStream, Tokenizer, TokenizerError};

use crate::output::visible;

/// A token as text; one that is no text, such as a part of a character, as the vocabulary spells it.
pub(crate) fn token(tokenizer: &Tokenizer, id: u32) -> String {
    let text = tokenizer.decode(&[id], DecodeMode::KeepSpecialTokens).unwrap_or_default();
    if text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) {
        return tokenizer.id_to_token(id).unwrap_or_default();
    }
    text
}

/// What a token is called in tables and plots; ids beyond the vocabulary, which pad the embedding, have no text.
pub(crate) fn label(tokenizer: &Tokenizer, id: u32) -> String {
    let token = token(tokenizer, id);
    if token.is_empty() { format!("(id {id})") } else { visible(&token) }
}

/// The text of one completion as its tokens come.
#[derive(Debug)]
pub(crate) struct TextStream<'a> {
    decode: DecodeStream<'a>,
    stop: StopStrings,
    has_stopped: bool,
    text: String,
}

impl<'a> TextStream<'a> {
    /// A stream that ends before the first of the strings `stop`.
    pub(crate) fn new(tokenizer: &'a Tokenizer, stop: &[String]) -> Self {
        Self {
            decode: tokenizer.decode_stream(DecodeMode::SkipSpecialTokens),
            stop: StopStrings::new(stop.iter().cloned()),
            has_stopped: false,
            text: String::new(),
        }
    }

    /// The text that token `id` makes certain.
    pub(crate) fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let piece = self.decode.push(id)?.unwrap_or_default();
        Ok(self.watch(&piece))
    }

    /// The text that is left when no more tokens come.
    pub(crate) fn finish(&mut self) -> Result<String, TokenizerError> {
        let piece = self.decode.finish()?.unwrap_or_default();
        let mut rest = self.watch(&piece);
        if !self.has_stopped {
            let held = self.stop.finish();
            self.text.push_str(&held);
            rest.push_str(&held);
        }
        Ok(rest)
    }

    /// Whether a stop string was met.
    pub(crate) fn has_stopped(&self) -> bool {
        self.has_stopped
    }

    /// Everything so far.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn watch(&mut self, piece: &str) -> String {
        if self.has_stopped {
            return String::new();
        }
        let watched = self.stop.push(piece);
        self.has_stopped = watched.is_hit;
        self.text.push_str(&watched.text);
        watched.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn the_text_ends_before_a_stop_string_that_crosses_tokens() {
        let folder = demo::unpack_base().unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let ids = tokenizer.encode("The zebra eats grass. The end").unwrap().ids;
        let mut stream = TextStream::new(&tokenizer, &["eats gr".into()]);
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert!(stream.has_stopped());
        assert_eq!(stream.finish().unwrap(), "");
        assert_eq!(pieces.concat(), "The zebra ");
        assert_eq!(stream.into_text(), "The zebra ");
    }

    #[test]
    fn a_part_of_a_character_is_called_as_the_vocabulary_spells_it() {
        let folder = demo::unpack_base().unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let labels: Vec<String> =
            tokenizer.encode("a \u{e9}").unwrap().ids.iter().map(|id| label(&tokenizer, *id)).collect();
        assert_eq!(labels, ["a", "␣", "Ã", "©"]);
        assert_eq!(label(&tokenizer, 5000), "(id 5000)");
    }

    #[test]
    fn a_false_start_comes_out_at_the_end() {
        let folder = demo::unpack_base().unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
        let ids = tokenizer.encode("The zebra eats").unwrap().ids;
        let mut stream = TextStream::new(&tokenizer, &[" eats grass".into()]);
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        assert_eq!(pieces.concat(), "The zebra");
        assert_eq!(stream.finish().unwrap(), " eats");
    }
}
