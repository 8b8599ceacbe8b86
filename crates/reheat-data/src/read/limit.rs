//! Bounds on what a file can make the reader hold or do.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Most bytes of one row. The largest rows people have (whole books, long agent traces) are a tenth of this.
pub(crate) const MAX_ROW_BYTES: u64 = 64 << 20;

/// How many times its size compressed data may grow. Deflate can't exceed 1032, and data with text in it stays below
/// 100.
const MAX_EXPANSION: u64 = 1100;

/// Output below this is harmless at any ratio.
const HARMLESS_BYTES: u64 = 256 << 20;

/// Whether compressed data of a size may become so much.
pub(super) fn may_grow(compressed_bytes: u64, inflated_bytes: u64) -> bool {
    inflated_bytes <= HARMLESS_BYTES || inflated_bytes / MAX_EXPANSION <= compressed_bytes
}

/// Counts the bytes that pass.
pub(super) struct Counted<R> {
    inner: R,
    pub(super) bytes: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, bytes: Arc::default() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The output of a decompressor. What fails is of the kind `InvalidData`, unless the system says why; so does output
/// that grows out of proportion to its input.
pub(super) struct ExpansionGuard<R> {
    inner: R,
    input_bytes: Arc<AtomicU64>,
    output_bytes: u64,
}

impl<R> ExpansionGuard<R> {
    pub(super) fn new(inner: R, input_bytes: Arc<AtomicU64>) -> Self {
        Self { inner, input_bytes, output_bytes: 0 }
    }
}

impl<R: Read> Read for ExpansionGuard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(damaged)?;
        self.output_bytes += read as u64;
        let input_bytes = self.input_bytes.load(Ordering::Relaxed);
        if !may_grow(input_bytes, self.output_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{input_bytes} compressed bytes grew to {}, more than {MAX_EXPANSION} times as many",
                    self.output_bytes
                ),
            ));
        }
        Ok(read)
    }
}

/// What a decompressor says of its data comes in several kinds.
fn damaged(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { io::Error::new(io::ErrorKind::InvalidData, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decompression_bomb_is_cut_off() {
        let bomb = ExpansionGuard::new(io::repeat(0), Arc::new(1000.into()));
        let read = io::copy(&mut { bomb }, &mut io::sink());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
