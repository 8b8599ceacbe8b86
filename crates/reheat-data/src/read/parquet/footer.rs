//! What a footer may not say. The decoder allocates what a list's length asks for and follows the schema by recursion,
//! and an allocation that fails ends the process; so the bytes are walked first.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use polars_parquet::parquet::metadata::FileMetadata;

/// Most bytes of a footer. A table of ten thousand columns in a hundred row groups stays below.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// Most items of a list in it.
const MAX_ITEMS: u64 = 1 << 22;

/// Most leaves of the schema.
const MAX_COLUMNS: usize = 10_000;

/// How deep structures and the schema may be nested.
const MAX_DEPTH: usize = 64;

/// Field of the schema in a file's metadata, and of the number of children in an element of it.
const SCHEMA: i16 = 2;
const NUM_CHILDREN: i16 = 5;

/// Refuses bytes that would make the decoder allocate or recurse without bounds.
pub(super) fn check_bytes(file: &mut File, file_bytes: u64) -> io::Result<Result<(), String>> {
    let mut tail = [0; 8];
    if file_bytes < 12 {
        return Ok(Err(format!("it has {file_bytes} bytes, too few for a header and a footer")));
    }
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if &magic == b"PARE" {
        return Ok(Err("it is encrypted".to_owned()));
    }
    if &magic != b"PAR1" {
        return Ok(Err("it does not end with a footer, as a file that was cut off".to_owned()));
    }
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if length > file_bytes - 12 || length > MAX_FOOTER_BYTES {
        return Ok(Err(format!("its footer would have {length} bytes of {file_bytes}")));
    }
    let mut footer = vec![0; usize::try_from(length).unwrap_or_default()];
    file.seek(SeekFrom::Start(file_bytes - 8 - length))?;
    file.read_exact(&mut footer)?;
    let mut walk = Walk { bytes: &footer, children: Vec::new() };
    let walked = walk.structure(0, Place::Top);
    Ok(walked.and_then(|()| check_schema(&walk.children)).map_err(|reason| format!("its footer {reason}")))
}

/// The tree that the numbers of children make: all of it reachable, and not too deep.
fn check_schema(children: &[u64]) -> Result<(), String> {
    let mut open: Vec<u64> = Vec::new();
    for &children in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(children);
        if open.len() > MAX_DEPTH {
            return Err(format!("has a schema that is nested more than {MAX_DEPTH} deep"));
        }
    }
    Ok(())
}

/// Where in the metadata the walk is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Element,
    Other,
}

/// Walks Thrift's compact encoding without making anything of it.
struct Walk<'a> {
    bytes: &'a [u8],
    /// Number of children of each element of the schema.
    children: Vec<u64>,
}

impl Walk<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (&first, rest) = self.bytes.split_first().ok_or("ends too early")?;
        self.bytes = rest;
        Ok(first)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("has a number of more than 64 bits".to_owned())
    }

    fn skip(&mut self, length: u64) -> Result<(), String> {
        let rest = usize::try_from(length).ok().and_then(|length| self.bytes.get(length..));
        self.bytes = rest.ok_or("has a text that is longer than itself")?;
        Ok(())
    }

    fn structure(&mut self, depth: usize, place: Place) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep"));
        }
        let mut field = 0_i16;
        let element = self.children.len();
        if place == Place::Element {
            self.children.push(0);
        }
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => unzigzag(self.varint()?) as i16,
                delta => field.wrapping_add(i16::from(delta)),
            };
            let kind = head & 0x0f;
            if place == Place::Element && field == NUM_CHILDREN && kind == 5 {
                self.children[element] = u64::try_from(unzigzag(self.varint()?)).unwrap_or(0);
            } else if place == Place::Top && field == SCHEMA && kind == 9 {
                self.list(depth, Place::Element)?;
            } else {
                self.value(kind, depth)?;
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<(), String> {
        match kind {
            1 | 2 => Ok(()), // a boolean in the field's head
            3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => self.list(depth, Place::Other),
            11 => self.map(depth),
            12 => self.structure(depth + 1, Place::Other),
            _ => Err(format!("has a value of the unknown kind {kind}")),
        }
    }

    fn list(&mut self, depth: usize, items: Place) -> Result<(), String> {
        let head = self.byte()?;
        let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        self.check_length(length)?;
        for _ in 0..length {
            self.item(head & 0x0f, depth, items)?;
        }
        Ok(())
    }

    fn map(&mut self, depth: usize) -> Result<(), String> {
        let length = self.varint()?;
        if length == 0 {
            return Ok(());
        }
        self.check_length(length)?;
        let kinds = self.byte()?;
        for _ in 0..length {
            self.item(kinds >> 4, depth, Place::Other)?;
            self.item(kinds & 0x0f, depth, Place::Other)?;
        }
        Ok(())
    }

    fn item(&mut self, kind: u8, depth: usize, place: Place) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep"));
        }
        match kind {
            1 | 2 => self.skip(1), // in a list, a boolean has a byte of its own
            12 => self.structure(depth + 1, place),
            kind => self.value(kind, depth + 1),
        }
    }

    /// An item has at least a byte.
    fn check_length(&self, length: u64) -> Result<(), String> {
        if length > (self.bytes.len() as u64).min(MAX_ITEMS) {
            return Err(format!("has a list of {length} items in {} bytes", self.bytes.len()));
        }
        Ok(())
    }
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Refuses what no writer writes.
pub(super) fn check(metadata: &FileMetadata, file_bytes: u64) -> Result<(), String> {
    let leaves = metadata.schema_descr.columns().len();
    if leaves == 0 && metadata.num_rows > 0 {
        return Err("it has rows and no columns".to_owned());
    }
    if leaves > MAX_COLUMNS {
        return Err(format!("it has {leaves} columns, more than {MAX_COLUMNS}"));
    }
    let mut names: Vec<_> = metadata.schema_descr.fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two columns are named `{}`", twice[0]));
    }
    let mut num_rows = 0_usize;
    for (index, group) in metadata.row_groups.iter().enumerate() {
        num_rows = num_rows.checked_add(group.num_rows()).ok_or("the footer's row counts overflow")?;
        if group.parquet_columns().len() != leaves {
            return Err(format!(
                "row group {index} has {} columns, the schema {leaves}",
                group.parquet_columns().len()
            ));
        }
        for column in group.parquet_columns() {
            let data = column.data_page_offset();
            let start = column.dictionary_page_offset().unwrap_or(data);
            let end = start.checked_add(column.compressed_size());
            let inside = start >= 4
                && column.compressed_size() >= 0
                && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= file_bytes);
            if !inside {
                return Err(format!("row group {index} has a column that lies outside of the file"));
            }
            let values = u64::try_from(column.num_values()).unwrap_or_default();
            if column.num_values() < 0 || values < group.num_rows() as u64 {
                return Err(format!(
                    "row group {index} has a column of {} values for {} rows",
                    column.num_values(),
                    group.num_rows()
                ));
            }
        }
    }
    if num_rows != metadata.num_rows {
        return Err(format!("the footer counts {} rows, its row groups {num_rows}", metadata.num_rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<Vec<u64>, String> {
        let mut walk = Walk { bytes, children: Vec::new() };
        walk.structure(0, Place::Top).and_then(|()| check_schema(&walk.children)).map(|()| walk.children)
    }

    #[test]
    fn lists_that_cannot_be_and_deep_nesting_are_refused() {
        // field 4, a list of 2^30 structures
        assert_eq!(
            walk(&[0x49, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x04]).unwrap_err(),
            "has a list of 1073741824 items in 0 bytes"
        );
        assert_eq!(walk(&[0x1c; 100]).unwrap_err(), "is nested more than 64 deep");
        assert_eq!(walk(&[0x15]).unwrap_err(), "ends too early");
        assert_eq!(walk(&[0x18, 0x05, 0]).unwrap_err(), "has a text that is longer than itself");
    }

    #[test]
    fn a_schema_of_groups_in_groups_is_refused() {
        // field 2, a list of elements with one child each: {5: i32 = 1}
        let schema = |length: u8| {
            let mut bytes = vec![0x29, 0xfc, length];
            for _ in 0..length {
                bytes.extend([0x55, 0x02, 0]);
            }
            bytes.push(0);
            bytes
        };
        assert_eq!(walk(&schema(20)).unwrap(), [1; 20]);
        assert_eq!(walk(&schema(100)).unwrap_err(), "has a schema that is nested more than 64 deep");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes: Vec<u8>) {
            let _ = walk(&bytes);
        }
    }
}
