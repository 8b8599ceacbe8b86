//! What the Hub's JSON says: a revision's commit, a commit's files.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::http::{About, Call, Client, UseToken, shown};
use crate::name::is_commit;
use crate::{HubError, Progress, RemoteFile, RepoName};

/// What a path segment keeps: RFC 3986, unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Also the `/` between segments.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// Most files of a commit; more would not fit a listing in memory.
const MAX_FILES: usize = 2_000_000;

/// A revision, as one segment of an address.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Where a file's content is.
pub(crate) fn file_url(client: &Client, repo: &RepoName, commit: &str, path: &str) -> String {
    let path = utf8_percent_encode(path, PATH);
    format!("{}/{}/resolve/{}/{path}", client.endpoint, repo.page(), segment(commit))
}

/// What is known of a repository.
#[derive(Debug, Deserialize)]
pub(crate) struct RepoInfo {
    pub(crate) sha: Option<String>,
    #[serde(default)]
    pub(crate) private: bool,
}

/// Asks for a repository at its revision.
pub(crate) fn info(
    client: &Client,
    repo: &RepoName,
    token: UseToken,
    progress: &Progress,
) -> Result<RepoInfo, HubError> {
    let url = format!("{}/api/{}/revision/{}", client.endpoint, repo.api(), segment(repo.revision()));
    let about = About { repo: Some(repo), path: None };
    client.json(&Call::get(url, about).token(token), progress)
}

/// The commit that a revision is now.
pub(crate) fn commit(client: &Client, repo: &RepoName, progress: &Progress) -> Result<String, HubError> {
    let info = info(client, repo, UseToken::Implicit, progress)?;
    info.sha.filter(|sha| is_commit(sha)).ok_or_else(|| HubError::Answer {
        url: format!("{}/api/{}", client.endpoint, repo.api()),
        reason: "no commit".into(),
    })
}

#[derive(Debug, Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: Option<String>,
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash")]
    xet_hash: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// All files of a commit, page by page.
pub(crate) fn files(
    client: &Client,
    repo: &RepoName,
    commit: &str,
    progress: &Progress,
) -> Result<Vec<RemoteFile>, HubError> {
    let about = About { repo: Some(repo), path: None };
    let first = format!("{}/api/{}/tree/{}?recursive=true&expand=false", client.endpoint, repo.api(), segment(commit));
    let mut files = Vec::new();
    let mut next = Some(first);
    while let Some(url) = next {
        let (page, headers): (Vec<TreeEntry>, _) = client.json_and_headers(&Call::get(url.clone(), about), progress)?;
        for entry in page.into_iter().filter(|entry| entry.kind == "file") {
            let lfs = entry.lfs.map(|lfs| (lfs.oid, lfs.size));
            let blob = entry.oid.unwrap_or_default();
            files.push(RemoteFile::new(repo, entry.path, entry.size, blob, lfs, entry.xet_hash)?);
        }
        if files.len() > MAX_FILES {
            return Err(HubError::Answer { url: shown(&url), reason: format!("more than {MAX_FILES} files") });
        }
        next = next_page(&headers).filter(|next| *next != url);
    }
    Ok(files)
}

/// `Link: <https://…>; rel="next"`
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get("link")?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_in_the_link_header() {
        let page = |text: &str| next_page(&[("link".parse().unwrap(), text.parse().unwrap())].into_iter().collect());
        assert_eq!(page("<https://h/a?cursor=x>; rel=\"next\"").as_deref(), Some("https://h/a?cursor=x"));
        assert_eq!(page("<https://h/a>; rel=\"prev\", <https://h/b>; rel=\"next\"").as_deref(), Some("https://h/b"));
        assert_eq!(page("<https://h/a>; rel=\"prev\""), None);
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(segment("refs/convert/parquet"), "refs%2Fconvert%2Fparquet");
        assert_eq!(utf8_percent_encode("a b/ü?#.txt", PATH).to_string(), "a%20b/%C3%BC%3F%23.txt");
    }
}
