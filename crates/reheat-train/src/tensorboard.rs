//! Event files that TensorBoard and the dashboards around it read.
//!
//! A file is a row of TFRecords (length, masked CRC-32C of it, bytes, masked CRC-32C of them; TensorFlow 2.x,
//! `lib/io/record_writer.cc`), each holding an `Event` in protocol buffers (`core/util/event.proto`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{self, write_error};
use crate::{LogEntry, Logger, TrainError};

/// TensorBoard takes every file with `tfevents` in its name for one of events.
const FILE: &str = "events.out.tfevents.reheat";

/// Logs every number of every row as a scalar, under `train/` and `eval/` as transformers does.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: Option<File>,
}

impl TensorBoard {
    /// Will write an event file into `dir`; the one that is there is replaced when training starts.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { path: dir.into().join(FILE), file: None }
    }
}

impl Logger for TensorBoard {
    fn start(&mut self, entries: &[LogEntry]) -> Result<(), TrainError> {
        disk::create_dir(self.path.parent().expect("a file in a directory"))?;
        let time = wall_time();
        let mut bytes = record(&version(time));
        bytes.extend(entries.iter().flat_map(|entry| record(&scalars(entry, time))));
        disk::replace(&self.path, &bytes)?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = Some(file.map_err(write_error(&self.path))?);
        Ok(())
    }

    fn log(&mut self, entry: &LogEntry) -> Result<(), TrainError> {
        let file = self.file.as_mut().expect("`start` comes first");
        file.write_all(&record(&scalars(entry, wall_time()))).map_err(write_error(&self.path))
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The first event of every file.
fn version(time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, time); // Event.wall_time
    put_bytes(&mut event, 3, b"brain.Event:2"); // Event.file_version
    event
}

/// All numbers of an entry in one event.
fn scalars(entry: &LogEntry, time: f64) -> Vec<u8> {
    let (group, prefix) = match entry {
        LogEntry::Train(_) => ("train", ""),
        LogEntry::Evaluation(_) => ("eval", "eval_"),
    };
    let object = serde_json::to_value(entry).expect("an entry is numbers by name");
    let numbers = object.as_object().into_iter().flatten().filter(|(name, _)| *name != "step");
    let mut summary = Vec::new();
    for (name, value) in numbers.filter_map(|(name, value)| Some((name, value.as_f64()?))) {
        let mut scalar = Vec::new();
        let name = name.strip_prefix(prefix).unwrap_or(name);
        put_bytes(&mut scalar, 1, format!("{group}/{name}").as_bytes()); // Summary.Value.tag
        // Summary.Value.simple_value is a float.
        put_float(&mut scalar, 2, value as f32);
        put_bytes(&mut summary, 1, &scalar); // Summary.value
    }
    let mut event = Vec::new();
    put_double(&mut event, 1, time); // Event.wall_time
    put_key(&mut event, 2, 0); // Event.step
    put_varint(&mut event, entry.step());
    put_bytes(&mut event, 5, &summary); // Event.summary
    event
}

/// Number and wire type of a field.
fn put_key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(out, field << 3 | wire_type);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_key(out, field, 5);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, value.len() as u64);
    out.extend(value);
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(bytes);
    record.extend(masked(crc32c(bytes)).to_le_bytes());
    record
}

/// A checksum that may itself be part of what is summed (TensorFlow, `lib/hash/crc32c.h`).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's CRC-32 (RFC 3720, appendix B.4), bit by bit: rows are short.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EvalRow;

    /// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Written by `tensorboard` 2.21 for the same event: `event.SerializeToString()` through `RecordWriter`.
    #[test]
    fn a_record_is_tensorboards() {
        let row = EvalRow {
            step: 300,
            epoch: 0.5,
            loss: 1.25,
            metrics: std::iter::once(("entropy".to_owned(), 2.5)).collect(),
            runtime: 4.0,
            samples_per_second: 8.0,
        };
        let bytes = record(&scalars(&LogEntry::Evaluation(row), 1.5));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, EXPECTED);
    }

    const EXPECTED: &str = "7d0000000000000061558d7e09000000000000f83f10ac022a6f0a110a0a6576616c2f65706f6368150000003f0a100a09\
                            6576616c2f6c6f7373150000a03f0a130a0c6576616c2f656e74726f707915000020400a130a0c6576616c2f72756e74\
                            696d6515000080400a1e0a176576616c2f73616d706c65735f7065725f7365636f6e641500000041b3acad02";
}
