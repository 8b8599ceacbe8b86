//! Large files at the speed of the disk.
//!
//! Bytes go past the page cache: a checkpoint that filled it would have to leave it again, at a fraction of the disk's
//! speed on many systems, and would push out what the next step needs. One thread writes what another has gathered and
//! hashed, so that the hash costs no time of its own and nothing has to be read again for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest, Sha256};

/// Bytes that are written at a time.
const BLOCK: usize = 8 << 20;
/// What addresses and lengths of writes past the page cache have to be multiples of: the largest sector in use.
const SECTOR: usize = 4096;
/// Blocks on their way: one that is filled, one that is written, and one between them.
const BLOCKS: usize = 3;

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its name, without the directory.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// Writes the file that `fill` gives the bytes of. They last after a sync of the file.
///
/// # Errors
/// If the file cannot be written, or `fill` fails.
pub(crate) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<(u64, [u8; 32])> {
    let mut file = OutputFile::create(path)?;
    thread::scope(|scope| {
        let (full, filled) = sync_channel::<Block>(BLOCKS);
        let (empty, emptied) = sync_channel::<Block>(BLOCKS);
        for _ in 0..BLOCKS {
            empty.send(Block::new()).expect("the channel has room for all blocks");
        }
        let writer = scope.spawn(move || write_blocks(&mut file, &filled, &empty));
        let mut blocks = Blocks { current: None, full, emptied, hash: Sha256::new(), bytes: 0 };
        let filled = fill(&mut blocks).and_then(|()| blocks.flush());
        let Blocks { full, hash, bytes, .. } = blocks;
        // No further block comes: the writer ends.
        drop(full);
        // What the disk said comes before what it made of the side that fills.
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        filled.map(|()| (bytes, hash.finalize().into()))
    })
}

fn write_blocks(file: &mut OutputFile, filled: &Receiver<Block>, empty: &SyncSender<Block>) -> io::Result<()> {
    for mut block in filled {
        file.write(block.bytes())?;
        block.len = 0;
        // The side that fills may be done.
        let _ = empty.send(block);
    }
    Ok(())
}

/// Gathers bytes into blocks.
struct Blocks {
    current: Option<Block>,
    full: SyncSender<Block>,
    emptied: Receiver<Block>,
    hash: Sha256,
    bytes: u64,
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stopped = || io::Error::other("the file could not be written");
        let mut block = match self.current.take() {
            Some(block) => block,
            None => self.emptied.recv().map_err(|_| stopped())?,
        };
        let taken = block.append(bytes);
        self.hash.update(&bytes[..taken]);
        self.bytes += taken as u64;
        if block.len == BLOCK {
            self.full.send(block).map_err(|_| stopped())?;
        } else {
            self.current = Some(block);
        }
        Ok(taken)
    }

    /// Hands over a block that is not full, after which nothing more can be written.
    fn flush(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some(block) => self.full.send(block).map_err(|_| io::Error::other("the file could not be written")),
            None => Ok(()),
        }
    }
}

/// A buffer that begins at a multiple of [`SECTOR`].
struct Block {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Block {
    fn new() -> Self {
        let storage = vec![0; BLOCK + SECTOR];
        let start = storage.as_ptr().align_offset(SECTOR);
        Self { storage, start, len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.storage[self.start..][..self.len]
    }

    /// Gives how many bytes there was room for.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BLOCK - self.len);
        self.storage[self.start + self.len..][..taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }
}

/// A file that takes whole sectors past the page cache, where the system allows it, and what is left at the end through
/// it.
struct OutputFile {
    direct: Option<File>,
    plain: File,
    offset: u64,
}

impl OutputFile {
    fn create(path: &Path) -> io::Result<Self> {
        let plain = File::create(path)?;
        Ok(Self { direct: open_direct(path), plain, offset: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sectors = bytes.len() / SECTOR * SECTOR;
        let mut rest = bytes;
        if let Some(direct) = &mut self.direct
            && sectors > 0
        {
            match direct.write_all(&bytes[..sectors]) {
                Ok(()) => {
                    self.offset += sectors as u64;
                    rest = &bytes[sectors..];
                }
                // Some file systems take the flag and not the write; what they took of it is written again.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.direct = None,
                Err(error) => return Err(error),
            }
        }
        if !rest.is_empty() {
            self.plain.seek(SeekFrom::Start(self.offset))?;
            self.plain.write_all(rest)?;
            self.offset += rest.len() as u64;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Sizes around those of sectors and blocks, in pieces that fit neither.
    #[test]
    fn what_is_written_is_in_the_file_whatever_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        for size in [0, 1, SECTOR - 1, SECTOR, SECTOR + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3 * SECTOR + 5] {
            let expected: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            let (bytes, sha256) =
                write_file(&path, |out| expected.chunks(1_000_003).try_for_each(|piece| out.write_all(piece))).unwrap();
            assert_eq!(bytes, size as u64);
            assert!(fs::read(&path).unwrap() == expected, "{size} bytes");
            assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(&expected)), "{size} bytes");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let full = Path::new("/dev/full");
        if full.exists() {
            let error = write_file(full, |out| out.write_all(&[0; 100])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        let folder = tempfile::tempdir().unwrap();
        let failing = write_file(&folder.path().join("file"), |_| Err(io::Error::other("no numbers")));
        assert_eq!(failing.unwrap_err().to_string(), "no numbers");
    }
}
