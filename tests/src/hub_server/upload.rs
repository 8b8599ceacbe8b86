//! Create, preupload, LFS, commit; and the storage's side of it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::answer::Place;
use super::repository::{Access, Repository, State, git_blob, is_large, sha256};
use super::wire::{Answer, Request};

fn no_account() -> Answer {
    Answer::refused(401, "", "Invalid username or password.")
}

fn forbidden() -> Answer {
    Answer::refused(403, "", "You don't have the rights to do this")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub(super) fn create(state: &mut State, account: Option<&str>, body: &Value) -> Answer {
    let Some(account) = account else { return no_account() };
    let owner = body["organization"].as_str().unwrap_or(account);
    if owner != account && owner != "the-organization" {
        return forbidden();
    }
    let kind = body["type"].as_str().unwrap_or("model");
    let id = format!("{owner}/{}", text(body, "name"));
    let key = format!("{kind}s/{id}");
    let prefix = if kind == "dataset" { "datasets/" } else { "" };
    let answer = json!({ "url": format!("{}/{prefix}{id}", state.hub), "id": "0" });
    if state.repositories.contains_key(&key) {
        let refused = Answer::refused(409, "", "You already created this repo");
        return Answer { body: answer.to_string().into(), ..refused };
    }
    let is_private = body["private"] == true || body["visibility"] == "private";
    let access = if is_private { Access::Private } else { Access::Public };
    state
        .repositories
        .insert(key, Repository::new([(".gitattributes", "*.safetensors filter=lfs\n")]).with_access(access));
    Answer::json(&answer)
}

/// Whether the account owns the place.
fn may_write(state: &State, place: &Place, account: Option<&str>) -> Result<(), Answer> {
    let Some(account) = account else { return Err(no_account()) };
    place.repository(state, Some(account))?;
    let owner = place.repository.split('/').nth(1).unwrap_or_default();
    if owner == account || owner == "the-organization" { Ok(()) } else { Err(forbidden()) }
}

pub(super) fn preupload(state: &State, place: &Place, account: Option<&str>, body: &Value) -> Answer {
    if let Err(answer) = may_write(state, place, account) {
        return answer;
    }
    let there = state.repositories.get(&place.repository).and_then(|repository| repository.files(&place.revision));
    let tell = |file: &Value| {
        let path = text(file, "path");
        let size = file["size"].as_u64().unwrap_or(0);
        let large = is_large(path, usize::try_from(size).unwrap_or(usize::MAX));
        let oid = there
            .and_then(|files| files.get(path))
            .map(|content| if is_large(path, content.len()) { sha256(content) } else { git_blob(content) });
        let mode = if large { "lfs" } else { "regular" };
        json!({ "path": path, "uploadMode": mode, "shouldIgnore": path.ends_with(".ignored"), "oid": oid })
    };
    let files: Vec<Value> = body["files"].as_array().into_iter().flatten().map(tell).collect();
    Answer::json(&json!({ "files": files, "commitOid": "0" }))
}

pub(super) fn batch(state: &State, account: Option<&str>, body: &Value) -> Answer {
    if account.is_none() {
        return no_account();
    }
    let objects = body["objects"].as_array().into_iter().flatten().map(|object| {
        let (oid, size) = (text(object, "oid"), object["size"].as_u64().unwrap_or(0));
        if state.objects.contains_key(oid) {
            return json!({ "oid": oid, "size": size });
        }
        let verify = json!({ "href": format!("{}/lfs/verify", state.hub) });
        let address = |part: usize| format!("{}/upload/{oid}/{part}?X-Signature=a-secret-signature", state.storage);
        let part_size = state.part_size as u64;
        if size <= part_size {
            return json!({ "oid": oid, "size": size, "actions": { "upload": { "href": address(0) }, "verify": verify } });
        }
        let mut header = Map::from_iter([("chunk_size".to_owned(), Value::from(part_size.to_string()))]);
        for part in 1..=size.div_ceil(part_size) as usize {
            header.insert(format!("{part:05}"), address(part).into());
        }
        let upload = json!({ "href": format!("{}/lfs/complete", state.hub), "header": header });
        json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
    });
    let objects: Vec<Value> = objects.collect();
    Answer::json(&json!({ "transfer": "basic", "objects": objects }))
}

/// Puts parts together, in the order in which the client lists them, if their etags are right.
pub(super) fn complete(state: &mut State, body: &Value) -> Answer {
    let oid = text(body, "oid").to_owned();
    let mut whole = Vec::new();
    for part in body["parts"].as_array().into_iter().flatten() {
        let number = part["partNumber"].as_u64().unwrap_or(0) as usize;
        match state.parts.remove(&(oid.clone(), number)) {
            Some(content) if format!("\"{}\"", git_blob(&content)) == text(part, "etag") => whole.extend(content),
            _ => return Answer::refused(400, "", "a part is missing or another one"),
        }
    }
    if sha256(&whole) != oid {
        return Answer::refused(400, "", "the parts do not make the object");
    }
    state.objects.insert(oid, whole);
    Answer::json(&json!({}))
}

pub(super) fn verify(state: &State, account: Option<&str>, body: &Value) -> Answer {
    let size = state.objects.get(text(body, "oid")).map(Vec::len);
    match account {
        None => no_account(),
        Some(_) if size.is_some() && size == body["size"].as_u64().map(|size| size as usize) => {
            Answer::json(&json!({}))
        }
        Some(_) => Answer::refused(404, "", "there is no such object"),
    }
}

pub(super) fn commit(state: &mut State, place: &Place, account: Option<&str>, body: &[u8]) -> Answer {
    if let Err(answer) = may_write(state, place, account) {
        return answer;
    }
    let mut files = BTreeMap::new();
    let mut message = String::new();
    for line in body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else { return Answer::refused(400, "", "not JSON") };
        let value = &line["value"];
        let path = text(value, "path").to_owned();
        match text(&line, "key") {
            "header" => text(value, "summary").clone_into(&mut message),
            "file" => match BASE64.decode(text(value, "content")) {
                Ok(content) => drop(files.insert(path, content)),
                Err(_) => return Answer::refused(400, "", "not base64"),
            },
            "lfsFile" => match state.object(text(value, "oid")) {
                Some(content) => drop(files.insert(path, content)),
                None => return Answer::refused(400, "", "LFS pointer pointed to a file that does not exist"),
            },
            _ => return Answer::refused(400, "", "an unknown operation"),
        }
    }
    let Some(repository) = state.repositories.get_mut(&place.repository) else { return forbidden() };
    let oid = repository.commit(&place.revision, files, &message);
    let (kind, id) = place.repository.split_once('/').unwrap_or_default();
    let prefix = if kind == "datasets" { "datasets/" } else { "" };
    let url = format!("{}/{prefix}{id}/commit/{oid}", state.hub);
    Answer::json(&json!({ "success": true, "commitOid": oid, "commitUrl": url, "hookOutput": "" }))
}

/// The storage: objects out and in, by signed address, with no word of who asks.
pub(super) fn storage(state: &mut State, request: &Request) -> Answer {
    if request.query("X-Signature").as_deref() != Some("a-secret-signature") {
        return Answer::refused(403, "", "SignatureDoesNotMatch");
    }
    let segments = request.segments();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET" | "HEAD", ["object", oid]) => match state.object(oid) {
            Some(content) => Answer::new(200, content).header("ETag", "\"of-the-storage\"").ranged(request),
            None => Answer::refused(404, "", "NoSuchKey"),
        },
        ("PUT", ["upload", oid, part]) => {
            let part: usize = part.parse().unwrap_or(0);
            if part == 0 && sha256(&request.body) != *oid {
                return Answer::refused(400, "", "BadDigest");
            }
            let etag = format!("\"{}\"", git_blob(&request.body));
            if part == 0 {
                state.objects.insert((*oid).to_owned(), request.body.clone());
            } else {
                state.parts.insert(((*oid).to_owned(), part), request.body.clone());
            }
            Answer::new(200, Vec::new()).header("ETag", etag)
        }
        _ => Answer::refused(404, "", "NoSuchKey"),
    }
}
