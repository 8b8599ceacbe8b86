//! HTTP/1.1 on a socket, one request a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::repository::State;
use super::{Fault, answer, upload};

/// A request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The token that was sent.
    pub token: Option<String>,
    /// The range that was asked for.
    pub range: Option<String>,
    /// Whether it came to storage, not to the Hub.
    pub storage: bool,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// The path's segments, decoded one by one: a `/` within one is `%2F`.
    pub(super) fn segments(&self) -> Vec<String> {
        let path = self.target.split('?').next().unwrap_or_default();
        path.trim_start_matches('/').split('/').map(decoded).collect()
    }

    pub(super) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| decoded(v))
    }

    /// The body as JSON; null where it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string()).header("Content-Type", "application/json")
    }

    /// A refusal, as the Hub words it.
    pub(super) fn refused(status: u16, code: &str, message: &str) -> Self {
        let answer = Self::new(status, serde_json::json!({ "error": message }).to_string());
        let answer = answer.header("Content-Type", "application/json").header("X-Error-Message", message);
        if code.is_empty() { answer } else { answer.header("X-Error-Code", code) }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The part of the body that was asked for.
    pub(super) fn ranged(self, request: &Request) -> Self {
        let start = request.header("range").and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()))
        });
        let total = self.body.len();
        match start {
            None => self.header("Accept-Ranges", "bytes"),
            Some((start, _)) if start >= total => {
                Self::new(416, Vec::new()).header("Content-Range", format!("bytes */{total}"))
            }
            Some((start, end)) => {
                let end = end.map_or(total, |end| (end + 1).min(total));
                let body = self.body[start..end].to_vec();
                let range = format!("bytes {start}-{}/{total}", end - 1);
                Self { status: 206, body, ..self }.header("Content-Range", range)
            }
        }
    }
}

/// Answers one connection.
pub(super) fn serve(stream: TcpStream, is_storage: bool, state: &Mutex<State>) {
    // A client that goes away is a client's right.
    let _ = answer_to(stream, is_storage, state);
}

fn answer_to(mut stream: TcpStream, is_storage: bool, state: &Mutex<State>) -> io::Result<()> {
    let mut request = read(&stream)?;
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.seen.push(Seen {
        method: request.method.clone(),
        target: request.target.clone(),
        token: request.token().map(str::to_owned),
        range: request.header("range").map(str::to_owned),
        storage: is_storage,
    });
    // A question about a file is not yet its content.
    let fault = if request.method == "HEAD" { None } else { state.fault(&request.target) };
    if matches!(fault, Some(Fault::IgnoreRange)) {
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("range"));
    }
    let mut answer = match &fault {
        Some(Fault::Status(status, headers)) => {
            let answer = Answer::refused(*status, "", "a fault on request");
            headers.iter().fold(answer, |answer, (name, value)| answer.header(name, *value))
        }
        _ if is_storage => upload::storage(&mut state, &request),
        _ => answer::to(&mut state, &request),
    };
    drop(state);

    let length = answer.body.len();
    if request.method == "HEAD" {
        answer.body.clear();
    }
    let mut pause = None;
    match fault {
        Some(Fault::Cut(bytes)) => answer.body.truncate(bytes),
        Some(Fault::Corrupt) => {
            if let Some(last) = answer.body.last_mut() {
                *last ^= 1;
            }
        }
        Some(Fault::Slow(bytes, time)) => pause = Some((bytes, time)),
        _ => {}
    }
    write!(stream, "HTTP/1.1 {} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    match pause {
        None => stream.write_all(&answer.body),
        Some((bytes, time)) => answer.body.chunks(bytes).try_for_each(|chunk| {
            thread::sleep(time);
            stream.write_all(chunk)
        }),
    }
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(malformed()) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| malformed())?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            request.body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().map_err(|_| malformed())?];
        reader.read_exact(&mut request.body)?;
    }
    Ok(request)
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut index = 0;
    while index < bytes.len() {
        let hex = text.get(index + 1..index + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[index], hex) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                index += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
