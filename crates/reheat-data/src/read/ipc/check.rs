//! What the messages of an Arrow file may not say. The decoder allocates what lengths ask for and follows types by
//! recursion, and an allocation that fails ends the process; so every message is looked at first.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use polars_arrow_format::ipc::{
    BlockRef, BufferRef, FieldRef, FooterRef, MessageHeaderRef, MessageRef, RecordBatchRef, SchemaRef,
    planus::{self, ReadAsRoot},
};

use crate::read::limit;

/// Most bytes of a message without its body, or of a footer.
const MAX_METADATA_BYTES: u64 = 256 << 20;

/// How deep types may be nested, and how many there may be: a type that is used twice is there twice.
const MAX_DEPTH: usize = 64;
const MAX_TYPES: usize = 100_000;

/// Rows of a batch that need no bytes: those of columns that are null throughout.
const FREE_ROWS: u64 = 1 << 20;

type Check = Result<(), Refused>;

/// Why a file is not given to the decoder.
pub(super) enum Refused {
    Read(io::Error),
    Damaged(String),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            refused("it ends inside of a message")
        } else {
            Self::Read(error)
        }
    }
}

impl From<planus::Error> for Refused {
    fn from(error: planus::Error) -> Self {
        Self::Damaged(error.to_string().replace('\n', " "))
    }
}

fn refused(reason: impl Into<String>) -> Refused {
    Refused::Damaged(reason.into())
}

/// Checks a file with a footer.
pub(super) fn file(file: &mut File) -> Check {
    let file_bytes = file.seek(SeekFrom::End(0))?;
    if file_bytes < 18 {
        return Err(refused("it ends before its footer"));
    }
    let mut tail = [0; 10];
    file.seek(SeekFrom::Start(file_bytes - 10))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if &magic != b"ARROW1" {
        return Err(refused("it does not end with a footer, as a file that was cut off"));
    }
    let length = u64::try_from(i32::from_le_bytes([a, b, c, d])).unwrap_or(u64::MAX);
    if length > (file_bytes - 10).min(MAX_METADATA_BYTES) {
        return Err(refused(format!("its footer would have {length} bytes of {file_bytes}")));
    }
    let footer = bytes(file, file_bytes - 10 - length, length)?;
    let footer = FooterRef::read_as_root(&footer)?;
    if let Some(schema) = footer.schema()? {
        types(schema)?;
    }
    let blocks = footer.dictionaries()?.into_iter().chain(footer.record_batches()?);
    for block in blocks.flat_map(|blocks| blocks.iter()) {
        let (offset, body) = place(block, file_bytes).ok_or_else(|| refused("it has a block outside of itself"))?;
        message(file, offset, Some(body), file_bytes)?;
    }
    Ok(())
}

/// Checks a stream from its first message to its last.
pub(super) fn stream(file: &mut File) -> Check {
    let file_bytes = file.seek(SeekFrom::End(0))?;
    let mut offset = 0;
    while offset + 4 <= file_bytes {
        match message(file, offset, None, file_bytes)? {
            Some(end) => offset = end,
            None => break,
        }
    }
    Ok(())
}

/// Where a block and its body begin.
fn place(block: BlockRef, file_bytes: u64) -> Option<(u64, u64)> {
    let offset = u64::try_from(block.offset()).ok()?;
    let body = offset.checked_add(u64::try_from(block.meta_data_length()).ok()?)?;
    let end = body.checked_add(u64::try_from(block.body_length()).ok()?)?;
    (end <= file_bytes).then_some((offset, body))
}

/// Checks one message and says where it ends; `None` at the mark that ends a stream. Its body begins behind it unless
/// a footer says otherwise.
fn message(file: &mut File, offset: u64, body: Option<u64>, file_bytes: u64) -> Result<Option<u64>, Refused> {
    let word = |file: &mut File, offset: u64| -> Result<[u8; 4], Refused> {
        let mut word = [0; 4];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut word)?;
        Ok(word)
    };
    let (mut length, mut start) = (word(file, offset)?, offset + 4);
    if length == [0xff; 4] {
        (length, start) = (word(file, offset + 4)?, offset + 8);
    }
    let length = u64::try_from(i32::from_le_bytes(length)).unwrap_or(u64::MAX);
    if length == 0 {
        return Ok(None);
    }
    if length > file_bytes.saturating_sub(start).min(MAX_METADATA_BYTES) {
        return Err(refused(format!("a message would have {length} bytes of {file_bytes}")));
    }
    let metadata = bytes(file, start, length)?;
    let message = MessageRef::read_as_root(&metadata)?;
    let body = body.unwrap_or(start + length);
    let body_bytes = u64::try_from(message.body_length()?).unwrap_or(u64::MAX);
    let end = body.checked_add(body_bytes).filter(|end| *end <= file_bytes);
    let end = end.ok_or_else(|| refused("it ends inside of a message"))?;
    match message.header()? {
        Some(MessageHeaderRef::Schema(schema)) => types(schema)?,
        Some(MessageHeaderRef::RecordBatch(of)) => batch(file, of, body, body_bytes)?,
        Some(MessageHeaderRef::DictionaryBatch(of)) => {
            if let Some(of) = of.data()? {
                batch(file, of, body, body_bytes)?;
            }
        }
        _ => {}
    }
    Ok(Some(end))
}

fn batch(file: &mut File, batch: RecordBatchRef, body: u64, body_bytes: u64) -> Check {
    let is_compressed = batch.compression()?.is_some();
    let mut inflated = 0_u64;
    let mut num_buffers = 0_u64;
    for buffer in batch.buffers()?.into_iter().flat_map(|buffers| buffers.iter()) {
        num_buffers += 1;
        let (offset, length) =
            range(buffer, body_bytes).ok_or_else(|| refused("a buffer lies outside of its message"))?;
        if is_compressed && length >= 8 {
            let mut prefix = [0; 8];
            file.seek(SeekFrom::Start(body + offset))?;
            file.read_exact(&mut prefix)?;
            // -1 says that this one is not compressed.
            let bytes = u64::try_from(i64::from_le_bytes(prefix)).unwrap_or(length);
            inflated = inflated.saturating_add(bytes);
            if !limit::may_grow(body_bytes, inflated) {
                return Err(refused(format!("a message of {body_bytes} bytes would grow to {inflated}")));
            }
        } else {
            inflated = inflated.saturating_add(length);
        }
    }
    for count in batch.variadic_buffer_counts()?.into_iter().flat_map(|counts| counts.iter()) {
        if u64::try_from(count).is_ok_and(|count| count > num_buffers) || count < 0 {
            return Err(refused("a column has more buffers than its message"));
        }
    }
    let rows = u64::try_from(batch.length()?).unwrap_or(u64::MAX);
    let node_rows = batch.nodes()?.into_iter().flat_map(|nodes| nodes.iter()).map(|node| node.length());
    let rows = node_rows.map(|rows| u64::try_from(rows).unwrap_or(u64::MAX)).fold(rows, u64::max);
    // A value has a bit at least.
    if rows > FREE_ROWS.max(inflated.saturating_mul(8)) {
        return Err(refused(format!("a message says that it has {rows} rows in {inflated} bytes")));
    }
    Ok(())
}

fn range(buffer: BufferRef, body_bytes: u64) -> Option<(u64, u64)> {
    let (offset, length) = (u64::try_from(buffer.offset()).ok()?, u64::try_from(buffer.length()).ok()?);
    (offset.checked_add(length)? <= body_bytes).then_some((offset, length))
}

fn types(schema: SchemaRef) -> Check {
    fn children(field: FieldRef, depth: usize, seen: &mut usize) -> Check {
        *seen += 1;
        if depth > MAX_DEPTH || *seen > MAX_TYPES {
            return Err(refused(format!(
                "its schema has more than {MAX_TYPES} types, or is nested more than {MAX_DEPTH} deep"
            )));
        }
        for child in field.children()?.into_iter().flat_map(|fields| fields.iter()) {
            children(child?, depth + 1, seen)?;
        }
        Ok(())
    }
    let mut seen = 0;
    for field in schema.fields()?.into_iter().flat_map(|fields| fields.iter()) {
        children(field?, 1, &mut seen)?;
    }
    Ok(())
}

fn bytes(file: &mut File, offset: u64, length: u64) -> Result<Vec<u8>, Refused> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
