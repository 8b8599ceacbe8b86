//! A repository's name to a folder with its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::cache::{self, RepoCache};
use crate::fetch::{Paths, fetch};
use crate::http::{Client, chain, tell};
use crate::local::LocalFolder;
use crate::lock::Lock;
use crate::select::select;
use crate::{Event, HubError, HubSettings, Progress, RemoteFile, RepoName, Selection, api};

/// Files that are fetched at a time.
const WORKERS: usize = 4;

/// A commit's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder.
    pub dir: PathBuf,
    /// The commit.
    pub commit: String,
    /// The files that were asked for, by their path in the folder.
    pub files: Vec<String>,
    /// Of them, those that had to be fetched.
    pub fetched: usize,
}

/// Files of a commit, wherever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// The files, by path.
    pub files: Vec<RemoteFile>,
}

/// Where files of a commit go.
trait Store: Sync {
    /// The folder in which all of them are.
    fn dir(&self) -> PathBuf;
    /// Whether a file is there, whole.
    fn has(&self, file: &RemoteFile) -> bool;
    /// Where a file goes, by which way, and under which lock.
    fn places(&self, file: &RemoteFile) -> Places;
    /// Does what is left to do when a file is there.
    fn finish(&self, file: &RemoteFile) -> Result<(), HubError>;
}

pub(crate) struct Places {
    pub(crate) lock: PathBuf,
    pub(crate) partial: PathBuf,
    pub(crate) target: PathBuf,
}

/// The shared cache at a commit.
struct CachedCommit<'a> {
    cache: &'a RepoCache,
    commit: &'a str,
}

impl Store for CachedCommit<'_> {
    fn dir(&self) -> PathBuf {
        self.cache.snapshot(self.commit)
    }

    fn has(&self, file: &RemoteFile) -> bool {
        has_size(&self.cache.blob(file), file.size) || has_size(&self.cache.pointer(self.commit, file), file.size)
    }

    fn places(&self, file: &RemoteFile) -> Places {
        Places { lock: self.cache.lock(file), partial: self.cache.partial(file), target: self.cache.blob(file) }
    }

    fn finish(&self, file: &RemoteFile) -> Result<(), HubError> {
        self.cache.link(self.commit, file)
    }
}

impl Store for LocalFolder<'_> {
    fn dir(&self) -> PathBuf {
        self.root().to_owned()
    }

    fn has(&self, file: &RemoteFile) -> bool {
        self.holds(file)
    }

    fn places(&self, file: &RemoteFile) -> Places {
        self.places_of(file)
    }

    fn finish(&self, file: &RemoteFile) -> Result<(), HubError> {
        self.remember(file)
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

/// The commit to use, and why it could not be asked for, where it is a remembered one.
struct Resolved {
    commit: String,
    outage: Option<HubError>,
}

/// Gets the files into the cache, or into `local` where that is given.
pub(crate) fn snapshot(
    client: &Client,
    settings: &HubSettings,
    repo: &RepoName,
    selection: &Selection,
    local: Option<&Path>,
    progress: &Progress,
) -> Result<Snapshot, HubError> {
    at_place(client, settings, repo, local, progress, |place| place.snapshot(selection, progress))
}

/// The files that [`snapshot`] would get into the cache.
pub(crate) fn files(
    client: &Client,
    settings: &HubSettings,
    repo: &RepoName,
    selection: &Selection,
    progress: &Progress,
) -> Result<Listing, HubError> {
    at_place(client, settings, repo, None, progress, |place| place.files(selection, progress))
}

/// Does something with a repository's commit, by what the Hub says or the cache remembers of it.
fn at_place<T>(
    client: &Client,
    settings: &HubSettings,
    repo: &RepoName,
    local: Option<&Path>,
    progress: &Progress,
    work: impl FnOnce(&Place) -> Result<T, HubError>,
) -> Result<T, HubError> {
    // A folder of the user's own has its notes in itself, as with the Python library.
    let cache = match local {
        Some(root) => RepoCache::in_folder(&root.join(".cache/huggingface")),
        None => RepoCache::new(&settings.cache, repo),
    };
    let Resolved { commit, outage } = resolve(client, settings, &cache, repo, progress)?;
    let online = !settings.offline && outage.is_none();
    let place = Place { client, settings, repo, commit: &commit, cache: &cache, local, online };
    work(&place).map_err(|error| match (error, outage) {
        // What is missing is missing because the Hub could not be asked.
        (HubError::NotCached { .. } | HubError::Incomplete { .. }, Some(outage)) => outage,
        (error, _) => error,
    })
}

/// What a snapshot is made from, and where.
struct Place<'a> {
    client: &'a Client,
    settings: &'a HubSettings,
    repo: &'a RepoName,
    commit: &'a str,
    cache: &'a RepoCache,
    local: Option<&'a Path>,
    online: bool,
}

impl Place<'_> {
    fn snapshot(&self, selection: &Selection, progress: &Progress) -> Result<Snapshot, HubError> {
        let Some(listing) = self.listing(progress)? else {
            let files = self.unlisted(selection)?;
            return Ok(self.taken(self.cache.snapshot(self.commit), files, 0));
        };
        self.with_store(progress, |store, job| {
            let (files, indices) = self.select(selection, &listing, store, job)?;
            let fetched = job.get(&files)?;
            if self.online {
                self.cache.remember_commit(self.repo, self.commit)?;
            }
            Ok(self.taken(store.dir(), files, fetched + indices))
        })
    }

    fn files(&self, selection: &Selection, progress: &Progress) -> Result<Listing, HubError> {
        let files = match self.listing(progress)? {
            Some(listing) => self.with_store(progress, |store, job| {
                self.select(selection, &listing, store, job).map(|(files, _)| files)
            })?,
            None => self.unlisted(selection)?,
        };
        Ok(Listing { commit: self.commit.to_owned(), files })
    }

    fn taken(&self, dir: PathBuf, files: Vec<RemoteFile>, fetched: usize) -> Snapshot {
        let files = files.into_iter().map(|file| file.path).collect();
        Snapshot { dir, commit: self.commit.to_owned(), files, fetched }
    }

    fn with_store<T>(
        &self,
        progress: &Progress,
        work: impl FnOnce(&dyn Store, &Job) -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let Self { client, repo, commit, online, .. } = *self;
        let cached = CachedCommit { cache: self.cache, commit };
        let folder = self.local.map(|root| LocalFolder::new(root, commit));
        let store: &dyn Store = match &folder {
            Some(folder) => folder,
            None => &cached,
        };
        work(store, &Job { client, repo, commit, online, store, progress })
    }

    /// The files that are wanted; an index that says which those are is fetched, and counted where it was.
    fn select(
        &self,
        selection: &Selection,
        listing: &[RemoteFile],
        store: &dyn Store,
        job: &Job,
    ) -> Result<(Vec<RemoteFile>, usize), HubError> {
        let mut indices = 0;
        let files = select(self.repo, selection, listing, &mut |index| {
            indices += usize::from(!store.has(index));
            job.get(std::slice::from_ref(index))?;
            let path = store.dir().join(index.local_path());
            fs::read(&path).map_err(|source| HubError::Read { path, source })
        })?;
        Ok((files, indices))
    }

    /// The files of the commit; `None` where nobody knows.
    fn listing(&self, progress: &Progress) -> Result<Option<Vec<RemoteFile>>, HubError> {
        let Self { client, repo, commit, cache, .. } = *self;
        if let Some(files) = cache.known_files(repo, commit) {
            return Ok(Some(files));
        }
        if !self.online {
            return Ok(None);
        }
        let files = api::files(client, repo, commit, progress)?;
        cache.remember_files(commit, &files)?;
        Ok(Some(files))
    }

    /// The files of a tool that left no list of them: what is there is taken for all there is.
    fn unlisted(&self, selection: &Selection) -> Result<Vec<RemoteFile>, HubError> {
        let Self { settings, repo, .. } = *self;
        let dir = self.cache.snapshot(self.commit);
        let missing = || HubError::NotCached { repo: repo.clone(), cache: settings.cache.clone() };
        if !dir.is_dir() {
            return Err(missing());
        }
        let mut found = Vec::new();
        walk(&dir, "", &mut found).map_err(|source| HubError::Read { path: dir.clone(), source })?;
        found.sort();
        let nameless = "0".repeat(40); // nothing is compared with it
        let listing: Vec<RemoteFile> = found
            .into_iter()
            .map(|(path, size)| RemoteFile::new(repo, path, size, nameless.clone(), None, None))
            .collect::<Result<_, _>>()?;
        select(repo, selection, &listing, &mut |index| {
            let path = dir.join(index.local_path());
            fs::read(&path).map_err(|source| HubError::Read { path, source })
        })
        .map_err(|error| match error {
            HubError::FileNotFound { repo, path } => HubError::Incomplete { repo, missing: path },
            HubError::NothingUseful { .. } => missing(),
            other => other,
        })
    }
}

/// The commit of a revision: asked for, or remembered where the Hub can't be asked.
fn resolve(
    client: &Client,
    settings: &HubSettings,
    cache: &RepoCache,
    repo: &RepoName,
    progress: &Progress,
) -> Result<Resolved, HubError> {
    if let Some(commit) = repo.commit() {
        return Ok(Resolved { commit: commit.to_owned(), outage: None });
    }
    let known = cache.known_commit(repo);
    if settings.offline {
        let missing = || HubError::NotCached { repo: repo.clone(), cache: settings.cache.clone() };
        return known.map(|commit| Resolved { commit, outage: None }).ok_or_else(missing);
    }
    match (api::commit(client, repo, progress), known) {
        (Ok(commit), _) => Ok(Resolved { commit, outage: None }),
        (Err(error), Some(commit)) if error.is_outage() => {
            tell(&Event::Stale { reason: chain(&error), commit: commit.clone() }, progress)?;
            Ok(Resolved { commit, outage: Some(error) })
        }
        (Err(error), _) => Err(error),
    }
}

/// All files below a folder, with their bytes.
fn walk(dir: &Path, prefix: &str, found: &mut Vec<(String, u64)>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found)?;
        // A link that leads nowhere is the rest of a download.
        } else if let Ok(metadata) = fs::metadata(entry.path()) {
            found.push((path, metadata.len()));
        }
    }
    Ok(())
}

/// Files of one commit on their way to one store.
struct Job<'a> {
    client: &'a Client,
    repo: &'a RepoName,
    commit: &'a str,
    online: bool,
    store: &'a dyn Store,
    progress: &'a Progress<'a>,
}

impl Job<'_> {
    /// Gets what is missing of `files`; gives how many those were.
    fn get(&self, files: &[RemoteFile]) -> Result<usize, HubError> {
        let missing: Vec<&RemoteFile> = files.iter().filter(|file| !self.store.has(file)).collect();
        if let (Some(file), false) = (missing.first(), self.online) {
            return Err(HubError::Incomplete { repo: self.repo.clone(), missing: file.path.clone() });
        }
        if !missing.is_empty() {
            self.plan(&missing)?;
            self.fetch_all(&missing)?;
        }
        files.iter().try_for_each(|file| self.store.finish(file))?;
        Ok(missing.len())
    }

    /// Says what is to come, and whether there is room for it.
    fn plan(&self, missing: &[&RemoteFile]) -> Result<(), HubError> {
        let present = |file: &&RemoteFile| {
            let partial = fs::metadata(self.store.places(file).partial).map_or(0, |metadata| metadata.len());
            if partial > file.size { 0 } else { partial }
        };
        let bytes: u64 = missing.iter().map(|file| file.size).sum();
        let present_bytes: u64 = missing.iter().map(present).sum();
        let folder = self.store.dir();
        fs::create_dir_all(&folder).map_err(|source| HubError::Write { path: folder.clone(), source })?;
        // Where the system does not say how much is free, the disk itself will.
        if let Ok(free) = fs4::available_space(&folder)
            && free < bytes - present_bytes
        {
            return Err(HubError::NoSpace { folder, needed: bytes - present_bytes, free });
        }
        tell(&Event::Planned { files: missing.len(), bytes, present_bytes }, self.progress)
    }

    /// Fetches several files at a time. After the first failure no further one begins, and those under way stop.
    fn fetch_all(&self, missing: &[&RemoteFile]) -> Result<(), HubError> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<HubError>> = Mutex::new(None);
        let failed = || failure.lock().map_or(true, |failure| failure.is_some());
        let progress = |event: &Event| if failed() { crate::Flow::Stop } else { (self.progress)(event) };
        let work = || {
            while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Err(error) = self.fetch_one(file, &progress) else { continue };
                if let Ok(mut failure) = failure.lock() {
                    // The others stop because of the first; it says why.
                    failure.get_or_insert(error);
                }
                return;
            }
        };
        thread::scope(|scope| {
            for _ in 1..WORKERS.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or(Some(HubError::Stopped)).map_or(Ok(()), Err)
    }

    fn fetch_one(&self, file: &RemoteFile, progress: &Progress) -> Result<(), HubError> {
        let places = self.store.places(file);
        let _lock = Lock::acquire(&places.lock, &file.path, progress)?;
        // Another process may have fetched it while this one waited.
        if self.store.has(file) {
            tell(&Event::Bytes(file.size), progress)?;
            return tell(&Event::Done { path: file.path.clone() }, progress);
        }
        let paths = Paths { partial: &places.partial, target: &places.target };
        fetch(self.client, self.repo, self.commit, file, paths, progress)
    }
}

/// Prepares the cache folder itself.
pub(crate) fn prepare_cache(settings: &HubSettings) -> Result<(), HubError> {
    cache::tag(&settings.cache)
}
