//! Files of conversations to tokenised batches in host memory.
//!
//! A row travels `source` -> `read` -> `format` -> `tokenize` -> [`Sequence`] -> [`pack()`] -> [`Batch`]. Nothing here
//! knows tensors or devices, and nothing is lost without a count: see [`Report`].
//!
//! ```
//! use reheat_data::{Batch, Dataset, DatasetSpec, PrepareOptions, prepare_sft};
//! use reheat_tokenizer::Tokenizer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let dir = folder.path();
//! # let tokenizer = r#"{
//! #     "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
//! #     "post_processor": null, "decoder": {"type": "Fuse"},
//! #     "added_tokens": [{"id": 2, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
//! #                       "normalized": false, "special": true}],
//! #     "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
//! #               "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
//! #               "vocab": {"h": 0, "i": 1}, "merges": []}
//! # }"#;
//! # std::fs::write(dir.join("tokenizer.json"), tokenizer)?;
//! # std::fs::write(dir.join("tokenizer_config.json"), r#"{"eos_token": "<end>"}"#)?;
//! std::fs::write(dir.join("rows.jsonl"), r#"{"prompt": "hi", "completion": "hih"}"#)?;
//! let tokenizer = Tokenizer::from_dir(dir)?;
//! let dataset = Dataset::open(&DatasetSpec::new(dir.join("rows.jsonl").to_string_lossy()).into())?;
//! let prepared = prepare_sft(&dataset, &tokenizer, None, &PrepareOptions::default(), &mut |_rows_done| {})?;
//!
//! // The prompt is read, the completion and the token that ends it are learned.
//! let sequence = &prepared.examples[0];
//! assert_eq!(sequence.input_ids, [0, 1, 0, 1, 0, 2]);
//! assert_eq!(sequence.labels(), [-100, -100, 0, 1, 0, 2]);
//! assert_eq!(prepared.report.trained_tokens, 4);
//!
//! // What a model gets: sequences laid end to end, each label at the position that predicts it.
//! let batch = Batch::from_sequences(&prepared.examples);
//! assert_eq!(batch.labels, [-100, 0, 1, 0, 2, -100]);
//! # Ok(())
//! # }
//! ```

mod row; // one row, and where it stands
mod read; // files to rows
mod source; // what people name, to files and rows of them
mod format; // rows to examples
mod conversion; // datasets to examples
mod tokenize; // examples to ids and labels
mod prepare; // datasets to what training takes, with a report
mod inspect; // what a dataset holds
mod spread; // quantities in numbers
mod write; // examples to files
mod labels; // what each token is learned as
mod batch; // sequences laid end to end
mod pack; // documents to full rows
mod order; // the order of an epoch
mod error;

pub use self::{
    batch::{Batch, IGNORE_INDEX, Sequence},
    conversion::{Conversion, ConversionOptions, ConvertedRow},
    error::{DataError, RowProblem},
    format::{Context, Detection, Example, Format, Message, Turns, detect},
    inspect::{Column, Finding, InspectedFile, Inspection, inspect},
    order::{TrainSamplingStrategy, epoch_order},
    pack::{PackOptions, PackReport, PackingStrategy, pack},
    prepare::{
        LengthReport, OnBadRow, Overlong, PreferencePair, PrepareOptions, Prepared, PreviewedRow, Prompt, Report,
        RewardPair, SkippedRow, TruncationMode, UnpairedCompletion, lengths, prepare_preference, prepare_prompts,
        prepare_reward, prepare_sft, prepare_unpaired, preview,
    },
    read::{RawRow, panic_is_expected},
    row::{Row, RowId},
    source::{Chosen, DataFiles, Dataset, DatasetMixture, DatasetSpec, Patterns, Rows, Sample, SplitFiles},
    spread::Spread,
    write::{ConvertOptions, ConvertTo, convert},
};
