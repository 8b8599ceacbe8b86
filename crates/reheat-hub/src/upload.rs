//! A folder to a repository, in one commit.
//!
//! The order of the Hub's protocol: make the repository; say what is to come (`preupload`), and learn which files are
//! large; send these to storage; then the commit, with the small files in it. Nobody sees anything before the commit.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::NamedTempFile;
use ureq::http::header;

use crate::digest::Hasher;
use crate::http::{About, Call, Client, UseToken, tell};
use crate::select::patterns;
use crate::{Event, HubError, Progress, RepoName, account, api, lfs};

/// Files per question; the number of `huggingface_hub`.
const FILES_PER_PREUPLOAD: usize = 256;
/// What the Hub wants to see of a file to tell text from data.
const SAMPLE_BYTES: u64 = 512;
/// Largest file that is looked through for the token, and that may be part of the commit itself.
const SMALL_BYTES: u64 = 10 << 20;
/// Folders that are no part of what is published: states of a training run to go on from, and tools' own.
const LEFT_OUT: [&str; 3] = ["checkpoint-", ".", "__pycache__"];
/// What a push does, for its errors.
const PUSH: &str = "an upload";

/// How a folder is uploaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// Whether a new repository is private. One that is there and public is then an error.
    pub private: bool,
    /// Patterns of the files to upload; all of them where there is none.
    pub include: Vec<String>,
    /// Patterns of files to leave out.
    pub exclude: Vec<String>,
    /// The first line of the commit. Default `Upload folder using reheat`.
    pub message: Option<String>,
    /// The text of a `README.md` for a folder and a repository that both have none.
    pub page: Option<String>,
}

/// The page of a repository.
const PAGE: &str = "README.md";

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pushed {
    /// The page of the repository.
    pub url: String,
    /// The new commit; absent where everything was there already.
    pub commit: Option<String>,
    /// Files in the commit.
    pub files: usize,
}

/// A file on its way up.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) path: String,
    pub(crate) source: PathBuf,
    pub(crate) size: u64,
    /// Whether a file that the repository has stays as it is.
    pub(crate) keeps_theirs: bool,
}

pub(crate) fn push(
    client: &Client,
    dir: &Path,
    repo: &RepoName,
    options: &PushOptions,
    progress: &Progress,
) -> Result<Pushed, HubError> {
    let mut uploads = collect(dir, options)?;
    // Lives until everything is sent.
    let page = if uploads.iter().any(|upload| upload.path == PAGE) { None } else { options.page.as_deref() };
    let _page = page.map(|text| add_page(text, &mut uploads)).transpose()?;
    check_secrets(client, &uploads)?;
    let repo =
        if repo.has_owner() { repo.clone() } else { repo.owned_by(&account::whoami(client, None, progress)?.name)? };
    create(client, &repo, options.private, progress)?;
    let (large, small) = sort_out(client, &repo, uploads, progress)?;
    let url = format!("{}/{}", client.endpoint, repo.page());
    if large.is_empty() && small.is_empty() {
        return Ok(Pushed { url, commit: None, files: 0 });
    }
    let bytes = large.iter().chain(&small).map(|upload| upload.size).sum();
    let files = large.len() + small.len();
    tell(&Event::Planned { files, bytes, present_bytes: 0 }, progress)?;
    let objects = lfs::send(client, &repo, large, progress)?;
    let message = options.message.as_deref().unwrap_or("Upload folder using reheat");
    let commit = commit(client, &repo, message, &objects, &small, progress)?;
    Ok(Pushed { url, commit: Some(commit), files })
}

/// The files of a folder that are to be uploaded, in order.
fn collect(dir: &Path, options: &PushOptions) -> Result<Vec<Upload>, HubError> {
    let (include, exclude) = (patterns(&options.include)?, patterns(&options.exclude)?);
    let mut uploads = Vec::new();
    walk(dir, "", &mut uploads)?;
    uploads.retain(|upload| {
        (include.is_empty() || include.iter().any(|pattern| pattern.matches(&upload.path)))
            && !exclude.iter().any(|pattern| pattern.matches(&upload.path))
    });
    uploads.sort_by(|a, b| a.path.cmp(&b.path));
    if uploads.is_empty() { Err(HubError::EmptyFolder { folder: dir.to_owned() }) } else { Ok(uploads) }
}

/// Adds a page from a temporary file.
fn add_page(text: &str, uploads: &mut Vec<Upload>) -> Result<NamedTempFile, HubError> {
    let failed = |source| HubError::Write { path: std::env::temp_dir(), source };
    let file = NamedTempFile::new().map_err(failed)?;
    fs::write(file.path(), text).map_err(failed)?;
    let (source, size) = (file.path().to_owned(), text.len() as u64);
    uploads.push(Upload { path: PAGE.to_owned(), source, size, keeps_theirs: true });
    Ok(file)
}

fn walk(dir: &Path, prefix: &str, uploads: &mut Vec<Upload>) -> Result<(), HubError> {
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |source| HubError::Read { path, source }
    };
    for entry in fs::read_dir(dir).map_err(unread(dir))? {
        let entry = entry.map_err(unread(dir))?;
        let source = entry.path();
        let name = entry.file_name().into_string().map_err(|_| {
            let reason = std::io::Error::new(std::io::ErrorKind::InvalidData, "its name is not UTF-8");
            unread(&source)(reason)
        })?;
        let path = format!("{prefix}{name}");
        if entry.file_type().map_err(unread(&source))?.is_dir() {
            if !LEFT_OUT.iter().any(|start| name.starts_with(start)) {
                walk(&source, &format!("{path}/"), uploads)?;
            }
            continue;
        }
        // Links to files count as files, which is what a folder of the cache is made of; links to folders do not.
        let metadata = fs::metadata(&source).map_err(unread(&source))?;
        if metadata.is_file() && (!name.starts_with('.') || name == ".gitattributes") {
            uploads.push(Upload { path, source, size: metadata.len(), keeps_theirs: false });
        }
    }
    Ok(())
}

/// A token that is about to be published is the end of an account.
fn check_secrets(client: &Client, uploads: &[Upload]) -> Result<(), HubError> {
    let Some(token) = client.own_token() else { return Err(HubError::NoToken { what: PUSH }) };
    for upload in uploads.iter().filter(|upload| upload.size <= SMALL_BYTES) {
        let content = read(&upload.source)?;
        if content.windows(token.secret().len()).any(|window| window == token.secret().as_bytes()) {
            return Err(HubError::TokenInFile { path: upload.source.clone() });
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, HubError> {
    fs::read(path).map_err(|source| HubError::Read { path: path.to_owned(), source })
}

/// Makes the repository where there is none.
fn create(client: &Client, repo: &RepoName, private: bool, progress: &Progress) -> Result<(), HubError> {
    let (organization, name) = repo.id().split_once('/').unwrap_or_default();
    let body = json!({
        "type": repo.repo_type().name(), "name": name, "organization": organization, "private": private,
    });
    let body = body.to_string();
    let call = Call::post(format!("{}/api/repos/create", client.endpoint), body.as_bytes(), About::default())
        .token(UseToken::Required(PUSH));
    match client.send(&call, progress) {
        Ok(_) => return Ok(()),
        Err(HubError::Status { status: 409, .. }) => {}
        // Who may write to a repository need not be allowed to make one.
        Err(error @ HubError::Forbidden { .. }) => {
            let there = api::info(client, repo, UseToken::Required(PUSH), progress);
            if there.is_err() {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    let info = api::info(client, repo, UseToken::Required(PUSH), progress)?;
    if private && !info.private { Err(HubError::AlreadyPublic { repo: repo.clone() }) } else { Ok(()) }
}

#[derive(Debug, Deserialize)]
struct Preupload {
    files: Vec<PreuploadFile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreuploadFile {
    path: String,
    upload_mode: UploadMode,
    #[serde(default)]
    should_ignore: bool,
    /// The hash of the file that is there now.
    oid: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UploadMode {
    Lfs,
    Regular,
}

/// Large files and small ones, by the Hub's own rules; those that are there already or are ignored are left out.
fn sort_out(
    client: &Client,
    repo: &RepoName,
    uploads: Vec<Upload>,
    progress: &Progress,
) -> Result<(Vec<Upload>, Vec<Upload>), HubError> {
    let (mut large, mut small) = (Vec::new(), Vec::new());
    let url = format!("{}/api/{}/preupload/{}", client.endpoint, repo.api(), api::segment(repo.revision()));
    let mut uploads = uploads.into_iter().peekable();
    while uploads.peek().is_some() {
        let chunk: Vec<Upload> = uploads.by_ref().take(FILES_PER_PREUPLOAD).collect();
        let files = chunk.iter().map(announcement).collect::<Result<Vec<_>, _>>()?;
        let body = json!({ "files": files }).to_string();
        let about = About { repo: Some(repo), path: None };
        let call = Call::post(url.clone(), body.as_bytes(), about).token(UseToken::Required(PUSH));
        let answer: Preupload = client.json(&call, progress)?;
        for upload in chunk {
            let told = answer.files.iter().find(|file| file.path == upload.path).ok_or_else(|| HubError::Answer {
                url: url.clone(),
                reason: format!("nothing about `{}`", upload.path),
            })?;
            // Storage takes no empty object.
            let mode = if upload.size == 0 { UploadMode::Regular } else { told.upload_mode };
            let stays = upload.keeps_theirs && told.oid.is_some();
            if told.should_ignore || stays || is_there(&upload, mode, told.oid.as_deref())? {
                continue;
            }
            match mode {
                UploadMode::Lfs => large.push(upload),
                UploadMode::Regular => small.push(upload),
            }
        }
    }
    Ok((large, small))
}

fn announcement(upload: &Upload) -> Result<serde_json::Value, HubError> {
    let unread = |source| HubError::Read { path: upload.source.clone(), source };
    let mut sample = Vec::new();
    File::open(&upload.source).map_err(unread)?.take(SAMPLE_BYTES).read_to_end(&mut sample).map_err(unread)?;
    Ok(json!({ "path": upload.path, "size": upload.size, "sample": BASE64.encode(sample) }))
}

/// Whether the repository has this very content.
fn is_there(upload: &Upload, mode: UploadMode, oid: Option<&str>) -> Result<bool, HubError> {
    let Some(oid) = oid else { return Ok(false) };
    let hasher = match mode {
        UploadMode::Lfs => Hasher::sha256(),
        UploadMode::Regular => Hasher::git_blob(upload.size),
    };
    Ok(hash(&upload.source, hasher)? == oid)
}

pub(crate) fn hash(path: &Path, mut hasher: Hasher) -> Result<String, HubError> {
    let unread = |source| HubError::Read { path: path.to_owned(), source };
    hasher.update_from(File::open(path).map_err(unread)?).map_err(unread)?;
    Ok(hasher.finish())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
}

/// The commit: one JSON object a line.
fn commit(
    client: &Client,
    repo: &RepoName,
    message: &str,
    objects: &[lfs::Object],
    small: &[Upload],
    progress: &Progress,
) -> Result<String, HubError> {
    let mut lines = json!({ "key": "header", "value": { "summary": message, "description": "" } }).to_string();
    let mut add = |line: serde_json::Value| {
        lines.push('\n');
        lines.push_str(&line.to_string());
    };
    for upload in small {
        let content = BASE64.encode(read(&upload.source)?);
        add(json!({ "key": "file", "value": { "path": upload.path, "encoding": "base64", "content": content } }));
    }
    for object in objects {
        let (path, oid, size) = (&object.upload.path, &object.oid, object.upload.size);
        add(json!({ "key": "lfsFile", "value": { "path": path, "algo": "sha256", "oid": oid, "size": size } }));
    }
    let url = format!("{}/api/{}/commit/{}", client.endpoint, repo.api(), api::segment(repo.revision()));
    let about = About { repo: Some(repo), path: None };
    let call = Call::post(url, lines.as_bytes(), about)
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .token(UseToken::Required(PUSH));
    let committed: Committed = client.json(&call, progress)?;
    for upload in small {
        tell(&Event::Bytes(upload.size), progress)?;
        tell(&Event::Done { path: upload.path.clone() }, progress)?;
    }
    Ok(committed.commit_oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_has_no_checkpoints_and_nothing_hidden() {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "README.md",
            "plots/loss.svg",
            "model.safetensors",
            "checkpoint-5/model.safetensors",
            ".env",
            ".git/config",
            ".cache/x",
            ".gitattributes",
            "__pycache__/a.pyc",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let paths = |options: &PushOptions| -> Vec<String> {
            collect(folder.path(), options).unwrap().into_iter().map(|upload| upload.path).collect()
        };
        let all = paths(&PushOptions::default());
        assert_eq!(all, [".gitattributes", "README.md", "model.safetensors", "plots/loss.svg"]);
        let some = PushOptions {
            include: vec!["*.safetensors".into(), "plots/".into()],
            exclude: vec!["*.svg".into()],
            ..PushOptions::default()
        };
        assert_eq!(paths(&some), ["model.safetensors"]);
        let none = PushOptions { include: vec!["*.bin".into()], ..PushOptions::default() };
        assert!(matches!(collect(folder.path(), &none), Err(HubError::EmptyFolder { .. })));
    }
}
