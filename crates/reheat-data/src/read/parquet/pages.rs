use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};

use polars_buffer::Buffer;
use polars_parquet::parquet::{
    compression::{Compression, DecompressionContext, decompress},
    encoding::hybrid_rle::{HybridRleChunk, HybridRleDecoder},
    error::{ParquetError, ParquetResult},
    metadata::{ColumnChunkMetadata, Descriptor},
    page::{EncodedSplitBuffer, ParquetPageHeader, split_buffer_v1},
    read::{BasicDecompressor, PageMetaData, PageReader},
    schema::types::PrimitiveType,
};
use polars_parquet_format::{
    DataPageHeader, Encoding, PageType,
    thrift::protocol::{TCompactInputProtocol, TCompactOutputProtocol},
};

use crate::read::limit;

/// Most bytes of a page's header; statistics of long values make it larger than a few dozen.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// Most values of a page. Writers end a page after a megabyte or some ten thousand rows.
const MAX_PAGE_VALUES: i32 = 1 << 24;

/// A buffer for headers; the bodies of pages are read past it.
const BUFFER_BYTES: usize = 8 << 10;

/// The pages of one leaf of a column, inflated one after the other.
///
/// Each is passed on with a header of its own, which says that nothing in it is compressed.
pub(super) struct ColumnPages {
    reader: BufReader<Chunk>,
    compression: Compression,
    descriptor: Descriptor,
    context: DecompressionContext,
    num_values: i64,
    /// Values that are still to come.
    values_left: i64,
    dictionary: Option<Vec<u8>>,
    window: VecDeque<Page>,
    /// Rows that begin before the window does.
    first_row: u64,
}

/// An inflated page with its header.
struct Page {
    bytes: Vec<u8>,
    num_values: u64,
    /// Rows that begin in it.
    num_rows: u64,
}

impl ColumnPages {
    pub(super) fn open(file: &Arc<File>, column: &ColumnChunkMetadata) -> Self {
        let chunk = Chunk { file: Arc::clone(file), range: column.byte_range() };
        Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, chunk),
            compression: column.compression(),
            descriptor: column.descriptor().descriptor.clone(),
            context: DecompressionContext::Unset,
            num_values: column.num_values(),
            values_left: column.num_values(),
            dictionary: None,
            window: VecDeque::new(),
            first_row: 0,
        }
    }

    pub(super) fn primitive_type(&self) -> &PrimitiveType {
        &self.descriptor.primitive_type
    }

    /// Moves the window so that it holds `rows` of the row group, and gives the bytes in it.
    ///
    /// # Errors
    /// If the pages are damaged, end too early, or need more than `max_bytes`.
    pub(super) fn advance(&mut self, rows: &Range<u64>, max_bytes: u64) -> ParquetResult<u64> {
        // The last row of a list goes on until another begins.
        let more = u64::from(self.descriptor.max_rep_level > 0);
        loop {
            // A required value has no level that could stand for a row that is passed over (see `filler`).
            while self.descriptor.max_def_level > 0
                && let Some(page) = self.window.front()
                && self.first_row + page.num_rows <= rows.start
                && (self.window.len() > 1 || more == 0)
            {
                self.first_row += page.num_rows;
                self.window.pop_front();
            }
            let end = self.first_row + self.window.iter().map(|page| page.num_rows).sum::<u64>();
            let bytes = self.dictionary.iter().map(Vec::len).sum::<usize>()
                + self.window.iter().map(|page| page.bytes.len()).sum::<usize>();
            if self.values_left <= 0 && end < rows.end {
                return Err(out_of_spec("a column has fewer rows than the footer says"));
            }
            if self.values_left <= 0 || end >= rows.end + more {
                return Ok(bytes as u64);
            }
            self.next_page(max_bytes.saturating_sub(bytes as u64))?;
        }
    }

    pub(super) fn first_row(&self) -> u64 {
        self.first_row
    }

    /// The window as the decoder takes it, beginning with row `first_row`, which may lie before the window.
    pub(super) fn decompressor(&self, first_row: u64) -> ParquetResult<BasicDecompressor> {
        let filler = match self.first_row.saturating_sub(first_row) {
            0 => None,
            rows => Some(filler(&self.descriptor, rows)?),
        };
        let pages = || filler.iter().chain(&self.window);
        let dictionary = self.dictionary.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(dictionary.len() + pages().map(|page| page.bytes.len()).sum::<usize>());
        bytes.extend_from_slice(dictionary);
        pages().for_each(|page| bytes.extend_from_slice(&page.bytes));
        let metadata = PageMetaData {
            column_start: 0,
            num_values: pages().map(|page| page.num_values as i64).sum(),
            compression: Compression::Uncompressed,
            descriptor: self.descriptor.clone(),
        };
        let max_page_size = bytes.len().max(MAX_HEADER_BYTES);
        let reader =
            PageReader::new_with_page_meta(Cursor::new(Buffer::from(bytes)), metadata, Vec::new(), max_page_size);
        Ok(BasicDecompressor::new(reader, Vec::new()))
    }

    /// Reads and inflates one page.
    fn next_page(&mut self, max_bytes: u64) -> ParquetResult<()> {
        let header = {
            let mut protocol = TCompactInputProtocol::new(&mut self.reader, MAX_HEADER_BYTES);
            ParquetPageHeader::read_from_in_protocol(&mut protocol)?
        };
        let compressed = usize::try_from(header.compressed_page_size)?;
        let inflated = usize::try_from(header.uncompressed_page_size)?;
        let left = self.reader.get_ref().left() + self.reader.buffer().len() as u64;
        if compressed as u64 > left {
            return Err(out_of_spec("a page goes on past the end of its column"));
        }
        if inflated as u64 > max_bytes || !limit::may_grow(compressed as u64, inflated as u64) {
            return Err(out_of_spec(&format!("a page of {compressed} bytes would grow to {inflated}")));
        }
        let mut body = vec![0; compressed];
        self.reader.read_exact(&mut body)?;
        match header.type_ {
            PageType::DICTIONARY_PAGE => {
                if self.dictionary.is_some() || self.values_left < self.num_values {
                    return Err(out_of_spec("a column has a dictionary behind its first page"));
                }
                let body = self.inflate(body, 0, inflated)?;
                self.dictionary = Some(with_header(header, body)?);
            }
            PageType::DATA_PAGE => {
                let body = self.inflate(body, 0, inflated)?;
                let Some(of) = &header.data_page_header else { return Err(out_of_spec("a page lacks its header")) };
                let num_values = checked(of.num_values)?;
                let split = split_buffer_v1(&body, self.descriptor.max_rep_level > 0, false)?;
                let num_rows = self.count_rows(&split, num_values)?;
                self.push(header, body, num_values, num_rows)?;
            }
            PageType::DATA_PAGE_V2 => {
                let Some(of) = &header.data_page_header_v2 else { return Err(out_of_spec("a page lacks its header")) };
                let num_values = checked(of.num_values)?;
                let (rep, def) = (
                    usize::try_from(of.repetition_levels_byte_length)?,
                    usize::try_from(of.definition_levels_byte_length)?,
                );
                let levels = rep.saturating_add(def);
                let is_compressed = of.is_compressed.unwrap_or(true);
                if levels > body.len() || levels > inflated || (!is_compressed && body.len() != inflated) {
                    return Err(out_of_spec("a page's levels are longer than the page"));
                }
                let split = EncodedSplitBuffer { rep: &body[..rep], def: &[], values: &[] };
                let num_rows = self.count_rows(&split, num_values)?;
                let body = if is_compressed { self.inflate(body, levels, inflated)? } else { body };
                let mut header = header;
                if let Some(of) = &mut header.data_page_header_v2 {
                    of.is_compressed = Some(false);
                }
                self.push(header, body, num_values, num_rows)?;
            }
            // An index page; the decoder has no use for it.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, header: ParquetPageHeader, body: Vec<u8>, num_values: u64, num_rows: u64) -> ParquetResult<()> {
        self.values_left -= num_values as i64;
        self.window.push_back(Page { bytes: with_header(header, body)?, num_values, num_rows });
        Ok(())
    }

    /// The body of a page with all behind its first `levels` bytes inflated.
    fn inflate(&mut self, body: Vec<u8>, levels: usize, inflated: usize) -> ParquetResult<Vec<u8>> {
        if self.compression == Compression::Uncompressed {
            return if body.len() == inflated {
                Ok(body)
            } else {
                Err(out_of_spec("a page has another size than it says"))
            };
        }
        let mut whole = vec![0; inflated];
        whole[..levels].copy_from_slice(&body[..levels]);
        if body.len() > levels {
            decompress(self.compression, &body[levels..], &mut whole[levels..], &mut self.context)?;
        }
        Ok(whole)
    }

    /// How many rows begin in a page: those are the values that repeat nothing.
    fn count_rows(&self, split: &EncodedSplitBuffer, num_values: u64) -> ParquetResult<u64> {
        if self.descriptor.max_rep_level == 0 {
            return Ok(num_values);
        }
        let bits = 16 - self.descriptor.max_rep_level.leading_zeros();
        let mut levels = Vec::new();
        let mut rows = 0;
        for chunk in HybridRleDecoder::new(split.rep, bits, num_values as usize).into_chunk_iter() {
            rows += match chunk? {
                HybridRleChunk::Rle(0, length) => length,
                HybridRleChunk::Rle(..) => 0,
                HybridRleChunk::Bitpacked(decoder) => {
                    levels.clear();
                    decoder.collect_into(&mut levels);
                    levels.iter().filter(|level| **level == 0).count()
                }
            } as u64;
        }
        Ok(rows)
    }
}

/// A page of nulls, which stand for rows that are passed over.
///
/// The decoder takes one range for all leaves of a column, while the windows of these begin with different rows.
fn filler(descriptor: &Descriptor, rows: u64) -> ParquetResult<Page> {
    let num_values = checked(i32::try_from(rows)?)?;
    let mut body = Vec::new();
    for max_level in [descriptor.max_rep_level, descriptor.max_def_level] {
        if max_level > 0 {
            // One run of zeros: its length, and the level in as many bytes as levels have.
            let mut run = Vec::new();
            let mut length = rows << 1;
            while length >= 0x80 {
                run.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            run.push(length as u8);
            run.resize(run.len() + if max_level > 0xff { 2 } else { 1 }, 0);
            body.extend_from_slice(&(run.len() as u32).to_le_bytes());
            body.extend_from_slice(&run);
        }
    }
    let header = ParquetPageHeader {
        type_: PageType::DATA_PAGE,
        uncompressed_page_size: 0,
        compressed_page_size: 0,
        crc: None,
        data_page_header: Some(DataPageHeader {
            num_values: i32::try_from(rows)?,
            encoding: Encoding::PLAIN,
            definition_level_encoding: Encoding::RLE,
            repetition_level_encoding: Encoding::RLE,
            statistics: None,
        }),
        index_page_header: None,
        dictionary_page_header: None,
        data_page_header_v2: None,
    };
    Ok(Page { bytes: with_header(header, body)?, num_values, num_rows: rows })
}

fn with_header(mut header: ParquetPageHeader, body: Vec<u8>) -> ParquetResult<Vec<u8>> {
    (header.compressed_page_size, header.uncompressed_page_size) =
        (i32::try_from(body.len())?, i32::try_from(body.len())?);
    header.crc = None;
    if let Some(of) = &mut header.data_page_header {
        of.statistics = None;
    }
    if let Some(of) = &mut header.data_page_header_v2 {
        of.statistics = None;
    }
    let mut bytes = Vec::with_capacity(body.len() + 64);
    header.write_to_out_protocol(&mut TCompactOutputProtocol::new(&mut bytes))?;
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn checked(num_values: i32) -> ParquetResult<u64> {
    match u64::try_from(num_values) {
        Ok(values) if num_values <= MAX_PAGE_VALUES => Ok(values),
        _ => Err(out_of_spec(&format!("a page has {num_values} values"))),
    }
}

fn out_of_spec(reason: &str) -> ParquetError {
    ParquetError::OutOfSpec(reason.to_owned())
}

/// A part of a file. Several read from one, in turn.
struct Chunk {
    file: Arc<File>,
    range: Range<u64>,
}

impl Chunk {
    fn left(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Read for Chunk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left()).unwrap_or(usize::MAX).min(buffer.len());
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.range.start))?;
        let read = file.read(&mut buffer[..length])?;
        self.range.start += read as u64;
        Ok(read)
    }
}
