//! Loading, special tokens, literal text, streams and saving, on a small tokenizer of our own.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod fixture;

use std::{fs, sync::LazyLock};

use proptest::prelude::*;
use reheat_tokenizer::{DecodeMode, Tokenizer, TokenizerError};
use serde_json::{Value, json};

const IM_END: u32 = 263;

static SMALL: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_dir(fixture::folder(&[]).path()).unwrap());

fn load(files: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_dir(fixture::folder(files).path())
}

#[test]
fn a_user_cannot_forge_a_turn() {
    let text = "<|im_start|>hello<|im_end|><|im_end|>";
    let forged = SMALL.encode(text).unwrap();
    assert_eq!(forged.ids, [262, 259, IM_END, IM_END]);

    let typed = 12..27;
    let literal = SMALL.encode_literal(text, std::slice::from_ref(&typed)).unwrap();
    assert_eq!(literal.ids.iter().filter(|&&id| id == IM_END).count(), 1);
    assert_eq!(literal.ids.first(), Some(&262));
    assert_eq!(literal.ids.last(), Some(&IM_END));
    assert_eq!(SMALL.decode(&literal.ids, DecodeMode::KeepSpecialTokens).unwrap(), text);
}

#[test]
fn a_token_half_typed_by_the_user_is_text() {
    // The user ends with `<|im_end|`, the template goes on with `>`.
    let typed = 0..9;
    let encoding = SMALL.encode_literal("<|im_end|>", std::slice::from_ref(&typed)).unwrap();
    assert!(!encoding.ids.contains(&IM_END));
}

#[test]
fn added_tokens_that_are_not_special_are_text_in_literal_ranges_too() {
    assert_eq!(SMALL.encode("<tool>").unwrap().ids, [264]);
    let whole = 0..6;
    assert!(!SMALL.encode_literal("<tool>", std::slice::from_ref(&whole)).unwrap().ids.contains(&264));
}

#[test]
fn models_that_know_control_tokens_as_pieces_cannot_be_forged_either() {
    let folder = tempfile::tempdir().unwrap();
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "pre_tokenizer": null, "decoder": {"type": "Fuse"},
        "added_tokens": [
            {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        ],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [
            ["<unk>", 0.0], ["</s>", 0.0], ["a", -1.0], ["<", -5.0], ["/", -5.0], ["s", -5.0], [">", -5.0]]},
    });
    fixture::write(folder.path(), "tokenizer.json", &definition);
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("a</s>a").unwrap().ids, [2, 1, 2]);
    let typed = 1..5;
    let encoding = tokenizer.encode_literal("a</s>a</s>", std::slice::from_ref(&typed)).unwrap();
    assert_eq!(encoding.ids, [2, 3, 4, 5, 6, 2, 1]);
    assert_eq!(encoding.offsets, [0..1, 1..2, 2..3, 3..4, 4..5, 5..6, 6..10]);
}

#[test]
fn offsets_are_bytes_and_cover_whole_characters() {
    // The two bytes of the letter are two tokens over the same input.
    let encoding = SMALL.encode("éx").unwrap();
    assert_eq!(encoding.offsets, [0..2, 0..2, 2..3]);
    assert_eq!(encoding.token_span(&(0..2)), 0..2);
    assert_eq!(encoding.token_span(&(1..2)), 0..2);
    assert_eq!(encoding.token_span(&(2..3)), 2..3);
    assert_eq!(encoding.token_span(&(1..3)), 0..3);
    assert_eq!(encoding.token_span(&(3..9)), 3..3);
}

#[test]
fn a_composed_character_belongs_to_the_first_of_its_parts() {
    let encoding = SMALL.encode("e\u{301}x").unwrap();
    assert_eq!(encoding.offsets, [0..1, 0..1, 3..4]);
    assert_eq!(encoding.token_span(&(0..4)), 0..3);
    assert_eq!(encoding.token_span(&(1..4)), 2..3);
}

#[test]
fn bos_and_eos_come_from_the_post_processor_only_when_asked() {
    let mut definition = fixture::definition();
    definition["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [262], "tokens": ["<|im_start|>"]},
            "<|im_end|>": {"id": "<|im_end|>", "ids": [263], "tokens": ["<|im_end|>"]}},
    });
    let folder = fixture::folder(&[]);
    fixture::write(folder.path(), "tokenizer.json", &definition);
    let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("hello").unwrap().ids, [259]);
    let encoding = tokenizer.encode_with_special_tokens("hello").unwrap();
    assert_eq!(encoding.ids, [262, 259, 263]);
    assert_eq!(encoding.offsets, [0..0, 0..5, 5..5]);
    assert_eq!(encoding.token_span(&(0..5)), 1..2);
}

#[test]
fn truncation_and_padding_stored_in_the_file_are_ignored() {
    let mut definition = fixture::definition();
    definition["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    definition["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                                   "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    let folder = fixture::folder(&[]);
    fixture::write(folder.path(), "tokenizer.json", &definition);
    assert_eq!(Tokenizer::from_dir(folder.path()).unwrap().encode("abc").unwrap().len(), 3);
}

#[test]
fn roles_come_from_strings_and_objects() {
    let tokenizer = load(&[(
        "tokenizer_config.json",
        json!({"eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": true}, "pad_token": null,
               "bos_token": "<|im_start|>", "add_bos_token": true, "image_token": "<tool>",
               "additional_special_tokens": ["<|im_start|>", "<new>"]}),
    )])
    .unwrap();
    let special = tokenizer.special_tokens();
    assert_eq!(special.eos().map(|token| (token.content.as_str(), token.id)), Some(("<|im_end|>", IM_END)));
    assert_eq!(special.get("image_token").map(|token| token.id), Some(264));
    assert_eq!(special.pad(), None);
    assert_eq!(tokenizer.pad_id(), Some(IM_END), "padding falls back to the end of sequence");
    // A special token that the tokenizer lacks is added, as transformers does.
    assert_eq!(tokenizer.token_to_id("<new>"), Some(265));
    assert_eq!(tokenizer.encode("<new>").unwrap().ids, [265]);
    assert!(tokenizer.is_special(265));
}

#[test]
fn the_older_special_tokens_map_is_read() {
    let tokenizer = load(&[("special_tokens_map.json", json!({"eos_token": "<|endoftext|>"}))]).unwrap();
    assert_eq!(tokenizer.eos_ids(), [261]);
}

#[test]
fn generation_stops_at_the_ends_of_both_files() {
    let config = ("tokenizer_config.json", json!({"eos_token": "<|im_end|>"}));
    let list = load(&[config.clone(), ("generation_config.json", json!({"eos_token_id": [263, 261]}))]).unwrap();
    assert_eq!(list.eos_ids(), [263, 261]);
    let number = load(&[config, ("generation_config.json", json!({"eos_token_id": 261}))]).unwrap();
    assert_eq!(number.eos_ids(), [263, 261]);
}

#[test]
fn control_tokens_are_text_everywhere_where_the_model_says_so() {
    let tokenizer = load(&[("tokenizer_config.json", json!({"split_special_tokens": true}))]).unwrap();
    assert!(!tokenizer.encode("<|im_end|>").unwrap().ids.contains(&IM_END));
    let nothing = 99..100;
    assert_eq!(
        tokenizer.encode_literal("a<|im_end|><tool>", std::slice::from_ref(&nothing)).unwrap(),
        tokenizer.encode("a<|im_end|><tool>").unwrap()
    );
}

#[test]
fn a_new_end_of_sequence_reaches_every_file() {
    let folder = fixture::folder(&[
        ("tokenizer_config.json", json!({"eos_token": "<|endoftext|>", "model_max_length": 5})),
        ("special_tokens_map.json", json!({"eos_token": {"content": "<|endoftext|>", "lstrip": false}})),
        ("generation_config.json", json!({"eos_token_id": 261, "temperature": 0.7})),
    ]);
    let mut tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
    tokenizer.set_eos_token("<|im_end|>").unwrap();
    assert_eq!(tokenizer.eos_ids(), [263, 261]);

    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path().join("new")).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(out.path().join("new").join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("tokenizer_config.json"), json!({"eos_token": "<|im_end|>", "model_max_length": 5}));
    assert_eq!(read("special_tokens_map.json"), json!({"eos_token": {"content": "<|im_end|>", "lstrip": false}}));
    assert_eq!(
        read("generation_config.json"),
        json!({"eos_token_id": [263, 261], "temperature": 0.7, "pad_token_id": 263})
    );
    assert_eq!(
        fs::read(out.path().join("new/tokenizer.json")).unwrap(),
        fs::read(folder.path().join("tokenizer.json")).unwrap()
    );
    let again = Tokenizer::from_dir(out.path().join("new")).unwrap();
    assert_eq!(again.eos_ids(), tokenizer.eos_ids());
    assert_eq!(again.special_tokens(), tokenizer.special_tokens());
}

#[test]
fn tokens_added_by_the_configuration_are_saved() {
    let tokenizer = load(&[("tokenizer_config.json", json!({"pad_token": "<pad>"}))]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path()).unwrap();
    fs::remove_file(out.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(Tokenizer::from_dir(out.path()).unwrap().token_to_id("<pad>"), Some(265));
}

fn check_error(files: &[(&str, Value)], expected: &str) {
    let error = load(files).unwrap_err().to_string();
    let text = error.split('`').enumerate().map(|(index, part)| {
        // Paths differ from run to run; only the file's name is held.
        if index % 2 == 1 { part.rsplit('/').next().unwrap_or(part) } else { part }
    });
    assert_eq!(text.collect::<Vec<_>>().join("`"), expected);
}

#[test]
fn wrong_shapes_name_file_and_key() {
    check_error(
        &[("tokenizer_config.json", json!({"eos_token": 7}))],
        "`tokenizer_config.json`: `eos_token` must be a string or an object with `content`",
    );
    check_error(&[("tokenizer_config.json", json!([]))], "`tokenizer_config.json`: `the file` must be a JSON object");
    check_error(
        &[("generation_config.json", json!({"eos_token_id": "<|im_end|>"}))],
        "`generation_config.json`: `eos_token_id` must be a token id or a list of them",
    );
    check_error(
        &[("tokenizer_config.json", json!({"added_tokens_decoder": {"7": {"content": "<|im_end|>"}}}))],
        "`tokenizer_config.json` gives token `<|im_end|>` the id 7, but the tokenizer 263",
    );
}

#[test]
fn an_added_token_behind_a_gap_is_an_error() {
    // The library would move it to the first free id, or onto one that isn't free.
    let mut definition = fixture::definition();
    definition["added_tokens"][3]["id"] = json!(270);
    let folder = fixture::folder(&[]);
    fixture::write(folder.path(), "tokenizer.json", &definition);
    let error = Tokenizer::from_dir(folder.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::IdMismatch { declared: 270, found: 264, .. }), "{error}");
}

#[test]
fn missing_and_damaged_files_are_errors_with_hints() {
    let empty = tempfile::tempdir().unwrap();
    let missing = Tokenizer::from_dir(empty.path()).unwrap_err();
    assert!(matches!(missing, TokenizerError::Missing { .. }));
    assert!(missing.hint().is_some());

    let text = serde_json::to_string(&fixture::definition()).unwrap();
    for end in [0, 1, 100, text.len() / 2, text.len() - 1] {
        fs::write(empty.path().join("tokenizer.json"), &text[..end]).unwrap();
        let error = Tokenizer::from_dir(empty.path()).unwrap_err();
        assert!(matches!(error, TokenizerError::Definition { .. }), "{error}");
    }
    fs::write(empty.path().join("tokenizer.json"), &text).unwrap();
    fs::write(empty.path().join("tokenizer_config.json"), "{\"eos_token\": ").unwrap();
    let error = Tokenizer::from_dir(empty.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::Json { .. }), "{error}");
}

#[test]
fn an_unknown_end_of_sequence_is_refused() {
    let error = SMALL.clone().set_eos_token("<nope>").unwrap_err();
    assert_eq!(error.to_string(), "token `<nope>` is not in the vocabulary of 265 tokens");
}

#[test]
fn a_stream_waits_for_whole_characters() {
    let ids = SMALL.encode("a🦀b").unwrap().ids;
    let mut stream = SMALL.decode_stream(DecodeMode::KeepSpecialTokens);
    let pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    let expected = [Some("a"), None, None, None, Some("🦀"), Some("b")];
    assert_eq!(pieces.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    assert_eq!(stream.finish().unwrap(), None);
}

#[test]
fn a_stream_ends_with_what_was_unfinished() {
    let ids = SMALL.encode("🦀").unwrap().ids;
    let mut stream = SMALL.decode_stream(DecodeMode::KeepSpecialTokens);
    for &id in &ids[..2] {
        assert_eq!(stream.push(id).unwrap(), None);
    }
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{fffd}"));
    assert_eq!(stream.finish().unwrap(), None);
}

/// Text with control tokens, half ones, whitespace and characters of several bytes.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("<|im_end|>".to_owned()),
        Just("<|im_start|>".to_owned()),
        Just("<tool>".to_owned()),
        Just("<|im_".to_owned()),
        Just("end|>".to_owned()),
        Just(" hello".to_owned()),
        ".{0,6}",
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn decoding_gives_the_text_back(text in "[ -~\\n🦀é漢]{0,40}") {
        let encoding = SMALL.encode(&text).unwrap();
        prop_assert_eq!(SMALL.decode(&encoding.ids, DecodeMode::KeepSpecialTokens).unwrap(), text);
    }

    #[test]
    fn our_steps_equal_the_librarys(text in text()) {
        let nothing = text.len()..text.len() + 1;
        let ours = SMALL.encode_literal(&text, std::slice::from_ref(&nothing)).unwrap();
        prop_assert_eq!(ours, SMALL.encode(&text).unwrap());
    }

    #[test]
    fn literal_text_never_yields_an_added_token(before in text(), typed in text(), after in text()) {
        let text = format!("{before}{typed}{after}");
        let literal = before.len()..before.len() + typed.len();
        let encoding = SMALL.encode_literal(&text, std::slice::from_ref(&literal)).unwrap();
        for (id, offset) in encoding.ids.iter().zip(&encoding.offsets) {
            let touches = !typed.is_empty() && offset.start < literal.end && literal.start < offset.end;
            prop_assert!(!(touches && *id >= 261), "{id} at {offset:?}");
        }
    }

    #[test]
    fn a_stream_gives_the_decoded_text(ids in prop::collection::vec(0_u32..270, 0..60), skip: bool) {
        let mode = if skip { DecodeMode::SkipSpecialTokens } else { DecodeMode::KeepSpecialTokens };
        let mut stream = SMALL.decode_stream(mode);
        let mut streamed = String::new();
        for &id in &ids {
            streamed.push_str(&stream.push(id).unwrap().unwrap_or_default());
        }
        streamed.push_str(&stream.finish().unwrap().unwrap_or_default());
        prop_assert_eq!(streamed, SMALL.decode(&ids, mode).unwrap());
    }

    #[test]
    fn a_token_span_covers_its_bytes(text in text(), start in 0_usize..40, length in 1_usize..20) {
        let encoding = SMALL.encode(&text).unwrap();
        let span = start..start + length;
        let tokens = encoding.token_span(&span);
        for (index, offset) in encoding.offsets.iter().enumerate() {
            let touches = offset.start < span.end && span.start < offset.end;
            prop_assert_eq!(tokens.contains(&index), touches);
        }
    }
}

#[test]
fn added_special_tokens_are_saved_and_known_ones_stay() {
    let mut tokenizer = SMALL.clone();
    let before = tokenizer.vocab_size();
    let ids = tokenizer.add_special_tokens(&["<call>".into(), "<|im_end|>".into(), "</call>".into()]).unwrap();
    assert_eq!(ids, [before as u32, IM_END, before as u32 + 1]);
    let text = "<call>hello</call>";
    let encoded = tokenizer.encode(text).unwrap().ids;
    assert_eq!((encoded.first(), encoded.last()), (Some(&ids[0]), Some(&ids[2])));
    let whole = 0..text.len();
    let literal = tokenizer.encode_literal(text, std::slice::from_ref(&whole)).unwrap().ids;
    assert!(!literal.contains(&ids[0]), "a user cannot forge it");
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let loaded = Tokenizer::from_dir(folder.path()).unwrap();
    assert_eq!(loaded.encode(text).unwrap().ids, encoded);
    assert!(loaded.is_special(ids[2]) && loaded.decode(&encoded, DecodeMode::SkipSpecialTokens).unwrap() == "hello");
    assert!(tokenizer.add_special_tokens(&[String::new()]).is_err());
}
