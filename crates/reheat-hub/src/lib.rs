//! The Hugging Face Hub: a repository's name becomes a verified local folder, and a folder becomes a repository.
//!
//! Files land in the cache that the Python libraries share (`$HF_HOME/hub`), so what one tool fetched the other finds.
//! Every byte is checked against the repository's own hash before a file gets its name. A download that is cut off goes
//! on where it stopped, one that two processes want happens once, and one that does not fit on the disk does not start.
//!
//! The environment variables are those of `huggingface_hub`: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`,
//! `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_DOWNLOAD_TIMEOUT`. No other crate of the
//! workspace opens a client socket.
//!
//! Departures from `huggingface_hub` 2.4: a partial file keeps its name (`blobs/ETAG.incomplete`), so that a later
//! process can go on with it; files are hashed; plain HTTP is spoken to the loopback interface alone; a token goes to
//! the endpoint's own origin alone; the Xet protocol is not spoken, its storage answers plain requests too.
//!
//! A model by its name, with a line for each file that arrives; the second time, what is here is used:
//!
//! ```no_run
//! use reheat_hub::{Event, Flow, Hub, RepoName, Selection};
//!
//! # fn main() -> Result<(), reheat_hub::HubError> {
//! let hub = Hub::from_env()?;
//! let snapshot = hub.snapshot(&RepoName::model("Qwen/Qwen2.5-0.5B")?, &Selection::Model, &|event| {
//!     if let Event::Done { path } = event {
//!         eprintln!("{path}");
//!     }
//!     Flow::Continue // `Flow::Stop` leaves what arrived for the next time
//! })?;
//! println!("{} is commit {}", snapshot.dir.display(), snapshot.commit);
//! # Ok(())
//! # }
//! ```
//!
//! [`Hub::push`] is the way back, [`Hub::login`] keeps a token for this and the Python tools, and [`Hub::files`] lists a
//! repository. Errors say what to do about them ([`HubError::hint`]):
//!
//! ```
//! use reheat_hub::{Flow, Hub, HubError, HubSettings, RepoName, Selection};
//!
//! # fn main() -> Result<(), HubError> {
//! let cache = std::env::temp_dir().join("a-cache-that-is-empty");
//! let hub = Hub::new(HubSettings { offline: true, ..HubSettings::in_folder(&cache) })?;
//! let repo = RepoName::model("Qwen/Qwen2.5-0.5B")?;
//! let error = hub.snapshot(&repo, &Selection::Model, &|_event| Flow::Continue).unwrap_err();
//! assert!(matches!(error, HubError::NotCached { .. }));
//! assert_eq!(error.hint().as_deref(), Some("unset HF_HUB_OFFLINE to use the network"));
//! # Ok(())
//! # }
//! ```

mod name; // which repository, at which revision
mod settings; // the environment variables of huggingface_hub
mod token;
mod event; // what a caller is told while it waits
mod http; // requests: redirects, retries, limits
mod api; // what the Hub's JSON says
mod listing; // the files of a commit
mod select; // which of them are needed
mod digest; // what a file's content must hash to
mod cache; // the folder that is shared with Python
mod local; // or a folder of the user's own
mod lock; // between processes
mod fetch; // one file, from where it stopped
mod snapshot; // name to folder
mod upload; // folder to repository
mod lfs; // large files on their way up
mod account; // login, logout, whoami
mod hub;
mod error;

pub use self::{
    account::Account,
    error::HubError,
    event::{Event, Flow, Progress},
    hub::Hub,
    listing::RemoteFile,
    name::{RepoName, RepoType},
    select::Selection,
    settings::HubSettings,
    snapshot::{Listing, Snapshot},
    token::{Token, TokenOrigin},
    upload::{PushOptions, Pushed},
};
