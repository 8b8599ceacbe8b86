//! What preparing made, kept on disk.
//!
//! The name of an entry is a digest of everything that it depends on: the bytes of the dataset's files and which of
//! their rows are meant, the tokenizer, the template, the settings, and this crate's version. A changed byte anywhere is
//! another name. An entry ends with a digest of itself, so that a damaged one is noticed and made again.

mod record;

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use self::record::Record;
use self::record::{Entry, damaged, write_bytes};
use super::{PrepareOptions, Prepared, Report, SkippedRow, pipeline::Recipe};
use crate::{DataError, Dataset, Detection, Format, RowId};

/// Changes with what is written, so that entries of other versions are never read.
const VERSION: &str = concat!("reheat-data ", env!("CARGO_PKG_VERSION"), " cache 4");
const DIGEST_BYTES: u64 = 32;

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
    let failed = DataError::read(path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    match decode(&file) {
        Ok(prepared) => {
            tracing::info!("the tokenised rows are those kept in `{}`", path.display());
            Ok(Some(prepared))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::warn!("the cached rows in `{}` are damaged and made again", path.display());
            Ok(None)
        }
        Err(source) => Err(failed(source)),
    }
}

/// Keeps what was made. The entry appears when it is whole.
pub(super) fn store<T: Record>(path: &Path, prepared: &Prepared<T>) -> Result<(), DataError> {
    let failed = |source| DataError::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    // Two runs may make the same entry.
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let write = || {
        let mut out = BufWriter::new(Digested { file: File::create(&partial)?, digest: Sha256::new() });
        encode(prepared, &mut out)?;
        let Digested { mut file, digest } = out.into_inner()?;
        file.write_all(&digest.finalize())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(failed)?;
    tracing::info!("the tokenised rows are kept in `{}`", path.display());
    Ok(())
}

/// A file, and the digest of what was written to it.
struct Digested {
    file: File,
    digest: Sha256,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The report as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    files: Vec<(String, Format, String)>,
    skipped: Vec<(String, u64)>,
    skipped_rows: Vec<(RowId, String, String, u64)>,
    counts: [u64; 11],
    records: usize,
}

fn encode<T: Record>(prepared: &Prepared<T>, out: &mut impl Write) -> io::Result<()> {
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
        hidden_tools,
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
            *hidden_tools,
        ],
        records: prepared.examples.len(),
    };
    write_bytes(out, &serde_json::to_vec(&kept)?)?;
    prepared.examples.iter().try_for_each(|example| example.write(out))
}

/// Reads the file twice, so that nothing is made of a damaged one, and no second copy of it is in memory.
fn decode<T: Record>(mut file: &File) -> io::Result<Prepared<T>> {
    let length = file.metadata()?.len().checked_sub(DIGEST_BYTES).ok_or_else(damaged)?;
    let mut digest = Sha256::new();
    io::copy(&mut file.take(length), &mut digest)?;
    let mut expected = Vec::new();
    file.read_to_end(&mut expected)?;
    if digest.finalize().as_slice() != expected {
        return Err(damaged());
    }
    file.rewind()?;
    let mut entry = Entry::new(BufReader::new(file), length);
    let Kept { files, skipped, skipped_rows, counts, records } = serde_json::from_slice(&entry.bytes()?)?;
    let examples = (0..records).map(|_| T::read(&mut entry)).collect::<io::Result<Vec<_>>>()?;
    if entry.left() > 0 {
        return Err(damaged());
    }
    let [
        rows,
        filtered,
        not_sampled,
        num_examples,
        tokens,
        trained_tokens,
        truncated,
        tokens_cut,
        nothing,
        diverging,
        hidden,
    ] = counts;
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
        hidden_tools: hidden,
        packing: None,
    };
    Ok(Prepared { examples, report })
}
