//! What preparing made, kept on disk.
//!
//! The name of an entry is a digest of everything that it depends on: the bytes of the dataset's files and which of
//! their rows are meant, the tokenizer, the template, the settings, and this crate's version. A changed byte anywhere is
//! another name. An entry ends with a digest of itself, so that a damaged one is noticed and made again.

use std::{
    borrow::Cow,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{PreferencePair, PrepareOptions, Prepared, Report, SkippedRow, UnpairedCompletion, pipeline::Recipe};
use crate::{DataError, Dataset, Detection, Format, RowId, Sequence};

/// Changes with what is written, so that entries of other versions are never read.
const VERSION: &str = concat!("reheat-data ", env!("CARGO_PKG_VERSION"), " cache 1");
const DIGEST_BYTES: usize = 32;

/// Something that the cache keeps: lists of 32-bit words.
pub(super) trait Record: Sized {
    fn lists(&self) -> Vec<Vec<u32>>;
    /// `None` if it is none of these records.
    fn from_lists(lists: Vec<Vec<u32>>) -> Option<Self>;
}

impl Record for Sequence {
    fn lists(&self) -> Vec<Vec<u32>> {
        let labels = self.labels.iter().map(|label| label.cast_unsigned()).collect();
        // A document is shorter than 2^32 tokens: its ids are in memory.
        vec![self.input_ids.clone(), labels, self.seq_lens.iter().map(|len| *len as u32).collect()]
    }

    fn from_lists(lists: Vec<Vec<u32>>) -> Option<Self> {
        let [input_ids, labels, seq_lens] = lists.try_into().ok()?;
        let labels = labels.into_iter().map(u32::cast_signed).collect();
        Some(Self { input_ids, labels, seq_lens: seq_lens.into_iter().map(|len| len as usize).collect() })
    }
}

impl Record for PreferencePair {
    fn lists(&self) -> Vec<Vec<u32>> {
        vec![self.prompt_ids.clone(), self.chosen_ids.clone(), self.rejected_ids.clone()]
    }

    fn from_lists(lists: Vec<Vec<u32>>) -> Option<Self> {
        let [prompt_ids, chosen_ids, rejected_ids] = lists.try_into().ok()?;
        Some(Self { prompt_ids, chosen_ids, rejected_ids })
    }
}

impl Record for UnpairedCompletion {
    fn lists(&self) -> Vec<Vec<u32>> {
        vec![self.prompt_ids.clone(), self.completion_ids.clone(), vec![u32::from(self.label)]]
    }

    fn from_lists(lists: Vec<Vec<u32>>) -> Option<Self> {
        let [prompt_ids, completion_ids, label] = lists.try_into().ok()?;
        Some(Self { prompt_ids, completion_ids, label: label == [1] })
    }
}

/// The file in which the cache keeps, or will keep, what a recipe makes of a dataset. `None` where there is no cache,
/// or where the text depends on the time of day.
pub(super) fn entry<R: Recipe>(
    dataset: &Dataset,
    recipe: &R,
    options: &PrepareOptions,
) -> Result<Option<PathBuf>, DataError> {
    let encoder = recipe.encoder();
    let Some(folder) = &options.cache else { return Ok(None) };
    if encoder.template.is_some_and(reheat_chat::ChatTemplate::uses_clock) {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    let mut feed = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    feed(VERSION.as_bytes());
    feed(R::NEEDED.as_bytes());
    feed(&dataset.digest()?);
    encoder.tokenizer.fingerprint(&mut feed);
    feed(encoder.template.map(reheat_chat::ChatTemplate::fingerprint).unwrap_or_default().as_bytes());
    let settings = PrepareOptions { cache: None, rejected: None, packing_batch_size: None, ..options.clone() };
    feed(format!("{settings:?}").as_bytes());
    let name: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(folder.join(name).with_extension("rows")))
}

/// What an entry holds. `None` where there is none, or where it is damaged, which is said.
pub(super) fn load<T: Record>(path: &Path) -> Result<Option<Prepared<T>>, DataError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::Read { path: path.to_owned(), source }),
    };
    let prepared = decode(&bytes);
    if prepared.is_none() {
        tracing::warn!("the cached rows in `{}` are damaged and made again", path.display());
    }
    Ok(prepared)
}

/// Keeps what was made. The entry appears when it is whole.
pub(super) fn store<T: Record>(path: &Path, prepared: &Prepared<T>) -> Result<(), DataError> {
    let failed = |source| DataError::Write { path: path.to_owned(), source };
    let bytes = encode(prepared).map_err(io::Error::other).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    // Two runs may make the same entry.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&partial)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(failed)
}

/// The report as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    files: Vec<(String, Format, String)>,
    skipped: Vec<(String, u64)>,
    skipped_rows: Vec<(RowId, String, String, u64)>,
    counts: [u64; 10],
    /// Lists of each record.
    lists: usize,
    records: usize,
}

fn encode<T: Record>(prepared: &Prepared<T>) -> Result<Vec<u8>, serde_json::Error> {
    let Report {
        files,
        rows,
        filtered,
        not_sampled,
        skipped,
        skipped_rows,
        examples,
        tokens,
        trained_tokens,
        truncated,
        tokens_cut,
        without_trained_token,
        diverging_prompts,
        packing: _, // comes after
    } = &prepared.report;
    let row = |row: &SkippedRow| (row.row.clone(), row.reason.to_string(), row.problem.clone(), row.index);
    let kept = Kept {
        files: files.iter().map(|(file, found)| (file.clone(), found.format, found.reason.clone())).collect(),
        skipped: skipped.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
        skipped_rows: skipped_rows.iter().map(row).collect(),
        counts: [
            *rows,
            *filtered,
            *not_sampled,
            *examples,
            *tokens,
            *trained_tokens,
            *truncated,
            *tokens_cut,
            *without_trained_token,
            *diverging_prompts,
        ],
        lists: prepared.examples.first().map_or(0, |example| example.lists().len()),
        records: prepared.examples.len(),
    };
    let head = serde_json::to_vec(&kept)?;
    let mut bytes = Vec::with_capacity(head.len() + 16);
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head);
    for example in &prepared.examples {
        for list in example.lists() {
            bytes.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    Ok(bytes)
}

fn decode<T: Record>(bytes: &[u8]) -> Option<Prepared<T>> {
    let (mut rest, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let head = usize::try_from(take_u64(&mut rest)?).ok()?;
    let Kept { files, skipped, skipped_rows, counts, lists, records } =
        serde_json::from_slice(rest.split_off(..head)?).ok()?;
    let mut examples = Vec::with_capacity(records.min(bytes.len()));
    for _ in 0..records {
        let record: Option<Vec<Vec<u32>>> = (0..lists).map(|_| take_list(&mut rest)).collect();
        examples.push(T::from_lists(record?)?);
    }
    let [rows, filtered, not_sampled, num_examples, tokens, trained_tokens, truncated, tokens_cut, nothing, diverging] =
        counts;
    let row = |(row, reason, problem, index)| SkippedRow { row, reason: Cow::Owned(reason), problem, index };
    let report = Report {
        files: files.into_iter().map(|(file, format, reason)| (file, Detection::kept(format, reason))).collect(),
        rows,
        filtered,
        not_sampled,
        skipped: skipped.into_iter().map(|(reason, count)| (Cow::Owned(reason), count)).collect(),
        skipped_rows: skipped_rows.into_iter().map(row).collect(),
        examples: num_examples,
        tokens,
        trained_tokens,
        truncated,
        tokens_cut,
        without_trained_token: nothing,
        diverging_prompts: diverging,
        packing: None,
    };
    Some(Prepared { examples, report })
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let word = bytes.split_off(..8)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

fn take_list(bytes: &mut &[u8]) -> Option<Vec<u32>> {
    let length = usize::try_from(take_u64(bytes)?).ok()?;
    let words = bytes.split_off(..length.checked_mul(4)?)?;
    Some(words.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}
