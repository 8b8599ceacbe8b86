//! What a file's content must hash to.

use std::fmt::Write as _;
use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The hash under which a repository knows a file; also the name of its blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    /// Of the content of a large file (LFS).
    Sha256(String),
    /// Of a git blob: of `blob SIZE\0` and the content.
    GitBlob(String),
}

/// Bytes that are hashed at a time.
const CHUNK_BYTES: usize = 1 << 17;

impl Digest {
    /// Lower-case hexadecimal digits.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }

    /// Whether the text could be a hash of this kind.
    pub(crate) fn is_well_formed(&self) -> bool {
        let digits = match self {
            Self::Sha256(_) => 64,
            Self::GitBlob(_) => 40,
        };
        let hex = self.hex();
        hex.len() == digits && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// A hasher for a content of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::sha256(),
            Self::GitBlob(_) => Hasher::git_blob(size),
        }
    }
}

/// Hashes content as it passes.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(crate) fn sha256() -> Self {
        Self::Sha256(Sha256::new())
    }

    pub(crate) fn git_blob(size: u64) -> Self {
        Self::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0")))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Hashes everything that a reader has; gives how much that was.
    pub(crate) fn update_from(&mut self, mut reader: impl Read) -> io::Result<u64> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut total = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(&buffer[..count]);
            total += count as u64;
        }
    }

    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::GitBlob(hasher) => hex(&hasher.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'what is up, doc?' | git hash-object --stdin`, the example of the Git book, chapter 10.2.
    #[test]
    fn git_blobs_hash_as_git_hashes_them() {
        let content = b"what is up, doc?";
        let mut hasher = Hasher::git_blob(content.len() as u64);
        assert_eq!(hasher.update_from(content.as_slice()).unwrap(), 16);
        assert_eq!(hasher.finish(), "bd9dbf5aae1a3862dd1526723246b20206e5fc37");
    }

    /// The example of FIPS 180-2, appendix B.1.
    #[test]
    fn sha256_is_sha256() {
        let mut hasher = Hasher::sha256();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
