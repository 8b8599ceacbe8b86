//! One file, from where an earlier attempt stopped, with its hash checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use ureq::Body;
use ureq::http::{Response, StatusCode, header};

use crate::digest::Hasher;
use crate::http::{About, Call, Client, MAX_ATTEMPTS, pause, shown, tell, unreachable};
use crate::{Event, HubError, Progress, RemoteFile, RepoName, api};

/// Bytes that are read, hashed and written at a time.
const CHUNK_BYTES: usize = 1 << 17;

/// Gets `file` into `target` by way of `partial`, which stays where this fails and can be gone on with.
///
/// # Errors
/// If the file can't be had or written, or its content is not what the repository says; then nothing of it is kept.
pub(crate) fn fetch(
    client: &Client,
    repo: &RepoName,
    commit: &str,
    file: &RemoteFile,
    paths: Paths,
    progress: &Progress,
) -> Result<(), HubError> {
    for folder in [paths.partial.parent(), paths.target.parent()].into_iter().flatten() {
        fs::create_dir_all(folder).map_err(|source| HubError::Write { path: folder.to_owned(), source })?;
    }
    let failed = |source| HubError::Write { path: paths.partial.to_owned(), source };
    let mut partial = Partial::open(paths.partial, file).map_err(failed)?;
    let resumed = partial.len > 0;
    let url = api::file_url(client, repo, commit, &file.path);
    complete(client, repo, file, &url, &mut partial, progress)?;
    let mut damage = partial.check(file);
    if damage.is_err() && resumed {
        // What an earlier attempt left may be at fault: once more, all of it.
        tell(&Event::Again(file.size), progress)?;
        partial.restart().map_err(failed)?;
        complete(client, repo, file, &url, &mut partial, progress)?;
        damage = partial.check(file);
    }
    if let Err(damage) = damage {
        fs::remove_file(paths.partial).map_err(failed)?;
        return Err(damage);
    }
    partial.file.sync_all().map_err(failed)?;
    fs::rename(paths.partial, paths.target)
        .map_err(|source| HubError::Write { path: paths.target.to_owned(), source })?;
    tell(&Event::Done { path: file.path.clone() }, progress)
}

/// Where a file goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paths<'a> {
    pub(crate) partial: &'a Path,
    pub(crate) target: &'a Path,
}

/// The beginning of a file.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    /// Bytes that are there.
    len: u64,
    hasher: Hasher,
    wanted: &'a RemoteFile,
}

impl<'a> Partial<'a> {
    fn open(path: &'a Path, wanted: &'a RemoteFile) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut partial = Self { path, file, len: 0, hasher: wanted.digest.hasher(wanted.size), wanted };
        if partial.file.metadata()?.len() > wanted.size {
            partial.restart()?;
        }
        partial.len = partial.hasher.update_from(&partial.file)?;
        Ok(partial)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.len = 0;
        self.hasher = self.wanted.digest.hasher(self.wanted.size);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn check(&self, file: &RemoteFile) -> Result<(), HubError> {
        let found = self.hasher.clone().finish();
        if found == file.digest.hex() {
            return Ok(());
        }
        Err(HubError::Hash { path: file.path.clone(), expected: file.digest.hex().to_owned(), found })
    }
}

/// Reads until every byte is there, with as many requests as it takes; each one that brings something earns new patience.
fn complete(
    client: &Client,
    repo: &RepoName,
    file: &RemoteFile,
    url: &str,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<(), HubError> {
    let mut failures = 0;
    while partial.len < file.size {
        let before = partial.len;
        let Err(error) = read_on(client, repo, file, url, partial, progress) else { continue };
        match error {
            HubError::Unreachable { .. } => {}
            other => return Err(other),
        }
        failures = if partial.len > before { 1 } else { failures + 1 };
        if failures == MAX_ATTEMPTS {
            return Err(error);
        }
        pause(client.retry_wait(failures), crate::http::chain(&error), progress)?;
    }
    Ok(())
}

/// One request for what is missing.
fn read_on(
    client: &Client,
    repo: &RepoName,
    file: &RemoteFile,
    url: &str,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<(), HubError> {
    let path = partial.path;
    let failed = |source| HubError::Write { path: path.to_owned(), source };
    let about = About { repo: Some(repo), path: Some(&file.path) };
    let mut call = Call::get(url.to_owned(), about).header(header::ACCEPT_ENCODING, "identity");
    if partial.len > 0 {
        call = call.header(header::RANGE, format!("bytes={}-", partial.len));
    }
    let mut response = client.send(&call, progress)?;
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(HubError::Answer { url: shown(url), reason: "it is compressed, unasked".into() });
    }
    if partial.len > 0 && !continues_at(&response, partial.len) {
        // The server sends all of it again.
        tell(&Event::Again(partial.len), progress)?;
        partial.restart().map_err(failed)?;
    }
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) if partial.len < file.size => {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended early");
                return Err(unreachable(url, cut));
            }
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreachable(url, error)),
        };
        let found = partial.len + count as u64;
        if found > file.size {
            return Err(HubError::Size { path: file.path.clone(), expected: file.size, found });
        }
        partial.append(&buffer[..count]).map_err(failed)?;
        tell(&Event::Bytes(count as u64), progress)?;
    }
}

/// Whether an answer begins with the byte that was asked for.
fn continues_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    response.status() == StatusCode::PARTIAL_CONTENT && first == Some(start)
}
