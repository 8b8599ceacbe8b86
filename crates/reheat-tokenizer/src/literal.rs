//! Encoding a text of which parts are only text.
//!
//! The `tokenizers` library either recognises every added token or ignores every special one. A conversation needs
//! both at once: the template's `<|im_end|>` is a control token, the one a user typed is ten characters. So the
//! library's steps (added tokens, normalizer, pre-tokenizer, model) are taken here one by one, with a rule of our own
//! for the first: a match that touches a literal range is no match.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token, tokenizer,
};

use crate::{SpecialToken, TokenizerError};

/// Finds the added tokens of one tokenizer in texts.
#[derive(Debug, Clone)]
pub(crate) struct AddedTokenMatcher {
    /// Matched against the text as it came.
    raw: Patterns,
    /// Matched against the normalized text.
    normalized: Patterns,
    /// Ids of special tokens, ascending.
    special_ids: Vec<u32>,
    tokens: Vec<SpecialToken>,
}

#[derive(Debug, Clone)]
struct Patterns {
    automaton: AhoCorasick,
    tokens: Vec<(u32, AddedToken)>,
}

impl AddedTokenMatcher {
    pub(crate) fn new(inner: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let mut added: Vec<(u32, AddedToken)> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| !token.content.is_empty()).collect();
        added.sort_by_key(|(id, _)| *id);
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let tokens = added.iter().map(|(id, token)| SpecialToken { content: token.content.clone(), id: *id }).collect();
        let (normalized, raw): (Vec<_>, Vec<_>) = added.into_iter().partition(|(_, token)| token.normalized);

        let raw_texts = raw.iter().map(|(_, token)| token.content.clone()).collect();
        let normalized_texts = normalized.iter().map(|(_, token)| {
            let mut content = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = inner.get_normalizer() {
                normalizer.normalize(&mut content)?;
            }
            Ok(content.get().to_owned())
        });
        let normalized_texts: tokenizer::Result<Vec<String>> = normalized_texts.collect();
        let normalized_texts =
            normalized_texts.map_err(|error| TokenizerError::Encode { bytes: 0, reason: error.to_string() })?;
        Ok(Self {
            raw: Patterns::new(raw, raw_texts)?,
            normalized: Patterns::new(normalized, normalized_texts)?,
            special_ids,
            tokens,
        })
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    pub(crate) fn tokens(&self) -> &[SpecialToken] {
        &self.tokens
    }

    /// Added tokens in `text`, and the ranges between them; `None` where the text must be normalized to find them.
    pub(crate) fn cut(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        literal: &[Range<usize>],
    ) -> Option<Vec<(Range<usize>, Option<u32>)>> {
        let is_literal = |range: Range<usize>| touches(&range, literal);
        let skip_special = inner.get_encode_special_tokens();
        self.normalized.tokens.is_empty().then(|| self.raw.cut(text, is_literal, skip_special))
    }

    pub(crate) fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        literal: &[Range<usize>],
    ) -> tokenizer::Result<tokenizers::Encoding> {
        let skip_special = inner.get_encode_special_tokens();
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| Ok(self.raw.split(&piece, literal, skip_special)))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = inner.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            Ok(self.normalized.split(&piece, literal, skip_special))
        })?;
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| {
            let tokens = inner.get_model().tokenize(piece.get())?;
            if touches(&(piece.offsets_original().0..piece.offsets_original().1), literal) {
                self.respell(inner, tokens)
            } else {
                Ok(tokens)
            }
        })?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
        inner.post_process(encoding, None, false)
    }

    /// Spells out special tokens that the model itself produced from plain text.
    ///
    /// Models of the SentencePiece family have `</s>` among their ordinary pieces, so leaving the added tokens out
    /// isn't enough: the text is cut after the token's first character, where no piece can reach across.
    fn respell(&self, inner: &tokenizers::Tokenizer, tokens: Vec<Token>) -> tokenizer::Result<Vec<Token>> {
        let forged = |token: &Token| {
            // An unknown token has a special id too, and stands for other text than its own name.
            self.is_special(token.id)
                && self.tokens.iter().any(|known| known.id == token.id && known.content == token.value)
        };
        if !tokens.iter().any(forged) {
            return Ok(tokens);
        }
        let mut spelled = Vec::with_capacity(tokens.len() + 8);
        for token in tokens {
            let first = token.value.chars().next().map_or(0, char::len_utf8);
            if !forged(&token) || first == token.value.len() {
                spelled.push(token);
                continue;
            }
            let (head, tail) = token.value.split_at(first);
            for (start, part) in [(0, head), (first, tail)] {
                let parts = self.respell(inner, inner.get_model().tokenize(part)?)?;
                spelled.extend(parts.into_iter().map(|mut part| {
                    part.offsets.0 += token.offsets.0 + start;
                    part.offsets.1 += token.offsets.0 + start;
                    part
                }));
            }
        }
        Ok(spelled)
    }
}

impl Patterns {
    fn new(tokens: Vec<(u32, AddedToken)>, texts: Vec<String>) -> Result<Self, TokenizerError> {
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|error| TokenizerError::Encode { bytes: 0, reason: error.to_string() })?;
        Ok(Self { automaton, tokens })
    }

    /// Cuts `piece` into added tokens and what lies between them, which gets no tokens yet.
    fn split(
        &self,
        piece: &NormalizedString,
        literal: &[Range<usize>],
        skip_special: bool,
    ) -> Vec<(NormalizedString, Option<Vec<Token>>)> {
        let text = piece.get();
        let is_literal = |range: Range<usize>| touches(&original_range(piece, range), literal);
        let parts = self.cut(text, is_literal, skip_special).into_iter().map(|(range, id)| {
            let tokens = id.map(|id| vec![Token::new(id, text[range.clone()].to_owned(), (0, range.len()))]);
            let range = tokenizer::normalizer::Range::Normalized(range);
            (piece.slice(range).expect("matches end at characters"), tokens)
        });
        parts.collect()
    }

    /// Added tokens, and the ranges between them, in order.
    fn cut(
        &self,
        text: &str,
        is_literal: impl Fn(Range<usize>) -> bool,
        skip_special: bool,
    ) -> Vec<(Range<usize>, Option<u32>)> {
        let mut parts = Vec::new();
        let mut done = 0;
        let mut from = 0;
        while let Some(found) = self.automaton.find(Input::new(text).span(from..text.len())) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            if is_literal(found.range()) {
                // Another token may begin inside this one and lie outside the literal text.
                from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            from = found.end();
            if (skip_special && token.special) || (token.single_word && !is_single_word(text, &found.range())) {
                continue;
            }
            let mut range = found.range();
            if token.lstrip {
                range.start = text[..range.start].trim_end().len().max(done);
            }
            if token.rstrip {
                range.end = text.len() - text[range.end..].trim_start().len();
            }
            if done < range.start {
                parts.push((done..range.start, None));
            }
            done = range.end;
            from = from.max(done);
            parts.push((range, Some(*id)));
        }
        if done < text.len() {
            parts.push((done..text.len(), None));
        }
        parts
    }
}

/// Bytes of the whole text that `range` of a normalized piece stands for.
fn original_range(piece: &NormalizedString, range: Range<usize>) -> Range<usize> {
    let offset = piece.offsets_original().0;
    match piece.convert_offsets(tokenizer::normalizer::Range::Normalized(range)) {
        Some(range) => offset + range.start..offset + range.end,
        None => offset..offset,
    }
}

/// Whether `range` overlaps one of the `literal` ranges, which ascend and aren't empty.
fn touches(range: &Range<usize>, literal: &[Range<usize>]) -> bool {
    let first = literal.partition_point(|literal| literal.end <= range.start);
    literal.get(first).is_some_and(|literal| literal.start < range.end)
}

fn is_single_word(text: &str, range: &Range<usize>) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    !text[..range.start].chars().next_back().is_some_and(is_word)
        && !text[range.end..].chars().next().is_some_and(is_word)
}
