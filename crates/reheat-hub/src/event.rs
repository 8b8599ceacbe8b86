//! What a caller is told while it waits, and how it says stop.

use std::time::Duration;

/// Something that happened on the way.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// What is to be transferred is known.
    Planned {
        /// Files to transfer.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Of them, what an earlier attempt left here already.
        present_bytes: u64,
    },
    /// So many more bytes arrived, or left.
    Bytes(u64),
    /// Bytes that were counted have to be transferred again.
    Again(u64),
    /// A file is complete and has the hash that it must have.
    Done {
        /// Its path in the repository.
        path: String,
    },
    /// Nothing happens for a while.
    Waiting {
        /// What is waited for.
        reason: String,
        /// For how long, where that is known.
        time: Option<Duration>,
    },
    /// The Hub can't be reached, and what an earlier download left is used.
    Stale {
        /// Why the Hub could not be asked.
        reason: String,
        /// The commit that is used.
        commit: String,
    },
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop soon. Partial files stay, and a later download goes on with them.
    Stop,
}

/// Is told each [`Event`], from several threads at once, at least ten times a second while something is going on.
pub type Progress<'a> = dyn Fn(&Event) -> Flow + Sync + 'a;
