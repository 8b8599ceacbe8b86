//! Ids equal those of `tokenizers` and `transformers` for Qwen2.5's tokenizer.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod shared;

use std::{path::Path, sync::LazyLock};

use reheat_tokenizer::{DecodeMode, Tokenizer};
use serde_json::Value;

static QWEN: LazyLock<Option<Tokenizer>> =
    LazyLock::new(|| shared::folder("data/qwen25-tokenizer").map(|dir| Tokenizer::from_dir(dir).unwrap()));

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn check_lines(path: &Path) {
    let Some(tokenizer) = QWEN.as_ref() else { return };
    let lines = shared::json_lines(path);
    assert!(!lines.is_empty());
    for line in lines {
        let text = line["text"].as_str().unwrap();
        let encoding = tokenizer.encode(text).unwrap();
        assert_eq!(encoding.ids, ids(&line["ids"]), "{text:?}");

        let expected = line["decoded"].as_str().unwrap_or(text);
        assert_eq!(tokenizer.decode(&encoding.ids, DecodeMode::KeepSpecialTokens).unwrap(), expected);

        let mut stream = tokenizer.decode_stream(DecodeMode::KeepSpecialTokens);
        let mut streamed = String::new();
        for &id in &encoding.ids {
            streamed.push_str(&stream.push(id).unwrap().unwrap_or_default());
        }
        streamed.push_str(&stream.finish().unwrap().unwrap_or_default());
        assert_eq!(streamed, expected);

        // A literal range that touches nothing sends the text through our own steps instead of the library's.
        let literal = text.len()..text.len() + 1;
        assert_eq!(tokenizer.encode_literal(text, std::slice::from_ref(&literal)).unwrap(), encoding, "{text:?}");
    }
}

#[test]
fn tokenizer_strings() {
    if let Some(dir) = shared::folder("data/tokenizer-strings") {
        check_lines(&dir.join("strings.jsonl"));
    }
}

#[test]
fn llama_cpp_vectors() {
    if let Some(dir) = shared::folder("data/llama-cpp-vectors") {
        check_lines(&dir.join("vectors.jsonl"));
        check_lines(&dir.join("transformers-qwen2-integration.jsonl"));
    }
}

#[test]
fn octopuses() {
    let Some(tokenizer) = QWEN.as_ref() else { return };
    let encoding = tokenizer.encode("Octopuses have three").unwrap();
    assert_eq!(encoding.ids, [18053, 453, 4776, 614, 2326]);
    assert_eq!(encoding.offsets, [0..3, 3..5, 5..9, 9..14, 14..20]);
    assert_eq!(tokenizer.tokens(&encoding.ids), ["Oct", "op", "uses", "Ġhave", "Ġthree"]);
}

#[test]
fn special_tokens_of_qwen() {
    let Some(tokenizer) = QWEN.as_ref() else { return };
    let special = tokenizer.special_tokens();
    assert_eq!(special.eos().map(|token| token.id), Some(151_645));
    assert_eq!(special.pad().map(|token| token.id), Some(151_643));
    assert_eq!(special.bos(), None);
    assert_eq!(special.additional().len(), 13);
    assert_eq!(tokenizer.eos_ids(), [151_645]);
    assert_eq!(tokenizer.vocab_size(), 151_665);
    assert!(tokenizer.is_special(151_644));
    assert!(!tokenizer.is_special(151_657), "`<tool_call>` is added and not special");
}

#[test]
fn a_batch_is_its_texts() {
    let Some(tokenizer) = QWEN.as_ref() else { return };
    let texts = ["one", "", "<|im_start|>two", "drei vier"];
    let batch = tokenizer.encode_batch(&texts).unwrap();
    for (text, encoding) in texts.iter().zip(batch) {
        assert_eq!(tokenizer.encode(text).unwrap(), encoding);
    }
}
