use std::{fs, io, ops::Range, path::Path};

use rayon::prelude::*;
use tokenizers::AddedToken;

use crate::{
    DecodeStream, Encoding, SpecialToken, SpecialTokens, TokenizerError,
    byte_level::ByteLevelEncoder,
    files::{self, Declared, Files},
    literal::AddedTokenMatcher,
};

/// Whether decoded text shows special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeMode {
    /// Special tokens appear as they are spelled.
    KeepSpecialTokens,
    /// Special tokens are left out.
    SkipSpecialTokens,
}

/// A tokenizer in Hugging Face format.
///
/// It is `Send` and `Sync`: encode from as many threads as there are.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    /// `tokenizer.json` byte for byte, as long as it still describes `inner`.
    pub(crate) definition: Option<Vec<u8>>,
    pub(crate) files: Files,
    pub(crate) special: SpecialTokens,
    pub(crate) eos_ids: Vec<u32>,
    matcher: AddedTokenMatcher,
    byte_level: Option<ByteLevelEncoder>,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `generation_config.json`.
    ///
    /// Tokens that the configuration names and the tokenizer lacks are added, as transformers does.
    ///
    /// # Errors
    /// If `tokenizer.json` is missing, a file can't be read or is damaged, or two files contradict each other.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let definition = match fs::read(&path) {
            Ok(definition) => definition,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(TokenizerError::Missing { dir: dir.to_owned() });
            }
            Err(source) => return Err(TokenizerError::Read { path, source }),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&definition)
            .map_err(|error| TokenizerError::Definition { path: path.clone(), reason: error.to_string() })?;
        // Truncation and padding stored in the file are settings of one past call; transformers ignores them too.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Definition { path: path.clone(), reason: error.to_string() })?;
        // The library numbers added tokens itself and only logs where the file says otherwise.
        check_ids(&inner, &path, &files::defined_tokens(&path, &definition)?)?;

        let files = Files::read(dir)?;
        let declared = files.declared()?;
        let changed = add_declared_tokens(&mut inner, &declared);
        if let Some(config) = &files.tokenizer_config {
            check_ids(&inner, &config.path, &declared.added)?;
        }
        inner.set_encode_special_tokens(declared.split_special_tokens);

        let special = special_tokens(&inner, &declared);
        let mut eos_ids: Vec<u32> = special.eos().map(|eos| eos.id).into_iter().collect();
        for id in declared.generation_eos {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
        let matcher = AddedTokenMatcher::new(&inner)?;
        let byte_level = ByteLevelEncoder::detect(&definition);
        let vocab_size = inner.get_vocab_size(true);
        let definition = (!changed).then_some(definition);
        Ok(Self { inner, definition, files, special, eos_ids, matcher, byte_level, vocab_size })
    }

    /// Hands out everything that ids depend on, for telling tokenizers apart.
    pub fn fingerprint(&self, feed: &mut dyn FnMut(&[u8])) {
        match &self.definition {
            Some(definition) => feed(definition),
            None => feed(self.inner.to_string(false).unwrap_or_default().as_bytes()),
        }
        feed(format!("{:?} {:?}", self.special, self.inner.get_encode_special_tokens()).as_bytes());
    }

    /// Tokens of `text`. Nothing is added at either end.
    ///
    /// A special token that the text spells becomes that token, as in transformers; text that must not do that goes
    /// through [`encode_literal`](Self::encode_literal).
    ///
    /// # Errors
    /// If the tokenizer has no way to spell the text.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        match self.encode_byte_level(text, &[])? {
            Some(encoding) => Ok(encoding),
            None => self.encode_by_library(text, AddSpecialTokens::No),
        }
    }

    /// Tokens of `text` with what the tokenizer adds around a text, such as BOS.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Encoding, TokenizerError> {
        use tokenizers::PostProcessor;
        let added = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        if added == 0 { self.encode(text) } else { self.encode_by_library(text, AddSpecialTokens::Yes) }
    }

    fn encode_by_library(&self, text: &str, add: AddSpecialTokens) -> Result<Encoding, TokenizerError> {
        let encoding = self.inner.encode(text, add == AddSpecialTokens::Yes);
        Ok(Encoding::from_library(&encoding.map_err(|error| encode_error(text, &*error))?))
    }

    /// The short way, for tokenizers that have one.
    fn encode_byte_level(&self, text: &str, literal: &[Range<usize>]) -> Result<Option<Encoding>, TokenizerError> {
        let Some(byte_level) = &self.byte_level else { return Ok(None) };
        let Some(parts) = self.matcher.cut(&self.inner, text, literal) else { return Ok(None) };
        let mut encoding = Encoding::with_capacity(text.len() / 3);
        for (range, id) in parts {
            match id {
                Some(id) => {
                    encoding.ids.push(id);
                    encoding.offsets.push(range);
                }
                None => byte_level
                    .encode(&self.inner, text, range, &mut encoding)
                    .map_err(|error| encode_error(text, &*error))?,
            }
        }
        Ok(Some(encoding))
    }

    /// Tokens of `text` in which the byte ranges `literal` are only text: no added token is recognised there, not
    /// even in part.
    ///
    /// The text is otherwise tokenized as a whole, so that with no range given the result is that of
    /// [`encode`](Self::encode). The ids inside a range decode to the text, and none of them is a special token's.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_literal(&self, text: &str, literal: &[Range<usize>]) -> Result<Encoding, TokenizerError> {
        let mut literal: Vec<Range<usize>> = literal.iter().filter(|range| !range.is_empty()).cloned().collect();
        if literal.is_empty() {
            return self.encode(text);
        }
        literal.sort_by_key(|range| range.start);
        literal.dedup_by(|next, range| {
            let overlaps = next.start <= range.end;
            range.end = if overlaps { range.end.max(next.end) } else { range.end };
            overlaps
        });
        if let Some(encoding) = self.encode_byte_level(text, &literal)?
            && !self.has_forged_token(&encoding, &literal)
        {
            return Ok(encoding);
        }
        let encoding = self.matcher.encode(&self.inner, text, &literal).map_err(|error| encode_error(text, &*error))?;
        Ok(Encoding::from_library(&encoding))
    }

    /// Whether the model itself made a special token of literal text, as it does where the vocabulary holds it.
    fn has_forged_token(&self, encoding: &Encoding, literal: &[Range<usize>]) -> bool {
        literal.iter().any(|range| {
            let tokens = encoding.token_span(range);
            encoding.ids[tokens].iter().any(|&id| self.is_special(id))
        })
    }

    /// [`encode`](Self::encode) of many texts on all cores; the order is kept.
    ///
    /// # Errors
    /// The first text that can't be encoded.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Encoding>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of `ids`. Ids outside the vocabulary are left out, as in transformers: models pad their embeddings,
    /// and an untrained one may pick such an id.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], mode: DecodeMode) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, mode == DecodeMode::SkipSpecialTokens)
            .map_err(|error| TokenizerError::Decode { count: ids.len(), reason: error.to_string() })
    }

    /// Decodes ids that arrive one by one.
    #[must_use]
    pub fn decode_stream(&self, mode: DecodeMode) -> DecodeStream<'_> {
        DecodeStream::new(self, mode)
    }

    /// The vocabulary's spelling of `ids`, in which byte-level tokenizers write a space as `Ġ`. Ids outside the
    /// vocabulary give an empty string.
    #[must_use]
    pub fn tokens(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|&id| self.id_to_token(id).unwrap_or_default()).collect()
    }

    /// The id of one token, spelled as in the vocabulary.
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The vocabulary's spelling of one id.
    #[must_use]
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a special token, one that [`DecodeMode::SkipSpecialTokens`] leaves out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.matcher.is_special(id)
    }

    /// All tokens added to the vocabulary, special or not, in the order of their ids. These are what a text can
    /// spell to get one token with a meaning of its own.
    #[must_use]
    pub fn added_tokens(&self) -> &[SpecialToken] {
        self.matcher.tokens()
    }

    /// Number of tokens, the added ones included. Ids may reach further where the vocabulary has gaps.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The tokens with a role.
    #[must_use]
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Ids that end a generation: the tokenizer's end of sequence first, then those of `generation_config.json`.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id that fills up a batch: the padding token, else the end of sequence. Padding must be masked by
    /// position, never by id, and then it does no harm that the two may be one.
    #[must_use]
    pub fn pad_id(&self) -> Option<u32> {
        self.special.pad().or(self.special.eos()).map(|token| token.id)
    }

    /// Adds special tokens that the vocabulary lacks, each with the next id that is free, and gives the ids of all, in
    /// their order.
    ///
    /// # Errors
    /// If a token is empty.
    pub fn add_special_tokens(&mut self, tokens: &[String]) -> Result<Vec<u32>, TokenizerError> {
        if tokens.iter().any(String::is_empty) {
            return Err(TokenizerError::EmptyToken);
        }
        let missing: Vec<AddedToken> = tokens
            .iter()
            .filter(|token| self.token_to_id(token).is_none())
            .map(|token| AddedToken::from(token.as_str(), true))
            .collect();
        if !missing.is_empty() {
            self.inner.add_special_tokens(&missing);
            self.matcher = AddedTokenMatcher::new(&self.inner)?;
            self.vocab_size = self.inner.get_vocab_size(true);
            self.definition = None;
        }
        let id = |token: &String| self.token_to_id(token).expect("added where it was missing");
        Ok(tokens.iter().map(id).collect())
    }

    /// Makes `token` the end of sequence, here and in all files that [`save`](Self::save) writes. The former ends
    /// stay in [`eos_ids`](Self::eos_ids), after the new one.
    ///
    /// # Errors
    /// If the vocabulary lacks `token`.
    pub fn set_eos_token(&mut self, token: &str) -> Result<(), TokenizerError> {
        let Some(id) = self.token_to_id(token) else {
            return Err(TokenizerError::UnknownToken { token: token.to_owned(), vocab_size: self.vocab_size });
        };
        self.special.set("eos_token", SpecialToken { content: token.to_owned(), id });
        self.eos_ids.retain(|&known| known != id);
        self.eos_ids.insert(0, id);
        Ok(())
    }
}

#[cfg(test)]
impl Tokenizer {
    pub(crate) fn has_byte_level(&self) -> bool {
        self.byte_level.is_some()
    }

    pub(crate) fn encode_all_by_library(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.encode_by_library(text, AddSpecialTokens::No)
    }
}

/// Whether BOS and its like are put around a text.
#[derive(Clone, Copy, PartialEq)]
enum AddSpecialTokens {
    Yes,
    No,
}

impl Encoding {
    fn with_capacity(tokens: usize) -> Self {
        Self { ids: Vec::with_capacity(tokens), offsets: Vec::with_capacity(tokens) }
    }

    fn from_library(encoding: &tokenizers::Encoding) -> Self {
        let mut end = 0;
        let offsets = encoding.get_offsets().iter().map(|&(start, stop)| {
            // The library gives every added token `0..0`; at the end of the text that would break the order.
            let offset = if start == stop && start < end { end..end } else { start..stop };
            end = offset.end;
            offset
        });
        Self { offsets: offsets.collect(), ids: encoding.get_ids().to_vec() }
    }
}

fn encode_error(text: &str, error: &(dyn std::error::Error + Send + Sync)) -> TokenizerError {
    TokenizerError::Encode { bytes: text.len(), reason: error.to_string() }
}

/// Adds what the files declare and the tokenizer lacks; says whether anything was added.
fn add_declared_tokens(inner: &mut tokenizers::Tokenizer, declared: &Declared) -> bool {
    let present = inner.get_added_tokens_decoder();
    let known = |content: &str| present.values().any(|token| token.content == content);
    let mut missing: Vec<AddedToken> = declared
        .added
        .iter()
        .map(|(_, token)| token)
        .filter(|token| !present.values().any(|other| other == *token))
        .cloned()
        .collect();
    for token in declared.named.iter().map(|(_, token)| token).chain(&declared.additional) {
        if !known(&token.content) && !missing.iter().any(|other| other.content == token.content) {
            missing.push(AddedToken { special: true, ..token.clone() });
        }
    }
    inner.add_tokens(&missing);
    !missing.is_empty()
}

fn check_ids(inner: &tokenizers::Tokenizer, path: &Path, declared: &[(u32, AddedToken)]) -> Result<(), TokenizerError> {
    for (id, token) in declared {
        if let Some(found) = inner.token_to_id(&token.content).filter(|found| found != id) {
            let (path, token) = (path.to_owned(), token.content.clone());
            return Err(TokenizerError::IdMismatch { path, token, declared: *id, found });
        }
    }
    Ok(())
}

fn special_tokens(inner: &tokenizers::Tokenizer, declared: &Declared) -> SpecialTokens {
    let resolve = |token: &AddedToken| {
        inner.token_to_id(&token.content).map(|id| SpecialToken { content: token.content.clone(), id })
    };
    let named = declared.named.iter().filter_map(|(name, token)| Some((name.clone(), resolve(token)?))).collect();
    SpecialTokens::new(named, declared.additional.iter().filter_map(resolve).collect())
}
