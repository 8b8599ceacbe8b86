//! What an entry is made of: words, lists of words, texts and JSON values, laid end to end.

use std::io::{self, Read, Write};

use serde_json::{Map, Number, Value};

use crate::{PreferencePair, Prompt, RewardPair, Sequence, UnpairedCompletion, labels::Labels};

/// Something that the cache keeps.
pub(in crate::prepare) trait Record: Sized {
    fn write(&self, out: &mut impl Write) -> io::Result<()>;

    /// # Errors
    /// If it is none of these records.
    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self>;
}

impl Record for Sequence {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_list(out, self.input_ids.iter().copied())?;
        match self.held_labels() {
            Labels::Runs(runs) => {
                out.write_all(b"r")?;
                write_u64(out, runs.len() as u64)?;
                let mut bounds = runs.iter().flat_map(|run| [run.start, run.end]);
                bounds.try_for_each(|bound| out.write_all(&bound.to_le_bytes()))?;
            }
            Labels::Given(labels) => {
                out.write_all(b"l")?;
                write_list(out, labels.iter().map(|label| label.cast_unsigned()))?;
            }
        }
        // A document is shorter than 2^32 tokens: its ids are in memory.
        write_list(out, self.seq_lens.iter().map(|len| *len as u32))
    }

    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self> {
        let input_ids = entry.list()?;
        let labels = match entry.kind()? {
            b'r' => Labels::Runs(entry.words(2)?.chunks_exact(2).map(|bounds| bounds[0]..bounds[1]).collect()),
            b'l' => Labels::Given(entry.list()?.into_iter().map(u32::cast_signed).collect()),
            _ => return Err(damaged()),
        };
        let seq_lens = entry.list()?.into_iter().map(|len| len as usize).collect();
        Ok(Self::from_parts(input_ids, labels, seq_lens))
    }
}

impl Record for PreferencePair {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let lists = [&self.prompt_ids, &self.chosen_ids, &self.rejected_ids];
        lists.into_iter().try_for_each(|list| write_list(out, list.iter().copied()))
    }

    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self> {
        Ok(Self { prompt_ids: entry.list()?, chosen_ids: entry.list()?, rejected_ids: entry.list()? })
    }
}

impl Record for RewardPair {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_list(out, self.chosen_ids.iter().copied())?;
        write_list(out, self.rejected_ids.iter().copied())?;
        write_list(out, self.margin.map(f32::to_bits).into_iter())
    }

    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self> {
        let (chosen_ids, rejected_ids) = (entry.list()?, entry.list()?);
        Ok(Self { chosen_ids, rejected_ids, margin: entry.list()?.first().map(|bits| f32::from_bits(*bits)) })
    }
}

impl Record for UnpairedCompletion {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_list(out, self.prompt_ids.iter().copied())?;
        write_list(out, self.completion_ids.iter().copied())?;
        write_list(out, self.cut_ids.iter().copied())?;
        write_value(out, &self.label.into())
    }

    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self> {
        let (prompt_ids, completion_ids, cut_ids) = (entry.list()?, entry.list()?, entry.list()?);
        Ok(Self { prompt_ids, completion_ids, cut_ids, label: entry.value()?.as_bool().ok_or_else(damaged)? })
    }
}

impl Record for Prompt {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_list(out, self.prompt_ids.iter().copied())?;
        write_value(out, &self.prompt)?;
        write_value(out, &self.tools.clone().into())?;
        write_value(out, &self.columns.clone().into())
    }

    fn read(entry: &mut Entry<impl Read>) -> io::Result<Self> {
        let prompt_ids = entry.list()?;
        let prompt = entry.value()?;
        let tools = match entry.value()? {
            Value::Array(tools) => Some(tools),
            _ => None,
        };
        let Value::Object(columns) = entry.value()? else { return Err(damaged()) };
        Ok(Self { prompt_ids, prompt, tools, columns })
    }
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an entry of this cache")
}

fn write_u64(out: &mut impl Write, word: u64) -> io::Result<()> {
    out.write_all(&word.to_le_bytes())
}

fn write_list(out: &mut impl Write, list: impl ExactSizeIterator<Item = u32>) -> io::Result<()> {
    write_u64(out, list.len() as u64)?;
    list.into_iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))
}

pub(super) fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_u64(out, bytes.len() as u64)?;
    out.write_all(bytes)
}

/// Not as JSON text: a fraction would not always come back as the same number.
fn write_value(out: &mut impl Write, value: &Value) -> io::Result<()> {
    match value {
        Value::Null => out.write_all(b"n"),
        Value::Bool(false) => out.write_all(b"f"),
        Value::Bool(true) => out.write_all(b"t"),
        Value::Number(number) => {
            let (kind, word) = match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(whole), ..) => (b"u", whole),
                (_, Some(whole), _) => (b"i", whole.cast_unsigned()),
                (.., fraction) => (b"d", fraction.unwrap_or_default().to_bits()),
            };
            out.write_all(kind)?;
            write_u64(out, word)
        }
        Value::String(text) => {
            out.write_all(b"s")?;
            write_bytes(out, text.as_bytes())
        }
        Value::Array(items) => {
            out.write_all(b"a")?;
            write_u64(out, items.len() as u64)?;
            items.iter().try_for_each(|item| write_value(out, item))
        }
        Value::Object(fields) => {
            out.write_all(b"o")?;
            write_u64(out, fields.len() as u64)?;
            fields.iter().try_for_each(|(name, value)| {
                write_bytes(out, name.as_bytes())?;
                write_value(out, value)
            })
        }
    }
}

/// An entry that is read from its beginning. Nothing in it can ask for more memory than it has bytes.
pub(in crate::prepare) struct Entry<R> {
    bytes: R,
    left: u64,
}

impl<R: Read> Entry<R> {
    pub(super) fn new(bytes: R, length: u64) -> Self {
        Self { bytes, left: length }
    }

    /// Bytes that are not read yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(damaged)?;
        self.bytes.read_exact(bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut word = [0; 8];
        self.fill(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The length of a list whose items have at least `least` bytes each.
    fn length(&mut self, least: u64) -> io::Result<usize> {
        let length = self.u64()?;
        let fits = length.checked_mul(least).is_some_and(|bytes| bytes <= self.left);
        usize::try_from(length).ok().filter(|_| fits).ok_or_else(damaged)
    }

    fn kind(&mut self) -> io::Result<u8> {
        let mut kind = [0];
        self.fill(&mut kind)?;
        Ok(kind[0])
    }

    fn list(&mut self) -> io::Result<Vec<u32>> {
        self.words(1)
    }

    /// A list of items of so many words each.
    fn words(&mut self, item: u64) -> io::Result<Vec<u32>> {
        let length = self.length(4 * item)? * item as usize;
        let mut list = Vec::with_capacity(length);
        let mut bytes = [0; 4096];
        while list.len() < length {
            let part = &mut bytes[..((length - list.len()) * 4).min(4096)];
            self.fill(part)?;
            list.extend(part.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])));
        }
        Ok(list)
    }

    pub(super) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length(1)?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| damaged())
    }

    fn value(&mut self) -> io::Result<Value> {
        self.value_within(MAX_DEPTH)
    }

    fn value_within(&mut self, depth: usize) -> io::Result<Value> {
        let depth = depth.checked_sub(1).ok_or_else(damaged)?;
        Ok(match self.kind()? {
            b'n' => Value::Null,
            b'f' => false.into(),
            b't' => true.into(),
            b'u' => self.u64()?.into(),
            b'i' => self.u64()?.cast_signed().into(),
            b'd' => Number::from_f64(f64::from_bits(self.u64()?)).ok_or_else(damaged)?.into(),
            b's' => self.text()?.into(),
            b'a' => {
                let length = self.length(1)?;
                (0..length).map(|_| self.value_within(depth)).collect::<io::Result<Vec<_>>>()?.into()
            }
            b'o' => {
                let length = self.length(1)?;
                let mut fields = Map::new();
                for _ in 0..length {
                    fields.insert(self.text()?, self.value_within(depth)?);
                }
                fields.into()
            }
            _ => return Err(damaged()),
        })
    }
}

/// Deeper than any row: serde_json reads 128 levels.
const MAX_DEPTH: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(value: &Value) -> Value {
        let mut bytes = Vec::new();
        write_value(&mut bytes, value).unwrap();
        let mut entry = Entry::new(bytes.as_slice(), bytes.len() as u64);
        let back = entry.value().unwrap();
        assert_eq!(entry.left(), 0);
        back
    }

    #[test]
    fn values_come_back_as_they_were() {
        // 5e-324 and 0.30000000000000004 are among those that JSON text would not bring back to the bit.
        let value = json!({
            "text": "ä\u{0}", "none": null, "yes": true, "no": false, "list": [[], {}, ""],
            "numbers": [0, -1, u64::MAX, i64::MIN, 1.0, -0.0, 0.1, 0.30000000000000004, 5e-324, f64::MAX],
        });
        assert_eq!(kept(&value), value);
        let numbers = |value: &Value| -> Vec<String> {
            value["numbers"].as_array().unwrap().iter().map(Value::to_string).collect()
        };
        assert_eq!(numbers(&kept(&value)), numbers(&value));
    }

    #[test]
    fn lengths_beyond_the_entry_are_damage() {
        let read = |bytes: &[u8]| Entry::new(bytes, bytes.len() as u64).value().is_err();
        assert!(read(b"s\xff\xff\xff\xff\xff\xff\xff\x7fabc"));
        assert!(read(b"a\xff\xff\xff\xff\xff\xff\xff\xff"));
        assert!(read(&b"a\x01\0\0\0\0\0\0\0".repeat(1000)));
        assert!(read(b"x"));
    }
}
