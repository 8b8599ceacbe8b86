//! A small Hub on the loopback interface that speaks the real one's wire format, with faults on request.
//!
//! Two listeners, as there are two hosts in the world: the Hub itself, and the storage to which it redirects. What the
//! protocol is was read in `huggingface_hub` 2.4 (`file_download.py`, `_commit_api.py`, `lfs.py`, `utils/_http.py`),
//! which also runs against this server in `tests/hub_python.rs`.

mod answer; // paths to answers
mod repository; // commits, files, accounts
mod upload; // create, preupload, LFS, commit
mod wire; // HTTP/1.1 on a socket

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use self::repository::State;
pub use self::repository::{Access, Repository};
pub use self::wire::Seen;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another status, with these headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection is cut after so many bytes of the body.
    Cut(usize),
    /// The last byte of the body is another one.
    Corrupt,
    /// A request for a range gets everything.
    IgnoreRange,
    /// The body comes in pieces of so many bytes, with a pause before each.
    Slow(usize, Duration),
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct HubServer {
    state: Arc<Mutex<State>>,
    addresses: [SocketAddr; 2],
    stopped: Arc<AtomicBool>,
}

impl HubServer {
    /// A Hub with nothing in it.
    pub fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a port"));
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("it is bound"));
        let [hub, storage] = addresses.map(|address| format!("http://{address}"));
        let state = Arc::new(Mutex::new(State::new(hub, storage)));
        let stopped = Arc::new(AtomicBool::new(false));
        for (listener, is_storage) in listeners.into_iter().zip([false, true]) {
            let (state, stopped) = (Arc::clone(&state), Arc::clone(&stopped));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let state = Arc::clone(&state);
                    thread::spawn(move || wire::serve(stream, is_storage, &state));
                }
            });
        }
        Self { state, addresses, stopped }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `HF_ENDPOINT` has to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.addresses[0])
    }

    /// Makes an account with a token.
    pub fn account(&self, name: &str, token: &str) {
        self.state().accounts.insert(token.to_owned(), name.to_owned());
    }

    /// Puts a repository there: `models/owner/name` or `datasets/owner/name`.
    pub fn repository(&self, name: &str, repository: Repository) {
        self.state().repositories.insert(name.to_owned(), repository);
    }

    /// What a repository holds now, or `None`.
    pub fn find(&self, name: &str) -> Option<Repository> {
        self.state().repositories.get(name).cloned()
    }

    /// Lets the next `times` requests whose path contains `path` go wrong.
    pub fn fail(&self, path: &str, times: usize, fault: Fault) {
        self.state().faults.push((path.to_owned(), times, fault));
    }

    /// Objects up to this size are uploaded in one piece, larger ones in parts of it.
    pub fn part_size(&self, bytes: usize) {
        self.state().part_size = bytes;
    }

    /// Most files of a page of a tree.
    pub fn page_size(&self, files: usize) {
        self.state().page_size = files;
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Requests so far whose path contains `path`.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target.contains(path)).count()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state().seen.clear();
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for address in self.addresses {
            // Wakes the listener, which then sees that it is over.
            drop(TcpStream::connect(address));
        }
    }
}
