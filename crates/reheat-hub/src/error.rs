//! What can go wrong on the way to the Hub and back.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::{RepoName, TokenOrigin};

/// Why a repository can't be had, or a folder not be uploaded.
///
/// No text in it holds a token or a signed address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that the Hub could not have.
    #[error("`{name}` is not the name of a repository: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pattern of file names that is none.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An environment variable that makes no sense.
    #[error("{variable} is `{value}`, expected {expected}")]
    Setting {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// What was given as a token can't be one.
    #[error("{origin} is not a token: {reason}")]
    MalformedToken {
        /// Where it was found.
        origin: TokenOrigin,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Offline, and the cache does not have it.
    #[error("{} `{repo}` is not in the cache `{}`, and HF_HUB_OFFLINE is set", .repo.repo_type(), .cache.display())]
    NotCached {
        /// The repository.
        repo: RepoName,
        /// The cache.
        cache: PathBuf,
    },
    /// Offline, and the cache has it in part.
    #[error("{} `{repo}` is not whole in the cache, and HF_HUB_OFFLINE is set: `{missing}` is missing", .repo.repo_type())]
    Incomplete {
        /// The repository.
        repo: RepoName,
        /// The first file that is missing.
        missing: String,
    },
    /// What can't be done offline.
    #[error("{what} needs the Hub, and HF_HUB_OFFLINE is set")]
    Offline {
        /// What was asked for.
        what: &'static str,
    },
    /// No connection.
    #[error("cannot reach {host}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// There is no such repository, or it is private.
    #[error("there is no {} `{}` on {host}, or it is private", .repo.repo_type(), .repo.id())]
    RepositoryNotFound {
        /// The repository.
        repo: RepoName,
        /// The Hub's host.
        host: String,
        /// Whether a token was sent.
        logged_in: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{} `{}` has no revision `{}`", .repo.repo_type(), .repo.id(), .repo.revision())]
    RevisionNotFound {
        /// The repository.
        repo: RepoName,
    },
    /// The repository has no such file.
    #[error("{} `{repo}` has no file `{path}`", .repo.repo_type())]
    FileNotFound {
        /// The repository.
        repo: RepoName,
        /// The file.
        path: String,
    },
    /// The repository has nothing that could be used.
    #[error("{} `{repo}` has no {wanted}", .repo.repo_type())]
    NothingUseful {
        /// The repository.
        repo: RepoName,
        /// What it should have.
        wanted: &'static str,
        /// What is there instead.
        hint: Option<String>,
    },
    /// Its owner wants something agreed to first.
    #[error("{} `{}` is gated: its conditions have to be accepted first", .repo.repo_type(), .repo.id())]
    Gated {
        /// The repository.
        repo: RepoName,
        /// Its page.
        page: String,
        /// Whether a token was sent.
        logged_in: bool,
    },
    /// The account may not do that.
    #[error("no permission for {what}: {message}")]
    Forbidden {
        /// What was asked for.
        what: String,
        /// The Hub's own words.
        message: String,
    },
    /// The Hub does not know the token.
    #[error("the Hub does not accept {origin}")]
    InvalidToken {
        /// Where it was found.
        origin: TokenOrigin,
    },
    /// What can't be done without a token.
    #[error("{what} needs a login")]
    NoToken {
        /// What was asked for.
        what: &'static str,
    },
    /// Too many requests, and the wait would be long.
    #[error("the Hub's limit of requests is reached; it asks to wait {} s", .wait.as_secs())]
    RateLimited {
        /// How long.
        wait: Duration,
        /// Whether a token was sent.
        logged_in: bool,
    },
    /// Another status than one that could be used.
    #[error("{url} answers {status}: {message}")]
    Status {
        /// The address, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The Hub's own words, or the status'.
        message: String,
    },
    /// An answer that is not what the protocol says.
    #[error("{url} gives a strange answer: {reason}")]
    Answer {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address that would send data in the open, or nowhere.
    #[error("`{url}` is not an https address")]
    Insecure {
        /// The address, without its query.
        url: String,
    },
    /// A file name that reaches outside its folder.
    #[error("{} `{repo}` has a file named `{}`, which would leave its folder", .repo.repo_type(), .path.escape_debug())]
    UnsafePath {
        /// The repository.
        repo: RepoName,
        /// The name.
        path: String,
    },
    /// The content is not what the repository says.
    #[error("`{path}` arrives damaged: its hash is {found}, expected {expected}")]
    Hash {
        /// The file.
        path: String,
        /// As the repository says.
        expected: String,
        /// As it arrived.
        found: String,
    },
    /// The content has another length than the repository says.
    #[error("`{path}` arrives with {found} bytes, expected {expected}")]
    Size {
        /// The file.
        path: String,
        /// As the repository says.
        expected: u64,
        /// As it arrived.
        found: u64,
    },
    /// It does not fit on the disk.
    #[error("{} are needed in `{}`, {} are free", bytes(*.needed), .folder.display(), bytes(*.free))]
    NoSpace {
        /// Where it would go.
        folder: PathBuf,
        /// Bytes that are missing there.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The server kept no copy of a large file.
    #[error("the Hub refuses `{path}`: {message}")]
    Refused {
        /// The file.
        path: String,
        /// The Hub's own words.
        message: String,
    },
    /// Nothing to upload.
    #[error("`{}` has no file to upload", .folder.display())]
    EmptyFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that would publish the token.
    #[error("`{}` holds your access token", .path.display())]
    TokenInFile {
        /// The file.
        path: PathBuf,
    },
    /// Private was asked for, and the repository is there and public.
    #[error("{} `{}` exists and is public", .repo.repo_type(), .repo.id())]
    AlreadyPublic {
        /// The repository.
        repo: RepoName,
    },
    /// A file can't be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write `{}`", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller said stop.
    #[error("stopped; what arrived stays, and the same command goes on with it")]
    Stopped,
}

impl HubError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let login = || Some("log in first: reheat login".to_owned());
        match self {
            Self::NotCached { .. } | Self::Incomplete { .. } | Self::Offline { .. } => {
                Some("unset HF_HUB_OFFLINE to use the network".into())
            }
            Self::MalformedToken { .. } => Some("make one at https://huggingface.co/settings/tokens".into()),
            Self::Unreachable { .. } => {
                Some("check the network and HF_ENDPOINT; the same command goes on later".into())
            }
            Self::RepositoryNotFound { repo, logged_in, .. } => {
                let spelling = format!("check the spelling and whether it is a {}", repo.repo_type());
                Some(if *logged_in { spelling } else { format!("{spelling}; if it is private, log in: reheat login") })
            }
            Self::RevisionNotFound { .. } => Some("without @revision it is the branch `main`".into()),
            Self::NothingUseful { hint, .. } => hint.clone(),
            Self::Gated { page, logged_in, .. } => {
                let then = if *logged_in { "" } else { ", then reheat login" };
                Some(format!("accept them at {page}{then}"))
            }
            Self::Forbidden { .. } => Some("use a token with the right permission: reheat login".into()),
            Self::InvalidToken { origin: TokenOrigin::Variable(name) } => {
                Some(format!("correct {name} or unset it; it comes before a login"))
            }
            Self::InvalidToken { .. } => Some("log in again: reheat login".into()),
            Self::NoToken { .. } => login(),
            Self::RateLimited { logged_in: false, .. } => {
                Some("the limit is higher with an account: reheat login".into())
            }
            Self::Status { status: 500.., .. } => Some("the Hub has a problem; try again later".into()),
            Self::Insecure { .. } => Some("check HF_ENDPOINT; plain http is for the loopback interface alone".into()),
            Self::Hash { .. } | Self::Size { .. } => {
                Some("a proxy or a mirror may alter it; nothing of it was kept".into())
            }
            Self::NoSpace { .. } => Some("free some space, or set HF_HOME to a larger disk".into()),
            Self::TokenInFile { .. } => Some(
                "take the token out, and replace it at https://huggingface.co/settings/tokens if the file was shared"
                    .into(),
            ),
            Self::AlreadyPublic { .. } => {
                Some("choose another name, or make it private in its settings on the Hub".into())
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "free some space, or set HF_HOME to a larger disk; the same command goes on where it stopped".into(),
            ),
            _ => None,
        }
    }

    /// Whether the person asked for something that can't be, or the world failed.
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable { .. }
                | Self::RateLimited { .. }
                | Self::Status { .. }
                | Self::Answer { .. }
                | Self::Hash { .. }
                | Self::Size { .. }
                | Self::NoSpace { .. }
                | Self::Refused { .. }
                | Self::Write { .. }
                | Self::Stopped
        )
    }

    /// Whether what an earlier download left may stand in.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::RateLimited { .. } | Self::Status { status: 500.., .. })
    }
}

/// `1.2 GB`, in powers of ten, as disks are sold.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_easy_to_read() {
        let sizes = [0, 999, 1000, 999_600, 12_345_678, 988_097_824, 5_000_000_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "1.0 MB", "12.3 MB", "988 MB", "5.0 TB"]);
    }
}
