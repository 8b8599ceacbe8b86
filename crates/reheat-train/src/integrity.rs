//! Sizes and hashes of a checkpoint's files: written last, checked first.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use rayon::prelude::*;
use reheat_model::WrittenFile;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::disk::{self, write_error};

/// The file that lists the others. A directory without it is no checkpoint.
pub(crate) const MANIFEST: &str = "integrity.json";

/// Bytes that are read and hashed at a time.
const CHUNK: usize = 1 << 20;

/// What every file of a checkpoint has to be.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

impl From<WrittenFile> for Entry {
    fn from(file: WrittenFile) -> Self {
        Self { bytes: file.bytes, sha256: hex(&file.sha256) }
    }
}

/// Brings all files of a directory to the disk, and then a list of what they are; those that were hashed when they were
/// `written` are not read again.
pub(crate) fn seal(dir: &Path, written: Vec<WrittenFile>) -> Result<(), TrainError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>())
        .map_err(write_error(dir))?;
    paths.sort();
    let known: BTreeMap<String, Entry> = written.into_iter().map(|file| (file.name.clone(), file.into())).collect();
    let unknown: Vec<&PathBuf> = paths.iter().filter(|path| !known.contains_key(&name(path))).collect();
    // The processor hashes while the disk works.
    let (hashed, synced) = thread::scope(|scope| {
        let hashed = scope.spawn(|| unknown.par_iter().map(|path| Ok((name(path), entry(path)?))).collect());
        let synced = paths.iter().try_for_each(|path| disk::sync(path));
        let hashed: io::Result<BTreeMap<String, Entry>> =
            hashed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (hashed, synced)
    });
    synced?;
    let mut files = hashed.map_err(write_error(dir))?;
    files.extend(known);
    let manifest = dir.join(MANIFEST);
    let text = serde_json::to_string_pretty(&Manifest { files }).expect("strings and numbers");
    disk::write(&manifest, (text + "\n").as_bytes())?;
    disk::sync(&manifest)?;
    disk::sync(dir)
}

/// What is wrong with a directory that should be a checkpoint; `None` when all is well.
pub(crate) fn damage(dir: &Path) -> Option<String> {
    let manifest = match fs::read(dir.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(error) => return Some(format!("`{MANIFEST}` cannot be read: {error}")),
    };
    let manifest: Manifest = match serde_json::from_slice(&manifest) {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("`{MANIFEST}` is damaged: {error}")),
    };
    manifest.files.par_iter().find_map_first(|(name, expected)| {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Some(format!("`{MANIFEST}` names `{name}`, which is no file of this directory"));
        }
        match entry(&dir.join(name)) {
            Err(error) => Some(format!("`{name}` cannot be read: {error}")),
            Ok(found) if found.bytes != expected.bytes => {
                Some(format!("`{name}` has {} bytes instead of {}", found.bytes, expected.bytes))
            }
            Ok(found) if found != *expected => Some(format!("`{name}` is not what was written")),
            Ok(_) => None,
        }
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entry(path: &Path) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(Entry { bytes, sha256: hex(&hash.finalize()) })
}

/// SHA-256 of numbers, in hexadecimal digits: rows with another hash are other rows.
pub fn hash_of(numbers: impl IntoIterator<Item = i32>) -> String {
    let mut hash = Sha256::new();
    let mut bytes = Vec::with_capacity(CHUNK);
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
        if bytes.len() >= CHUNK {
            hash.update(&bytes);
            bytes.clear();
        }
    }
    hash.update(&bytes);
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        fs::write(&path, b"numbers").unwrap();
        assert!(damage(folder.path()).unwrap().starts_with("`integrity.json` cannot be read"));
        seal(folder.path(), Vec::new()).unwrap();
        assert_eq!(damage(folder.path()), None);
        fs::write(&path, b"Numbers").unwrap();
        assert_eq!(damage(folder.path()).unwrap(), "`weights` is not what was written");
        fs::write(&path, b"number").unwrap();
        assert_eq!(damage(folder.path()).unwrap(), "`weights` has 6 bytes instead of 7");
        fs::remove_file(&path).unwrap();
        assert!(damage(folder.path()).unwrap().starts_with("`weights` cannot be read"));
        let outside = r#"{ "files": { "../secret": { "bytes": 1, "sha256": "" } } }"#;
        fs::write(folder.path().join(MANIFEST), outside).unwrap();
        assert!(damage(folder.path()).unwrap().contains("no file of this directory"));
    }
}
