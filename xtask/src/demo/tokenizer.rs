//! The demo's own tokenizer: byte-level BPE as Qwen2 has it, with a small vocabulary.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// Ends a document. The base model's end of sequence and padding.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins and ends a turn in a conversation. The base model never meets them.
pub(super) const TURN_MARKERS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// How Qwen2 cuts text into words before merging bytes, from its `tokenizer.json`.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Learns a vocabulary of at most `vocab_size` tokens, special ones included, from `texts`. Gives `tokenizer.json`.
///
/// The ordinary tokens come first and the special ones last, as in Qwen2.
pub(super) fn train(texts: &[String], vocab_size: usize) -> Result<String> {
    let special: Vec<AddedToken> =
        [END_OF_TEXT, TURN_MARKERS[0], TURN_MARKERS[1]].map(|text| AddedToken::from(text, true)).into();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size - special.len())
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = untrained()?;
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(|error| anyhow!(error))?;
    tokenizer.add_special_tokens(&special);
    tokenizer.to_string(true).map_err(|error| anyhow!(error))
}

type Qwen2Tokenizer = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

fn untrained() -> Result<Qwen2Tokenizer> {
    let words = Split::new(SplitPattern::Regex(QWEN2_WORDS.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| anyhow!(error))?;
    // The regular expression above has cut the words, so the byte-level step must not use its own.
    let bytes = ByteLevel::new(false, false, false);
    TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(Some(NormalizerWrapper::from(NFC)))
        .with_pre_tokenizer(Some(PreTokenizerWrapper::from(Sequence::new(vec![words.into(), bytes.into()]))))
        .with_post_processor(Some(PostProcessorWrapper::from(bytes)))
        .with_decoder(Some(DecoderWrapper::from(bytes)))
        .build()
        .map_err(|error| anyhow!(error))
}

/// What stands in `tokenizer_config.json` beside it. No chat template: that comes with the tuned model.
pub(super) fn config(max_length: usize) -> Value {
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "additional_special_tokens": TURN_MARKERS,
        "bos_token": null,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": max_length,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": false,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": null,
    })
}
