//! Paths to answers: who is it, what is there, and where is its content.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::repository::{Access, Repository, State, git_blob, is_large, sha256};
use super::upload;
use super::wire::{Answer, Request};

pub(super) fn to(state: &mut State, request: &Request) -> Answer {
    if let Some(token) = request.token()
        && !state.accounts.contains_key(token)
    {
        return Answer::refused(401, "", "Invalid credentials in Authorization header");
    }
    let account = request.token().and_then(|token| state.accounts.get(token)).cloned();
    let segments = request.segments();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), parts.as_slice()) {
        (_, ["api", "whoami-v2"]) => whoami(account.as_deref()),
        ("POST", ["api", "validate-yaml"]) => Answer::json(&json!({ "errors": [], "warnings": [] })),
        ("POST", ["api", "repos", "create"]) => upload::create(state, account.as_deref(), &request.json()),
        (_, ["api", "resolve-cache", rest @ ..]) => match Place::at_commit(rest) {
            Some(place) => place.content(state, request, account.as_deref()),
            None => unknown(),
        },
        ("POST", [.., "info", "lfs", "objects", "batch"]) => upload::batch(state, account.as_deref(), &request.json()),
        ("POST", ["lfs", "complete"]) => upload::complete(state, &request.json()),
        ("POST", ["lfs", "verify"]) => upload::verify(state, account.as_deref(), &request.json()),
        (method, ["api", rest @ ..]) => {
            for keyword in ["revision", "tree", "preupload", "commit"] {
                let Some(place) = Place::find(rest, keyword) else { continue };
                return match (method, keyword) {
                    ("GET", "revision") => place.info(state, account.as_deref()),
                    ("GET", "tree") => place.tree(state, request, account.as_deref()),
                    ("POST", "preupload") => upload::preupload(state, &place, account.as_deref(), &request.json()),
                    ("POST", "commit") => upload::commit(state, &place, account.as_deref(), &request.body),
                    _ => unknown(),
                };
            }
            unknown()
        }
        ("GET" | "HEAD", _) => {
            let whole =
                if parts.first() == Some(&"datasets") { parts.clone() } else { [&["models"], &parts[..]].concat() };
            Place::find(&whole, "resolve").map_or_else(unknown, |place| place.resolve(state, account.as_deref()))
        }
        _ => unknown(),
    }
}

fn unknown() -> Answer {
    Answer::refused(404, "", "Sorry, we can't find the page you are looking for.")
}

fn whoami(account: Option<&str>) -> Answer {
    match account {
        None => Answer::refused(401, "", "Invalid username or password."),
        Some(name) => Answer::json(&json!({
            "type": "user", "name": name, "fullname": name, "orgs": [{ "type": "org", "name": "the-organization" }],
            "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "write" } },
        })),
    }
}

/// A path in a repository at a revision.
pub(super) struct Place {
    /// `models/owner/name`
    pub(super) repository: String,
    pub(super) revision: String,
    path: String,
}

impl Place {
    /// `models/owner/name/KEYWORD/revision/path…`, where the owner may be missing.
    fn find(segments: &[&str], keyword: &str) -> Option<Self> {
        let at = segments.iter().skip(2).take(2).position(|segment| *segment == keyword)? + 2;
        let (revision, path) = segments.get(at + 1..)?.split_first()?;
        Some(Self { repository: segments[..at].join("/"), revision: (*revision).to_owned(), path: path.join("/") })
    }

    /// `models/owner/name/COMMIT/path…`
    fn at_commit(segments: &[&str]) -> Option<Self> {
        let at = segments.iter().position(|segment| segment.len() == 40)?;
        let repository = segments[..at].join("/");
        Some(Self { repository, revision: segments[at].to_owned(), path: segments[at + 1..].join("/") })
    }

    /// The repository, if the account may see it.
    pub(super) fn repository<'a>(&self, state: &'a State, account: Option<&str>) -> Result<&'a Repository, Answer> {
        let owner = self.repository.split('/').nth(1);
        let missing = || {
            // Without an account the Hub does not tell a private repository from none.
            let status = if account.is_some() { 404 } else { 401 };
            Answer::refused(status, "RepoNotFound", "Repository not found")
        };
        let repository = state.repositories.get(&self.repository).ok_or_else(missing)?;
        if repository.access == Access::Private && account != owner { Err(missing()) } else { Ok(repository) }
    }

    fn files<'a>(
        &self,
        state: &'a State,
        account: Option<&str>,
    ) -> Result<(String, &'a BTreeMap<String, Vec<u8>>), Answer> {
        let repository = self.repository(state, account)?;
        let missing = || Answer::refused(404, "RevisionNotFound", "Invalid rev id");
        let commit = repository.resolve(&self.revision).ok_or_else(missing)?;
        let files = repository.files(&commit).ok_or_else(missing)?;
        Ok((commit, files))
    }

    fn info(&self, state: &State, account: Option<&str>) -> Answer {
        let (commit, files) = match self.files(state, account) {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let id = self.repository.split_once('/').map_or("", |(_, id)| id);
        let private = self.repository(state, account).is_ok_and(|repository| repository.access == Access::Private);
        let siblings: Vec<Value> = files.keys().map(|path| json!({ "rfilename": path })).collect();
        Answer::json(&json!({
            "_id": "0", "id": id, "modelId": id, "sha": commit, "private": private, "siblings": siblings, "tags": [],
        }))
    }

    fn tree(&self, state: &State, request: &Request, account: Option<&str>) -> Answer {
        let (_, files) = match self.files(state, account) {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let start: usize = request.query("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let entry = |(path, content): (&String, &Vec<u8>)| {
            let size = content.len();
            if !is_large(path, size) {
                return json!({ "type": "file", "path": path, "size": size, "oid": git_blob(content) });
            }
            let oid = sha256(content);
            let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n");
            json!({
                "type": "file", "path": path, "size": size, "oid": git_blob(pointer.as_bytes()),
                "lfs": { "oid": oid, "size": size, "pointerSize": pointer.len() }, "xetHash": oid,
            })
        };
        let page: Vec<Value> = files.iter().skip(start).take(state.page_size).map(entry).collect();
        let answer = Answer::json(&page.into());
        let next = start + state.page_size;
        if next >= files.len() {
            return answer;
        }
        let path = request.target.split('?').next().unwrap_or_default();
        answer.header("Link", format!("<{}{path}?recursive=true&cursor={next}>; rel=\"next\"", state.hub))
    }

    /// What is known of a file, and where its content is.
    fn resolve(&self, state: &State, account: Option<&str>) -> Answer {
        let (commit, files) = match self.files(state, account) {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let repository = self.repository(state, account);
        if let Ok(Repository { access: Access::Gated(accepted), .. }) = repository
            && !account.is_some_and(|account| accepted.contains(account))
        {
            let status = if account.is_some() { 403 } else { 401 };
            return Answer::refused(status, "GatedRepo", "Access to this repository is restricted.");
        }
        let Some(content) = files.get(&self.path) else {
            return Answer::refused(404, "EntryNotFound", "Entry not found").header("X-Repo-Commit", commit);
        };
        if is_large(&self.path, content.len()) {
            // Real files are in the Xet storage as well, which a client without its protocol need not care for.
            let oid = sha256(content);
            return Answer::new(302, Vec::new())
                .header("Location", format!("{}/object/{oid}?X-Signature=a-secret-signature", state.storage))
                .header("X-Repo-Commit", commit)
                .header("X-Linked-Etag", format!("\"{oid}\""))
                .header("X-Linked-Size", content.len().to_string())
                .header("Link", format!("<{}/api/xet-read-token>; rel=\"xet-auth\"", state.hub))
                .header("X-Xet-Hash", oid);
        }
        let etag = format!("\"{}\"", git_blob(content));
        let path = self.path.replace('%', "%25").replace(' ', "%20").replace('?', "%3F").replace('#', "%23");
        Answer::new(307, Vec::new())
            .header("Location", format!("/api/resolve-cache/{}/{commit}/{path}?etag=x", self.repository))
            .header("X-Repo-Commit", commit)
            .header("X-Linked-Etag", etag)
            .header("X-Linked-Size", content.len().to_string())
    }

    /// A small file's content.
    fn content(&self, state: &State, request: &Request, account: Option<&str>) -> Answer {
        match self.files(state, account) {
            Err(answer) => answer,
            Ok((commit, files)) => match files.get(&self.path) {
                None => Answer::refused(404, "EntryNotFound", "Entry not found"),
                Some(content) => Answer::new(200, content.clone())
                    .header("ETag", format!("\"{}\"", git_blob(content)))
                    .header("X-Repo-Commit", commit)
                    .ranged(request),
            },
        }
    }
}
