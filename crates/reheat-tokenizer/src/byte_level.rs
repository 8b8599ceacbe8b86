//! A short way through byte-level BPE, the tokenizers of Qwen and Llama 3.
//!
//! The library normalizes, splits by a regular expression and looks up each word with its offsets carried along in
//! strings of strings; that is general, and most of the time. For the one pattern that these tokenizers share, the
//! words can be found by a scan over character classes, and the tokens of a word remembered. The result is the
//! library's: the classes of characters are asked of its own regular expression, the tokens of a new word of its own
//! model, and text in which normalization could change anything goes through the library as a whole.

use std::{
    cell::RefCell,
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, tokenizer};

use crate::Encoding;

/// The pattern up to the digits and from there on.
const PATTERN: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Bytes of the longest word that is remembered. Longer ones hardly come again.
const MAX_WORD: usize = 32;

/// Words that one thread remembers of one tokenizer, some ten megabytes.
const MAX_WORDS: usize = 1 << 17;

/// Tokenizers of which one thread remembers words.
const MAX_TOKENIZERS: usize = 4;

/// Characters whose class is looked up in a table; the ones beyond it are rare.
const CLASSES: usize = 0x2_0000;

/// What a character is to the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Newline,
    Space,
    Other,
}

/// Encodes text between added tokens.
#[derive(Debug, Clone)]
pub(crate) struct ByteLevelEncoder {
    /// Digits that make one word.
    max_digits: usize,
    /// Which tokenizer this is, to those that remember its words.
    id: u64,
    /// Classes by character, 0 where not yet asked.
    classes: Arc<[AtomicU8]>,
    /// The letters that stand for the 256 bytes in the vocabulary.
    letters: Arc<[char; 256]>,
}

/// The tokens of one word: ids, and where each ends in the word.
type Word = Box<[(u32, u16)]>;

/// The words of one tokenizer that were met before.
type Words = HashMap<Box<[u8]>, Word, ahash::RandomState>;

thread_local! {
    /// Words by tokenizer. Each thread has its own, so that none waits for another.
    static WORDS: RefCell<Vec<(u64, Words)>> = const { RefCell::new(Vec::new()) };
}

impl ByteLevelEncoder {
    /// The encoder for a tokenizer of this kind; `None` for all others.
    pub(crate) fn detect(definition: &[u8]) -> Option<Self> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let definition: Definition = serde_json::from_slice(definition).ok()?;
        let max_digits = definition.max_digits()?;
        let classes = (0..CLASSES).map(|_| AtomicU8::new(0)).collect();
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Some(Self { max_digits, id, classes, letters: Arc::new(byte_letters()) })
    }

    /// Appends the tokens of `text[piece]`, in which there are no added tokens.
    pub(crate) fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        piece: Range<usize>,
        encoding: &mut Encoding,
    ) -> tokenizer::Result<()> {
        let mut start = piece.start;
        while start < piece.end {
            // No word reaches over a line break, and what comes before it has no part in what follows.
            let end = next_line(text.as_bytes(), start, piece.end);
            let line = &text[start..end];
            if line.is_ascii() || line.chars().all(is_inert) {
                self.encode_line(inner, line, start, encoding)?;
            } else {
                encode_by_library(inner, line, start, encoding)?;
            }
            start = end;
        }
        Ok(())
    }

    fn encode_line(
        &self,
        inner: &tokenizers::Tokenizer,
        line: &str,
        base: usize,
        encoding: &mut Encoding,
    ) -> tokenizer::Result<()> {
        WORDS.with_borrow_mut(|tokenizers| {
            let words = match tokenizers.iter().position(|(id, _)| *id == self.id) {
                Some(position) => &mut tokenizers[position].1,
                None => {
                    if tokenizers.len() == MAX_TOKENIZERS {
                        tokenizers.remove(0);
                    }
                    tokenizers.push((self.id, HashMap::default()));
                    &mut tokenizers.last_mut().expect("one was just added").1
                }
            };
            let mut start = 0;
            while start < line.len() {
                let end = self.word_end(inner, line, start)?;
                let word = &line[start..end];
                match words.get(word.as_bytes()) {
                    Some(tokens) => append(tokens, word, base + start, encoding),
                    None => {
                        let tokens = self.tokenize(inner, word)?;
                        match tokens {
                            Ok(tokens) => {
                                append(&tokens, word, base + start, encoding);
                                if word.len() <= MAX_WORD && words.len() < MAX_WORDS {
                                    words.insert(word.as_bytes().into(), tokens);
                                }
                            }
                            Err(TooLong) => encode_by_library(inner, word, base + start, encoding)?,
                        }
                    }
                }
                start = end;
            }
            Ok(())
        })
    }

    /// The model's tokens of one word.
    fn tokenize(&self, inner: &tokenizers::Tokenizer, word: &str) -> tokenizer::Result<Result<Word, TooLong>> {
        if word.len() > usize::from(u16::MAX) {
            return Ok(Err(TooLong));
        }
        let mapped: String = word.bytes().map(|byte| self.letters[usize::from(byte)]).collect();
        // A letter of one or two bytes stands for each byte of the word.
        let mut ends = vec![0_u16; mapped.len() + 1];
        for (index, (at, letter)) in mapped.char_indices().enumerate() {
            ends[at + letter.len_utf8()] = u16::try_from(index + 1).unwrap_or(u16::MAX);
        }
        let tokens = inner.get_model().tokenize(&mapped)?;
        Ok(Ok(tokens.into_iter().map(|token| (token.id, ends[token.offsets.1])).collect()))
    }

    /// Where the word that starts at `start` ends, by the alternatives of the pattern in their order.
    fn word_end(&self, inner: &tokenizers::Tokenizer, line: &str, start: usize) -> tokenizer::Result<usize> {
        let class_at = |at: usize| -> tokenizer::Result<Option<(Class, usize)>> {
            match line.as_bytes().get(at) {
                None => Ok(None),
                Some(byte) if byte.is_ascii() => Ok(Some((ascii_class(*byte), 1))),
                Some(_) => match line[at..].chars().next() {
                    Some(character) => Ok(Some((self.class(inner, character)?, character.len_utf8()))),
                    None => Ok(None),
                },
            }
        };
        // The end of the run of characters from `at` on that `is_in` takes, at most `most` of them.
        let run = |mut at: usize, most: usize, is_in: fn(Class) -> bool| -> tokenizer::Result<usize> {
            for _ in 0..most {
                match class_at(at)? {
                    Some((class, length)) if is_in(class) => at += length,
                    _ => break,
                }
            }
            Ok(at)
        };
        let is_letter = |class| class == Class::Letter;
        let is_other = |class| class == Class::Other;
        let is_newline = |class| class == Class::Newline;
        let Some((class, length)) = class_at(start)? else { return Ok(line.len()) };
        let next = start + length;

        if let Some(end) = contraction_end(line.as_bytes(), start) {
            return Ok(end);
        }
        match class {
            Class::Letter => return run(next, usize::MAX, is_letter),
            Class::Number => return run(next, self.max_digits - 1, |class| class == Class::Number),
            Class::Space | Class::Other => {
                let end = run(next, usize::MAX, is_letter)?;
                if end > next {
                    return Ok(end);
                }
            }
            Class::Newline => {}
        }
        if class == Class::Other || line.as_bytes()[start] == b' ' {
            let from = if class == Class::Other { start } else { next };
            let end = run(from, usize::MAX, is_other)?;
            if end > from {
                return run(end, usize::MAX, is_newline);
            }
        }
        // Whitespace from here on: up to its last newline, else all but the last character, which may belong to the
        // next word, else that character.
        let (mut end, mut last, mut after_newline) = (start, start, None);
        while let Some((class, length)) = class_at(end)? {
            match class {
                Class::Newline => after_newline = Some(end + length),
                Class::Space => {}
                _ => break,
            }
            last = end;
            end += length;
        }
        Ok(match after_newline {
            Some(after_newline) => after_newline,
            None if end == line.len() || last == start => end,
            None => last,
        })
    }

    fn class(&self, inner: &tokenizers::Tokenizer, character: char) -> tokenizer::Result<Class> {
        const KNOWN: [Class; 4] = [Class::Letter, Class::Number, Class::Space, Class::Other];
        let entry = &self.classes[u32::from(character) as usize];
        if let Some(class) = KNOWN.get(usize::from(entry.load(Ordering::Relaxed)).wrapping_sub(1)) {
            return Ok(*class);
        }
        let class = ask_class(inner, character)?;
        let number = KNOWN.iter().position(|known| *known == class).map_or(0, |index| index + 1);
        entry.store(u8::try_from(number).unwrap_or(0), Ordering::Relaxed);
        Ok(class)
    }
}

/// A word that is too long to be remembered.
struct TooLong;

fn append(tokens: &[(u32, u16)], word: &str, base: usize, encoding: &mut Encoding) {
    let mut start = 0;
    for &(id, end) in tokens {
        let end = usize::from(end);
        encoding.ids.push(id);
        // A token that is part of a character stands for the whole of it.
        encoding.offsets.push(base + word.floor_char_boundary(start)..base + word.ceil_char_boundary(end));
        start = end;
    }
}

/// All of the library's steps after added tokens.
fn encode_by_library(
    inner: &tokenizers::Tokenizer,
    text: &str,
    base: usize,
    encoding: &mut Encoding,
) -> tokenizer::Result<()> {
    use tokenizers::Normalizer;
    let mut pieces = PreTokenizedString::from(text);
    if let Some(normalizer) = inner.get_normalizer() {
        pieces.normalize(|piece| normalizer.normalize(piece))?;
    }
    if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut pieces)?;
    }
    pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
    let found = pieces.into_encoding(None, 0, OffsetType::Byte)?;
    encoding.ids.extend_from_slice(found.get_ids());
    encoding.offsets.extend(found.get_offsets().iter().map(|&(start, end)| base + start..base + end));
    Ok(())
}

/// The class of a character, by how the tokenizer's own pattern splits it from its neighbours.
fn ask_class(inner: &tokenizers::Tokenizer, character: char) -> tokenizer::Result<Class> {
    let split = |text: String| -> tokenizer::Result<Vec<usize>> {
        let mut pieces = PreTokenizedString::from(text);
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.iter().map(|(_, (start, end), _)| end - start).collect())
    };
    if split(format!("a{character}"))?.len() == 1 {
        return Ok(Class::Letter);
    }
    if split(format!(" {character}"))?.len() == 2 {
        return Ok(Class::Number);
    }
    // Two of them before a letter stay together, unless the second one is a space that goes with the letter.
    let first = split(format!("{character}{character}a"))?.first().copied();
    Ok(if first == Some(2 * character.len_utf8()) { Class::Other } else { Class::Space })
}

fn ascii_class(byte: u8) -> Class {
    match byte {
        b'\n' | b'\r' => Class::Newline,
        b' ' | b'\t' | 0xb | 0xc => Class::Space,
        b'0'..=b'9' => Class::Number,
        _ if byte.is_ascii_alphabetic() => Class::Letter,
        _ => Class::Other,
    }
}

/// The end of `'s`, `'re` and their like, in any case.
fn contraction_end(line: &[u8], start: usize) -> Option<usize> {
    let [b'\'', rest @ ..] = &line[start..] else { return None };
    let letter = |index: usize| rest.get(index).map(u8::to_ascii_lowercase);
    match (letter(0)?, letter(1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(start + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(start + 3),
        _ => None,
    }
}

/// The next place after a line break where a new line begins with something that is no space.
fn next_line(text: &[u8], start: usize, end: usize) -> usize {
    let mut at = start;
    while let Some(found) = text[at..end].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        at += found + 1;
        match text.get(at) {
            Some(byte) if at < end && byte.is_ascii_graphic() => return at,
            _ => {}
        }
    }
    end
}

/// Whether normalization (NFC) leaves a character alone and what comes before and after it too, and the pattern has
/// no special case for it. Ranges that Unicode keeps stable; what they leave out is only slower.
fn is_inert(character: char) -> bool {
    matches!(character,
        '\0'..='\u{7f}'
        | '\u{a0}'..='\u{17e}' // Latin
        | '\u{180}'..='\u{24f}'
        | '\u{391}'..='\u{3a1}' | '\u{3a3}'..='\u{3ce}' // Greek
        | '\u{400}'..='\u{482}' | '\u{48a}'..='\u{52f}' // Cyrillic
        | '\u{5d0}'..='\u{5ea}' // Hebrew letters
        | '\u{621}'..='\u{63a}' | '\u{641}'..='\u{64a}' | '\u{660}'..='\u{669}' // Arabic letters and digits
        | '\u{e01}'..='\u{e30}' | '\u{e32}' | '\u{e33}' // Thai
        | '\u{1e00}'..='\u{1e9a}' | '\u{1ea0}'..='\u{1ef9}' // more Latin
        | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' // punctuation
        | '\u{20a0}'..='\u{20bf}' // currencies
        | '\u{2190}'..='\u{21ff}' | '\u{2500}'..='\u{2775}' // arrows, boxes, symbols
        | '\u{3001}'..='\u{3020}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fe}' // Japanese
        | '\u{4e00}'..='\u{9fa5}' // Chinese
        | '\u{fe0f}'
        | '\u{ff01}'..='\u{ff5e}' // full width
        | '\u{1f300}'..='\u{1f64f}' | '\u{1f680}'..='\u{1f6c5}' | '\u{1f900}'..='\u{1f9ff}' // pictures
    )
}

/// The printable letters that stand for bytes: a printable byte for itself, the others from U+0100 on.
fn byte_letters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::try_from(byte).unwrap_or_default(),
            _ => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(code).unwrap_or_default()
    })
}

/// The parts of `tokenizer.json` that tell the kind of tokenizer.
#[derive(Deserialize)]
struct Definition {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: ModelDefinition,
}

#[derive(Deserialize)]
struct ModelDefinition {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

impl Definition {
    /// The number of digits in a word, if this is byte-level BPE with the pattern that is known here.
    fn max_digits(&self) -> Option<usize> {
        let no_normalizer = self.normalizer.is_null() || self.normalizer["type"] == "NFC";
        let trims = self.post_processor.to_string().contains("\"trim_offsets\":true");
        let [split, byte_level] = self.pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
        let pattern = split["pattern"]["Regex"].as_str()?;
        let is_split = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
        let is_byte_level = byte_level["type"] == "ByteLevel"
            && byte_level["add_prefix_space"] == false
            && byte_level["use_regex"] == false;
        let model = &self.model;
        let is_empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        let is_bpe = model.kind.as_deref() == Some("BPE")
            && model.dropout.is_none()
            && model.unk_token.is_none()
            && is_empty(&model.continuing_subword_prefix)
            && is_empty(&model.end_of_word_suffix)
            && !model.byte_fallback;
        if !no_normalizer || trims || !is_split || !is_byte_level || !is_bpe {
            return None;
        }
        match pattern.strip_prefix(PATTERN[0])?.strip_suffix(PATTERN[1])? {
            "" => Some(1),
            "{1,3}" => Some(3),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::LazyLock};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::Tokenizer;

    /// Byte-level BPE with a few merges; `{}` in the pattern is what follows `\p{N}`.
    fn tokenizer(digits: &str) -> Tokenizer {
        let letters = byte_letters();
        let mut vocab: Vec<String> = letters.iter().map(char::to_string).collect();
        let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "' s", "Ġ Ġ", "Ċ Ċ", "Ã ©", "Ġ Ã©", "ä ½", "ð Ł"];
        vocab.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        let vocab: serde_json::Map<String, Value> =
            vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let pattern = format!("{}{digits}{}", PATTERN[0], PATTERN[1]);
        let definition = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "NFC"},
            "added_tokens": [{"id": vocab.len(), "content": "<|end|>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, byte_level]},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                      "merges": merges},
        });
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer.json"), definition.to_string()).expect("a file");
        let tokenizer = Tokenizer::from_dir(folder.path()).expect("a tokenizer");
        assert!(tokenizer.has_byte_level());
        tokenizer
    }

    static ONE_DIGIT: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(""));
    static THREE_DIGITS: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer("{1,3}"));
    static QWEN: LazyLock<Option<Tokenizer>> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/qwen25-tokenizer");
        Tokenizer::from_dir(path).inspect_err(|error| eprintln!("skipped: {error}")).ok()
    });

    fn check(text: &str) -> Result<(), TestCaseError> {
        for tokenizer in [Some(&*ONE_DIGIT), Some(&*THREE_DIGITS), QWEN.as_ref()].into_iter().flatten() {
            let expected = tokenizer.encode_all_by_library(text).expect("the library encodes");
            prop_assert_eq!(tokenizer.encode(text).expect("we encode"), expected, "{:?}", text);
        }
        Ok(())
    }

    #[test]
    fn corners_of_the_pattern() -> Result<(), TestCaseError> {
        for text in [
            "",
            " ",
            "  ",
            "\n",
            "a",
            " a",
            "  a",
            "\ta",
            "\n a",
            "a \n b",
            "a  \n\n  b",
            "a\r\n\r\nb",
            "a\r b",
            "x  ",
            "it's IT'S we'll 'LL 'Re 'v 've 'x '' 's",
            "12345 1 22 333 4444",
            "!?\n\n a",
            " !?\n\nb",
            "a!b",
            "(a) [b]\n",
            "hello hello\nhello  hello",
            "<|end|>a <|end|> \n<|end|>",
            "é éé é1 日本 日本語\n語 🦀🦀 x🦀",
            "\u{3000}a \u{3000}\n",
            "e\u{301} \u{301}a\n\u{301}x",
            "\u{85}a \u{a0}b\u{200b}c",
            "a\n\u{3000}b\n日",
            "ſ 'ſ K",
            "١٢٣٤ ４５６７ Ⅳ ½²",
            "\u{2126} \u{387} \u{1e9b}\u{323} 가\u{11a8} か\u{3099}",
            "\0\u{1}\u{1c}a\u{b}b\u{c}\u{7f}",
        ] {
            check(text)?;
        }
        check(&"a".repeat(70_000))?;
        check(&format!("{}b", " ".repeat(70_000)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn ids_and_offsets_are_the_librarys(text in "[ -~\n\r\t]{0,40}") {
            check(&text)?;
        }

        #[test]
        fn any_text(text in ".{0,30}") {
            check(&text)?;
        }

        #[test]
        fn parts_that_meet(parts in prop::collection::vec(prop_oneof![
            Just(" "), Just("  "), Just("\n"), Just("\r\n"), Just("\t"), Just("'s"), Just("'Ll"), Just("'"), Just("a"), Just("Hello"),
            Just("1"), Just("234"), Just("!"), Just("..."), Just("é"), Just("e\u{301}"), Just("日本"), Just("🦀"), Just("\u{a0}"),
            Just("\u{3000}"), Just("<|end|>"), Just("\u{301}"), Just("½"), Just("ſ"), Just("—"), Just("’s"), Just("\u{2028}"),
        ], 0..16)) {
            check(&parts.concat())?;
        }
    }
}
