//! The Hub as one thing to ask.

use std::path::Path;

use crate::http::Client;
use crate::{
    Account, HubError, HubSettings, Listing, Progress, PushOptions, Pushed, RepoName, Selection, Snapshot, Token,
};
use crate::{account, snapshot, upload};

/// The Hub, the cache, and who asks.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    client: Client,
}

impl Hub {
    /// The Hub that the environment names.
    ///
    /// # Errors
    /// If a variable makes no sense, or the token's file can't be read.
    pub fn from_env() -> Result<Self, HubError> {
        Self::new(HubSettings::from_env()?)
    }

    /// The Hub of these settings. Nothing is asked or read yet.
    ///
    /// # Errors
    /// If the endpoint is no safe address, or the certificates can't be read.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client })
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// A folder in the cache with the files of a repository that `selection` names; what is missing is fetched.
    ///
    /// Where the Hub can't be reached, what an earlier download left is used, and [`Event::Stale`](crate::Event::Stale)
    /// says so.
    ///
    /// # Errors
    /// If the repository can't be had, in whole: no part of it is given as the whole.
    pub fn snapshot(&self, repo: &RepoName, selection: &Selection, progress: &Progress) -> Result<Snapshot, HubError> {
        if !self.settings.offline {
            snapshot::prepare_cache(&self.settings)?;
        }
        snapshot::snapshot(&self.client, &self.settings, repo, selection, None, progress)
    }

    /// The files that [`Self::snapshot`] would give, of which none is fetched but the index of a sharded model.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn files(&self, repo: &RepoName, selection: &Selection, progress: &Progress) -> Result<Listing, HubError> {
        if !self.settings.offline {
            snapshot::prepare_cache(&self.settings)?;
        }
        snapshot::files(&self.client, &self.settings, repo, selection, progress)
    }

    /// As [`Self::snapshot`], into a folder outside the cache. Files that are there and right stay as they are.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn snapshot_into(
        &self,
        dir: &Path,
        repo: &RepoName,
        selection: &Selection,
        progress: &Progress,
    ) -> Result<Snapshot, HubError> {
        snapshot::snapshot(&self.client, &self.settings, repo, selection, Some(dir), progress)
    }

    /// Uploads a folder in one commit; the repository is made where there is none.
    ///
    /// # Errors
    /// If there is no login or no permission; a file can't be read; or the Hub refuses. Before the commit, which is
    /// the last step, nothing of it can be seen by others.
    pub fn push(
        &self,
        dir: &Path,
        repo: &RepoName,
        options: &PushOptions,
        progress: &Progress,
    ) -> Result<Pushed, HubError> {
        self.need_network("an upload")?;
        upload::push(&self.client, dir, repo, options, progress)
    }

    /// Whose token is used.
    ///
    /// # Errors
    /// If there is none, or the Hub does not accept it.
    pub fn whoami(&self, progress: &Progress) -> Result<Account, HubError> {
        self.need_network("whoami")?;
        account::whoami(&self.client, None, progress)
    }

    /// Keeps `token` for this and the Python tools, after the Hub accepted it.
    ///
    /// # Errors
    /// If the Hub does not accept it, or the file can't be written.
    pub fn login(&self, token: &Token, progress: &Progress) -> Result<Account, HubError> {
        self.need_network("a login")?;
        let account = account::whoami(&self.client, Some(token), progress)?;
        token.save(&self.settings.token_path)?;
        Ok(account)
    }

    /// Forgets the kept token, and says whether there was one. One in the environment stays.
    ///
    /// # Errors
    /// If a file can't be removed or written.
    pub fn logout(&self) -> Result<bool, HubError> {
        account::logout(&self.settings.token_path)
    }

    fn need_network(&self, what: &'static str) -> Result<(), HubError> {
        if self.settings.offline { Err(HubError::Offline { what }) } else { Ok(()) }
    }
}
