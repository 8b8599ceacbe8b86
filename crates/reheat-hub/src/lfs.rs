//! Large files on their way up, by the protocol of Git LFS with the Hub's multipart transfer.
//!
//! <https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md>; the multipart form is `lfs.py` of
//! `huggingface_hub` 2.4: addresses of the parts are header fields whose names are numbers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::{Method, header};

use crate::digest::Hasher;
use crate::http::{About, Call, Client, Content, UseToken, shown, tell};
use crate::upload::{Upload, hash};
use crate::{Event, HubError, Progress, RepoName};

/// Objects per question; the number of `huggingface_hub`.
const OBJECTS_PER_BATCH: usize = 256;
const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// A file with the name under which storage knows it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) upload: Upload,
    /// SHA-256 of its content.
    pub(crate) oid: String,
}

#[derive(Debug, Deserialize)]
struct Batch {
    objects: Vec<BatchObject>,
}

#[derive(Debug, Deserialize)]
struct BatchObject {
    oid: String,
    /// Absent where storage has the object.
    #[serde(default)]
    actions: BTreeMap<String, Action>,
    error: Option<BatchError>,
}

#[derive(Debug, Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
struct BatchError {
    message: String,
}

/// Sends what storage does not have yet.
pub(crate) fn send(
    client: &Client,
    repo: &RepoName,
    uploads: Vec<Upload>,
    progress: &Progress,
) -> Result<Vec<Object>, HubError> {
    let mut objects = Vec::new();
    for upload in uploads {
        tell(&Event::Bytes(0), progress)?;
        objects.push(Object { oid: hash(&upload.source, Hasher::sha256())?, upload });
    }
    let sender = Sender { client, repo, progress };
    for chunk in objects.chunks(OBJECTS_PER_BATCH) {
        let batch = sender.batch(chunk)?;
        for object in chunk {
            sender.object(object, &batch)?;
        }
    }
    Ok(objects)
}

struct Sender<'a> {
    client: &'a Client,
    repo: &'a RepoName,
    progress: &'a Progress<'a>,
}

impl Sender<'_> {
    fn about(&self) -> About<'_> {
        About { repo: Some(self.repo), path: None }
    }

    fn batch_url(&self) -> String {
        format!("{}/{}.git/info/lfs/objects/batch", self.client.endpoint, self.repo.page())
    }

    fn strange(&self, reason: impl Into<String>) -> HubError {
        HubError::Answer { url: self.batch_url(), reason: reason.into() }
    }

    /// Asks where the objects go.
    fn batch(&self, objects: &[Object]) -> Result<Batch, HubError> {
        let listed: Vec<Value> =
            objects.iter().map(|object| json!({ "oid": object.oid, "size": object.upload.size })).collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": listed,
            "hash_algo": "sha256",
            "ref": { "name": self.repo.revision() },
        });
        let body = body.to_string();
        let call = Call::post(self.batch_url(), body.as_bytes(), self.about())
            .header(header::CONTENT_TYPE, LFS_JSON)
            .header(header::ACCEPT, LFS_JSON)
            .token(UseToken::Required("an upload"));
        self.client.json(&call, self.progress)
    }

    fn object(&self, object: &Object, batch: &Batch) -> Result<(), HubError> {
        let path = &object.upload.path;
        let told = batch.objects.iter().find(|told| told.oid == object.oid);
        let told = told.ok_or_else(|| self.strange(format!("nothing about `{path}`")))?;
        if let Some(error) = &told.error {
            return Err(HubError::Refused { path: path.clone(), message: error.message.clone() });
        }
        match told.actions.get("upload") {
            None => tell(&Event::Bytes(object.upload.size), self.progress)?,
            Some(action) if action.header.contains_key("chunk_size") => self.parts(object, action)?,
            Some(action) => {
                self.put(object, &action.href, 0, object.upload.size)?;
            }
        }
        if let Some(verify) = told.actions.get("verify") {
            let body = json!({ "oid": object.oid, "size": object.upload.size }).to_string();
            let call = Call::post(verify.href.clone(), body.as_bytes(), self.about())
                .header(header::CONTENT_TYPE, LFS_JSON)
                .header(header::ACCEPT, LFS_JSON)
                .token(UseToken::Required("an upload"));
            self.client.send(&call, self.progress)?;
        }
        tell(&Event::Done { path: path.clone() }, self.progress)
    }

    /// Sends an object in the parts that storage asked for, and says which those were.
    fn parts(&self, object: &Object, action: &Action) -> Result<(), HubError> {
        let chunk_size = match action.header.get("chunk_size") {
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_u64(),
            None => None,
        };
        let chunk_size = chunk_size.filter(|&size| size > 0).ok_or_else(|| self.strange("no size of the parts"))?;
        let urls: BTreeMap<u64, &str> =
            action.header.iter().filter_map(|(name, url)| Some((name.parse().ok()?, url.as_str()?))).collect();
        let size = object.upload.size;
        if urls.len() as u64 != size.div_ceil(chunk_size) {
            return Err(self.strange(format!("{} parts of {chunk_size} bytes for {size} bytes", urls.len())));
        }
        let mut parts = Vec::new();
        for (index, url) in urls.values().enumerate() {
            let start = index as u64 * chunk_size;
            let etag = self.put(object, url, start, chunk_size.min(size - start))?;
            let etag = etag.ok_or_else(|| self.strange("a part without an etag"))?;
            parts.push(json!({ "partNumber": index + 1, "etag": etag }));
        }
        let body = json!({ "oid": object.oid, "parts": parts }).to_string();
        let call = Call::post(action.href.clone(), body.as_bytes(), self.about())
            .header(header::CONTENT_TYPE, LFS_JSON)
            .header(header::ACCEPT, LFS_JSON)
            .token(UseToken::Required("an upload"));
        self.client.send(&call, self.progress).map(drop)
    }

    /// Sends bytes to a signed address; gives the etag.
    fn put(&self, object: &Object, url: &str, start: u64, len: u64) -> Result<Option<String>, HubError> {
        let call = Call {
            method: Method::PUT,
            url: url.to_owned(),
            headers: Vec::new(),
            content: Content::Part { path: &object.upload.source, start, len },
            // Storage knows nothing of repositories; its refusals are its own.
            about: About::default(),
            token: UseToken::None,
        };
        let response = self.client.send(&call, self.progress).map_err(|error| match error {
            HubError::Forbidden { message, .. } => {
                HubError::Refused { path: object.upload.path.clone(), message: format!("{}: {message}", shown(url)) }
            }
            other => other,
        })?;
        tell(&Event::Bytes(len), self.progress)?;
        Ok(response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned))
    }
}
