use crate::{DecodeMode, Tokenizer, TokenizerError};

/// Tokens held back while they end in an unfinished character. A character has at most four bytes, so a longer run is
/// not one character in the making but bytes that never were text.
const MAX_HELD: usize = 16;

/// What stands for bytes that are no character, or not yet one.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Text of ids that arrive one by one.
///
/// Each piece is whole characters; joined with what [`finish`](Self::finish) gives, the pieces are the text of
/// [`Tokenizer::decode`].
///
/// ```no_run
/// # use reheat_tokenizer::{DecodeMode, Tokenizer};
/// # fn main() -> Result<(), reheat_tokenizer::TokenizerError> {
/// let tokenizer = Tokenizer::from_dir("model")?;
/// let mut stream = tokenizer.decode_stream(DecodeMode::SkipSpecialTokens);
/// for id in [42147, 2478] {
///     if let Some(text) = stream.push(id)? {
///         print!("{text}");
///     }
/// }
/// print!("{}", stream.finish()?.unwrap_or_default());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    mode: DecodeMode,
    /// The last ids. Decoders look at neighbours (a leading space is dropped only at the start of a text), so ids
    /// whose text is out stay as context for those that follow.
    ids: Vec<u32>,
    /// How many of `ids` are only context.
    context: usize,
    /// Bytes of the text of `ids` that are out.
    written: usize,
}

impl<'a> DecodeStream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, mode: DecodeMode) -> Self {
        Self { tokenizer, mode, ids: Vec::new(), context: 0, written: 0 }
    }

    /// Takes the next id; gives the text that is now certain, if any.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        // Such an id never reaches the decoder, and would be no context for the next one.
        let shown = self.mode == DecodeMode::KeepSpecialTokens || !self.tokenizer.is_special(id);
        if !shown || self.tokenizer.id_to_token(id).is_none() {
            return Ok(None);
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.mode)?;
        let mut certain = text.trim_end_matches(REPLACEMENT).len();
        let whole = certain == text.len();
        if !whole && self.ids.len() - self.context > MAX_HELD {
            certain = text.len() - REPLACEMENT.len_utf8();
        }
        let piece = self.take(&text, certain);
        if whole && self.written == text.len() {
            self.forget()?;
        }
        Ok(piece)
    }

    /// What is left at the end: an unfinished character, shown as `U+FFFD`. The stream is then as new.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<Option<String>, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.mode)?;
        let piece = self.take(&text, text.len());
        self.ids.clear();
        (self.context, self.written) = (0, 0);
        Ok(piece)
    }

    fn take(&mut self, text: &str, certain: usize) -> Option<String> {
        if certain <= self.written {
            return None;
        }
        // Decoders that tidy up (" ." to ".") can shorten text that is already out; the rest then starts at the
        // next character.
        let start = (self.written..certain).find(|&start| text.is_char_boundary(start))?;
        self.written = certain;
        Some(text[start..certain].to_owned())
    }

    /// Keeps only the newest ids, as context. Ids without text of their own (a lone leading space) are none.
    fn forget(&mut self) -> Result<(), TokenizerError> {
        let newest = self.tokenizer.decode(&self.ids[self.context..], self.mode)?;
        if !newest.is_empty() {
            self.ids.drain(..self.context);
            self.written = newest.len();
        }
        self.context = self.ids.len();
        Ok(())
    }
}
