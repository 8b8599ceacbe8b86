//! Every reader on files that are cut off, misnamed, mixed, nested, not text, empty or gigantic: one error that names
//! the file, or rows counted as rejected. Never a panic, never memory without bounds.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use reheat_data::{DataError, Dataset, DatasetSpec, RowProblem};
use tempfile::TempDir;

/// What reading a file gives: rows, the problems of rows, and the error that ended it.
#[derive(Debug, Default)]
struct Reading {
    rows: usize,
    problems: Vec<String>,
    error: Option<DataError>,
}

fn read(path: &Path) -> Reading {
    let mut reading = Reading::default();
    let mut go = || -> Result<(), DataError> {
        for row in Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into())?.rows() {
            let (id, row) = row?.parse();
            match row {
                Ok(_) => reading.rows += 1,
                Err(problem) => reading.problems.push(format!("{}: {problem}", id.number())),
            }
        }
        Ok(())
    };
    reading.error = go().err();
    reading
}

/// Reads a file of that name with these bytes.
fn read_bytes(name: &str, bytes: &[u8]) -> Reading {
    let (_folder, path) = written(name, bytes);
    read(&path)
}

fn written(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// The error's text with the file's name alone.
fn error(name: &str, bytes: &[u8]) -> String {
    let (folder, path) = written(name, bytes);
    let error = read(&path).error.unwrap_or_else(|| panic!("{name} can be read"));
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect();
    files.sort();
    assert!(files.len() >= 15);
    files
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// All but what names the file and its row is left to the reader.
fn names_the_file(reading: &Reading, name: &str) -> bool {
    reading.error.as_ref().is_none_or(|error| error.to_string().contains(name))
}

#[test]
fn cut_off_files_end_in_an_error_or_a_bad_row() {
    for (name, bytes) in fixtures() {
        let whole = read_bytes(&name, &bytes);
        assert!(whole.error.is_none() && whole.problems.is_empty() && whole.rows == 60, "{name}: {whole:?}");
        for part in 1..40 {
            let length = bytes.len() * part / 40;
            let reading = read_bytes(&name, &bytes[..length]);
            assert!(names_the_file(&reading, &name), "{name} {length}: {reading:?}");
            // A stream may end anywhere between its messages, and a line without its end is a line.
            assert!(
                reading.error.is_some() || !reading.problems.is_empty() || reading.rows < 60,
                "{name} cut to {length}: {reading:?}"
            );
        }
    }
}

#[test]
fn compressed_files_that_are_cut_off_are_errors() {
    let lines = "{\"a\": 1}\n".repeat(1000);
    for (name, bytes) in
        [("a.jsonl.gz", gz(lines.as_bytes())), ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap())]
    {
        for length in [3, 12, bytes.len() / 2, bytes.len() - 1] {
            let reading = read_bytes(name, &bytes[..length]);
            let hint = reading.error.as_ref().and_then(DataError::hint);
            assert_eq!(hint.as_deref(), Some("fetch or write the file again"), "{name} {length}: {reading:?}");
        }
        assert_eq!(read_bytes(name, &bytes).rows, 1000);
    }
    // What comes behind the last member is no data.
    let trailing = [gz(lines.as_bytes()), b"garbage".to_vec()].concat();
    assert!(read_bytes("a.jsonl.gz", &trailing).error.is_some());
}

#[test]
fn files_are_what_they_hold_and_not_what_they_are_called() {
    let parquet = fixtures().into_iter().find(|(name, _)| name == "v1-plain.parquet").unwrap().1;
    assert_eq!(read_bytes("misnamed.jsonl", &parquet).rows, 60);
    assert_eq!(read_bytes("misnamed.parquet", b"{\"a\": 1}\n{\"a\": 2}\n").rows, 2);
    assert_eq!(read_bytes("misnamed.csv", &gz(b"{\"a\": 1}\n")).rows, 1);
    assert_eq!(read_bytes("list.jsonl", b"[{\"a\": 1},\n {\"a\": 2}]").rows, 2);
    assert_eq!(
        error("table.parquet", b"a,b\n1,2\n"),
        "`table.parquet` is damaged or not Parquet: it begins with `a,b\\n1,2\\n`"
    );
    assert!(error("page.bin", b"<!DOCTYPE html>\n<html>").contains("`<!DOCTYPE html>\\n<html>`"));
    assert!(error("a.parquet", &gz(&parquet)).contains("it is compressed as a whole"));
    assert!(error("utf16.jsonl", b"\xff\xfe{\0}\0").contains("it is UTF-16, only UTF-8 is read"));
}

#[test]
fn empty_files_have_no_rows() {
    for name in ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"] {
        for bytes in [&b""[..], b"\n\n", b"\xef\xbb\xbf"] {
            let reading = read_bytes(name, bytes);
            assert_eq!((reading.rows, reading.problems.len()), (0, 0), "{name}: {reading:?}");
            assert!(reading.error.is_none(), "{name}: {reading:?}");
        }
    }
    assert!(error("a.parquet", b"").contains("a.parquet"));
    assert!(error("a.arrow", b"").contains("a.arrow"));
    assert!(error("a.parquet", b"PAR1PAR1").contains("too few"));
    assert!(error("a.arrow", b"ARROW1\0\0").contains("it ends before its footer"));
}

#[test]
fn text_with_marks_and_windows_line_ends_is_text() {
    let reading = read_bytes("a.jsonl", b"\xef\xbb\xbf{\"a\": 1}\r\n\r\n{\"a\": 2}\r\n");
    assert_eq!((reading.rows, reading.problems.len()), (2, 0), "{reading:?}");
    assert_eq!(read_bytes("a.csv", b"\xef\xbb\xbfa,b\r\n1,\"x\r\ny\"\r\n").rows, 1);
    assert_eq!(read_bytes("a.json", b"\xef\xbb\xbf[{\"a\": 1}]\r\n").rows, 1);
}

#[test]
fn rows_of_any_shape_are_rows_and_others_are_counted() {
    let mixed =
        "{\"a\": 1}\n{\"a\": \"x\", \"b\": null}\n{\"a\": [{}]}\n{}\nnull\n[1]\n{\"a\": nan}\n\"text\"\n\u{0}\n";
    let reading = read_bytes("a.jsonl", mixed.as_bytes());
    assert_eq!(reading.rows, 4);
    assert_eq!(
        reading.problems,
        [
            "5: a row must be an object, found null",
            "6: a row must be an object, found a list",
            "7: not JSON: expected ident at column 8",
            "8: a row must be an object, found a string",
            "9: not JSON: expected value at column 1",
        ]
    );
    let reading = read_bytes("a.jsonl", b"{\"a\": \"\xff\xfe\"}\n{\"a\": \"\\ud800\"}\n{\"a\": 1}\n");
    assert_eq!((reading.rows, reading.problems.len()), (1, 2), "{reading:?}");
}

#[test]
fn deep_nesting_is_a_bad_row() {
    let deep = format!("{{\"a\": {}1{}}}\n{{\"a\": 2}}\n", "[".repeat(100_000), "]".repeat(100_000));
    for name in ["a.jsonl", "a.json"] {
        let reading = read_bytes(name, deep.as_bytes());
        assert_eq!((reading.rows, reading.problems.len()), (1, 1), "{name}");
        assert!(reading.problems[0].contains("recursion limit exceeded"), "{:?}", reading.problems);
    }
}

#[test]
fn gigantic_rows_are_counted_and_passed_over() {
    let mut bytes = b"{\"a\": \"".to_vec();
    bytes.resize(70 << 20, b'x');
    bytes.extend_from_slice(b"\"}\n{\"a\": 2}\n");
    let reading = read_bytes("a.jsonl", &bytes);
    assert_eq!((reading.rows, &*reading.problems), (1, &["1: the row has more than 67108864 bytes".to_owned()][..]));
    bytes.insert(0, b'[');
    let reading = read_bytes("a.json", &bytes);
    assert_eq!(reading.problems, ["1: the row has more than 67108864 bytes"]);
    let mut table = b"a,b\n1,\"".to_vec();
    table.resize(70 << 20, b'x');
    assert_eq!(read_bytes("a.csv", &table).problems, ["2: the row has more than 67108864 bytes"]);
}

#[test]
fn decompression_bombs_are_cut_off() {
    // Zeros in a row: 2 GiB in two megabytes of gzip, and in a few hundred kilobytes of zstd.
    let block = vec![b' '; 1 << 20];
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..2048 {
        encoder.write_all(&block).unwrap();
    }
    let text = error("a.jsonl.zst", &encoder.finish().unwrap());
    assert!(text.starts_with("`a.jsonl.zst` is damaged or not compressed data: "), "{text}");
    assert!(text.ends_with("more than 1100 times as many"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Some bytes of a good file changed: rows, bad rows or an error.
    #[test]
    fn damaged_files_never_panic(
        file in 0..15_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        near_the_end: bool,
    ) {
        let (name, mut bytes) = fixtures().swap_remove(file);
        let length = bytes.len();
        for (place, byte) in changes {
            // Footers are at the end, and their damage is the more interesting.
            let place = if near_the_end { length - 1 - place.index(length.min(3000)) } else { place.index(length) };
            bytes[place] = byte;
        }
        let reading = read_bytes(&name, &bytes);
        prop_assert!(names_the_file(&reading, &name), "{reading:?}");
    }

    #[test]
    fn any_text_is_rows_bad_rows_or_an_error(
        text in "[\\[\\]{}\",:a1 \n\r\\\\]{0,60}|\\PC{0,40}",
        extension in prop::sample::select(vec!["jsonl", "json", "csv", "tsv", "txt", "bin", "parquet", "arrow"]),
    ) {
        read_bytes(&format!("a.{extension}"), text.as_bytes());
    }

    /// What Reheat reads, it reads alike however the lines are split.
    #[test]
    fn json_lines_and_lists_hold_the_same_rows(values in prop::collection::vec("\\PC{0,10}", 1..6)) {
        let rows: Vec<_> = values.iter().map(|value| serde_json::json!({ "a": value }).to_string()).collect();
        let lines = read_bytes("a.jsonl", rows.join("\n").as_bytes());
        let list = read_bytes("a.json", format!("[{}]", rows.join(",\n")).as_bytes());
        prop_assert_eq!((lines.rows, list.rows), (rows.len(), rows.len()));
    }
}

#[test]
fn problems_have_a_reason_that_can_be_counted() {
    let problem = RowProblem::TooLarge { limit: 1 };
    assert_eq!((problem.reason(), problem.hint().is_some()), ("too large", true));
}
