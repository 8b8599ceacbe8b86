use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

use serde_json::Value;

use super::{
    KeepColumn, RawRow, csv, ipc, json,
    limit::{Counted, ExpansionGuard},
    parquet::ParquetRows,
    text,
};
use crate::DataError;

/// How a plain-text file is cut into rows, as `sample_by` of the `text` loader of `datasets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub(crate) enum TextUnit {
    /// Each line that isn't blank.
    #[default]
    Line,
    /// Lines up to the next blank one.
    Paragraph,
    /// The whole file.
    Document,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum FileKind {
    JsonLines,
    /// One list of rows, or rows that span lines.
    Json,
    Csv,
    Tsv,
    Text,
    Parquet,
    /// Arrow IPC with a footer.
    ArrowFile,
    /// Arrow IPC without one; what `datasets` writes.
    ArrowStream,
}

impl FileKind {
    fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON lines",
            Self::Json => "JSON",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Text => "plain text",
            Self::Parquet => "Parquet",
            Self::ArrowFile => "Arrow",
            Self::ArrowStream => "Arrow stream",
        }
    }
}

/// The rows of one file. An error in between ends the file; a bad row doesn't.
pub(crate) enum RawRows {
    /// A file that knows how many rows it has, and where.
    Parquet(Box<ParquetRows>),
    Other(BoxedRows),
}

pub(super) type BoxedRows = Box<dyn Iterator<Item = Result<RawRow, DataError>> + Send>;

impl RawRows {
    /// Passes over at most `count` rows and says how many there were.
    pub(crate) fn skip_rows(&mut self, count: u64) -> Result<u64, DataError> {
        match self {
            Self::Parquet(rows) => Ok(rows.skip_rows(count)),
            Self::Other(rows) => {
                for skipped in 0..count {
                    if rows.next().transpose()?.is_none() {
                        return Ok(skipped);
                    }
                }
                Ok(count)
            }
        }
    }
}

impl Iterator for RawRows {
    type Item = Result<RawRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Parquet(rows) => rows.next(),
            Self::Other(rows) => rows.next(),
        }
    }
}

/// How many rows a file has, bad ones too; most files have to be read for that.
///
/// # Errors
/// If the file can't be read to its end.
pub(crate) fn count(path: &Path) -> Result<u64, DataError> {
    open(path, TextUnit::default(), &|_| false)?.skip_rows(u64::MAX)
}

/// A file's rows.
///
/// # Errors
/// If the file can't be read, or it can't be told what it is.
pub(crate) fn open(path: &Path, unit: TextUnit, keep: KeepColumn) -> Result<RawRows, DataError> {
    let name: Arc<str> = path.display().to_string().into();
    let (kind, reader) = probe(path)?;
    Ok(RawRows::Other(match kind {
        FileKind::Parquet => return Ok(RawRows::Parquet(Box::new(ParquetRows::open(path, name, keep)?))),
        FileKind::ArrowFile => ipc::open_file(path, name, keep)?,
        FileKind::ArrowStream => ipc::open_stream(path, name, keep)?,
        FileKind::JsonLines => lossless(path, json::Lines::new(reader, name)),
        FileKind::Json => json_values(path, reader, name)?,
        FileKind::Csv => Box::new(csv::CsvRows::open(path, reader, name, csv::Separator::Sniffed)?),
        FileKind::Tsv => Box::new(csv::CsvRows::open(path, reader, name, csv::Separator::Tab)?),
        FileKind::Text => lossless(path, text::TextRows::new(reader, name, unit)),
    }))
}

type Reader = Box<dyn BufRead + Send>;

fn lossless(path: &Path, rows: impl Iterator<Item = io::Result<RawRow>> + Send + 'static) -> BoxedRows {
    let path = path.to_owned();
    let mut failed = false;
    Box::new(rows.map_while(move |row| {
        // A reader that failed once would fail again, for ever.
        if failed {
            return None;
        }
        failed = row.is_err();
        Some(row.map_err(DataError::read(&path)))
    }))
}

fn json_values(path: &Path, mut reader: Reader, name: Arc<str>) -> Result<BoxedRows, DataError> {
    let list = first_byte(&mut reader).map_err(DataError::read(path))? == Some(b'[');
    if list {
        return Ok(lossless(path, json::Values::list(reader, name)));
    }
    let mut rows = lossless(path, json::Values::sequence(reader, Arc::clone(&name)));
    let first = rows.next();
    let second = rows.next();
    if let (Some(Ok(_)), None) = (&first, &second)
        && let Some(Ok(row)) = first
    {
        return Ok(Box::new(text::wrapped_rows(row)));
    }
    Ok(Box::new(first.into_iter().chain(second).chain(rows)))
}

/// The first byte that isn't blank, with what is before it taken away.
fn first_byte(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let byte = buffer.get(blank).copied();
        if byte.is_some() {
            // Blanks before the first value stay: they hold line ends that count.
            return Ok(byte);
        }
        reader.consume(blank);
    }
}

/// Decides by content first and by name second, so that a misnamed file is read as what it is.
fn probe(path: &Path) -> Result<(FileKind, Reader), DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    if file.metadata().map_err(DataError::read(path))?.is_dir() {
        return Err(DataError::read(path)(io::ErrorKind::IsADirectory.into()));
    }
    let mut reader = decompressed(file).map_err(DataError::read(path))?;
    let compressed = reader.1;
    let start = reader.0.fill_buf().map_err(DataError::read(path))?;

    let binary = match start {
        [b'P', b'A', b'R', b'1', ..] => Some(FileKind::Parquet),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some(FileKind::ArrowFile),
        [0xff, 0xff, 0xff, 0xff, ..] => Some(FileKind::ArrowStream),
        _ => None,
    };
    if !compressed && start.len() < MIN_FRAME_BYTES && !start.is_empty() && is_named_compressed(path) {
        let reason = "it ends inside of its first frame".to_owned();
        return Err(DataError::Damaged { path: path.to_owned(), kind: "compressed data", reason });
    }
    if let Some(kind) = binary {
        if compressed {
            let reason = "it is compressed as a whole; these formats compress inside".to_owned();
            return Err(DataError::Damaged { path: path.to_owned(), kind: kind.name(), reason });
        }
        return Ok((kind, reader.0));
    }
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = start {
        let reason = "it is UTF-16, only UTF-8 is read".to_owned();
        return Err(DataError::Damaged { path: path.to_owned(), kind: "UTF-8 text", reason });
    }
    if start.starts_with(b"\xef\xbb\xbf") {
        reader.0.consume(3);
    }
    let (first_line, reader) = peek_lines(reader.0).map_err(DataError::read(path))?;
    let kind = text_kind(path, &first_line)?;
    Ok((kind, reader))
}

fn decompressed(file: File) -> io::Result<(Reader, bool)> {
    const BUFFER_BYTES: usize = 1 << 16;
    let counted = Counted::new(file);
    let bytes = Arc::clone(&counted.bytes);
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, counted);
    let start = reader.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => {
            let decoder = ExpansionGuard::new(flate2::bufread::MultiGzDecoder::new(reader), bytes);
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)), true)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ExpansionGuard::new(zstd::Decoder::with_buffer(reader)?, bytes);
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)), true)
        }
        _ => (Box::new(reader), false),
    })
}

/// The first two lines, cut to a length that decides, and a reader that still gives them.
fn peek_lines(mut reader: Reader) -> io::Result<(Vec<u8>, Reader)> {
    const PEEK_BYTES: u64 = 1 << 20;
    let mut start = Vec::new();
    while start.trim_ascii().is_empty() {
        if reader.by_ref().take(PEEK_BYTES).read_until(b'\n', &mut start)? == 0 || start.len() as u64 > PEEK_BYTES {
            break;
        }
    }
    reader.by_ref().take(PEEK_BYTES).read_until(b'\n', &mut start)?;
    let rest = io::Cursor::new(start.clone()).chain(reader);
    Ok((start, Box::new(rest)))
}

fn text_kind(path: &Path, start: &[u8]) -> Result<FileKind, DataError> {
    let extension = extension(path);
    let named = match extension.as_deref() {
        Some("jsonl" | "ndjson" | "jsonlines") => Some(FileKind::JsonLines),
        Some("json") => Some(FileKind::Json),
        Some("csv") => Some(FileKind::Csv),
        Some("tsv" | "tab") => Some(FileKind::Tsv),
        // Plain text may look like anything.
        Some("txt" | "text" | "md") => return Ok(FileKind::Text),
        _ => None,
    };
    let binary = match extension.as_deref() {
        Some("parquet") => Some("Parquet"),
        Some("arrow") => Some("Arrow"),
        _ => None,
    };
    let mut lines = start.trim_ascii_start().splitn(2, |&byte| byte == b'\n');
    let (first, second) = (lines.next().unwrap_or_default().trim_ascii(), lines.next().unwrap_or_default());
    let kind = match first.first() {
        Some(b'[')
            if serde_json::from_slice::<Value>(first).is_ok_and(|value| value.is_array())
                && !second.trim_ascii().is_empty() =>
        {
            // Lines that are lists: no rows, but the errors should count lines.
            FileKind::JsonLines
        }
        Some(b'[') => FileKind::Json,
        Some(b'{') => match serde_json::from_slice::<Value>(first) {
            Ok(_) if second.trim_ascii().is_empty() && named != Some(FileKind::JsonLines) => FileKind::Json,
            Ok(_) => FileKind::JsonLines,
            // An object that goes on in the next line. A damaged first line is followed by another object instead.
            Err(error) if error.is_eof() && matches!(second.trim_ascii_start().first(), Some(b'"' | b'}')) => {
                FileKind::Json
            }
            Err(_) if matches!(named, Some(FileKind::Csv | FileKind::Tsv)) => return Ok(named.unwrap_or(FileKind::Csv)),
            Err(_) => FileKind::JsonLines,
        },
        _ => match named {
            Some(FileKind::Json) => FileKind::Json,
            Some(kind) => kind,
            None if start.is_empty() && binary.is_none() => FileKind::JsonLines,
            None => {
                let found = if start.is_empty() {
                    "it is empty".to_owned()
                } else {
                    format!("it begins with {}", beginning(start))
                };
                return Err(match binary {
                    Some(kind) => DataError::Damaged { path: path.to_owned(), kind, reason: found },
                    None => DataError::UnknownFile { path: path.to_owned(), found },
                });
            }
        },
    };
    Ok(kind)
}

/// No frame of gzip or Zstandard is shorter.
const MIN_FRAME_BYTES: usize = 9;

fn is_named_compressed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|last| matches!(&*last.to_string_lossy().to_lowercase(), "gz" | "gzip" | "zst" | "zstd"))
}

fn beginning(start: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(&start[..start.len().min(24)]).into_owned();
    format!("`{}`", shown.escape_debug())
}

/// The extension that says what a file is, past one of compression.
fn extension(path: &Path) -> Option<String> {
    let lower = |extension: &OsStr| extension.to_string_lossy().to_lowercase();
    let last = lower(path.extension()?);
    match last.as_str() {
        "gz" | "zst" | "gzip" | "zstd" => Path::new(path.file_stem()?).extension().map(lower),
        _ => Some(last),
    }
}
