//! Requests: where a token may go, which redirects are followed, what is tried again and after which wait.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Method, Request, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, SendBody};

mod answer; // status to error
mod wait; // how long before the next attempt

pub(crate) use self::wait::pause;
use crate::{Event, Flow, HubError, HubSettings, Progress, RepoName, Token};

const MAX_REDIRECTS: usize = 8;
/// Attempts of a request that fails without an answer or with one that may pass.
pub(crate) const MAX_ATTEMPTS: u32 = 6;
/// How long the Hub may think about what was sent to it: a commit of many files takes a while.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// Largest JSON answer. A page of a tree has at most 1,000 entries; a whoami lists organisations.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// The Hub, and who asks.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: String,
    token: Option<Token>,
    send_token: bool,
    retry_wait: Duration,
}

/// One request, which can be sent more than once.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) content: Content<'a>,
    pub(crate) about: About<'a>,
    pub(crate) token: UseToken<'a>,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// A part of a file.
    Part {
        path: &'a Path,
        start: u64,
        len: u64,
    },
}

/// What a request is about, for its errors.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct About<'a> {
    pub(crate) repo: Option<&'a RepoName>,
    pub(crate) path: Option<&'a str>,
}

/// Which token goes to the endpoint's own origin.
#[derive(Debug, Clone, Copy)]
pub(crate) enum UseToken<'a> {
    /// The one of the settings, where it may go without being asked for.
    Implicit,
    /// The one of the settings, because nothing works without; names what needs it.
    Required(&'static str),
    /// This one.
    This(&'a Token),
    /// None: the address is signed.
    None,
}

impl<'a> Call<'a> {
    pub(crate) fn get(url: String, about: About<'a>) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            content: Content::Nothing,
            about,
            token: UseToken::Implicit,
        }
    }

    pub(crate) fn post(url: String, content: &'a [u8], about: About<'a>) -> Self {
        let json = (header::CONTENT_TYPE, "application/json".to_owned());
        Self { method: Method::POST, headers: vec![json], content: Content::Bytes(content), ..Self::get(url, about) }
    }

    pub(crate) fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn token(self, token: UseToken<'a>) -> Self {
        Self { token, ..self }
    }
}

/// Why an attempt failed.
enum Failure {
    /// No use trying again.
    Final(HubError),
    /// May pass; the server's wish for the wait, where it has one.
    Passing(HubError, Option<Duration>),
}

impl Client {
    pub(crate) fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let origin = Origin::of(&endpoint)
            .filter(Origin::is_safe)
            .ok_or_else(|| HubError::Insecure { url: shown(&endpoint) })?;
        let tls = match &settings.certificates {
            Some(path) => TlsConfig::builder().root_certs(read_certificates(path)?).build(),
            None => TlsConfig::default(),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(settings.timeout))
            .timeout_resolve(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .user_agent(concat!("reheat/", env!("CARGO_PKG_VERSION")))
            // A compressed body would hide its size, and a range of one can't be continued.
            .accept_encoding("identity")
            .tls_config(tls);
        if origin.is_loopback() {
            // A proxy of the environment is for the world outside, and has a loopback interface of its own.
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            token: settings.token.clone(),
            send_token: settings.send_token,
            retry_wait: settings.retry_wait,
        })
    }

    /// The Hub's host, for messages.
    pub(crate) fn host(&self) -> String {
        Origin::of(&self.endpoint).map_or_else(|| self.endpoint.clone(), |origin| origin.host)
    }

    /// Whether a token goes with requests.
    pub(crate) fn is_logged_in(&self) -> bool {
        self.token.is_some() && self.send_token
    }

    /// The token of the settings.
    pub(crate) fn own_token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// The wait after so many failures in a row.
    pub(crate) fn retry_wait(&self, failures: u32) -> Duration {
        wait::backoff(failures, self.retry_wait)
    }

    /// Sends a request, again and again where that may help, and gives an answer of success.
    pub(crate) fn send(&self, call: &Call, progress: &Progress) -> Result<Response<Body>, HubError> {
        let token = self.token_for(call)?;
        let mut attempt = 1;
        loop {
            let (error, wish) = match self.attempt(call, token) {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, wish)) => (error, wish),
            };
            if attempt == MAX_ATTEMPTS {
                return Err(error);
            }
            let wait = wait::before_attempt(attempt, self.retry_wait, wish, self.is_logged_in())?;
            pause(wait, chain(&error), progress)?;
            attempt += 1;
        }
    }

    /// Sends a request and reads the JSON that comes back.
    pub(crate) fn json<T: DeserializeOwned>(&self, call: &Call, progress: &Progress) -> Result<T, HubError> {
        self.json_and_headers(call, progress).map(|(value, _)| value)
    }

    pub(crate) fn json_and_headers<T: DeserializeOwned>(
        &self,
        call: &Call,
        progress: &Progress,
    ) -> Result<(T, HeaderMap), HubError> {
        let strange = |reason: String| HubError::Answer { url: shown(&call.url), reason };
        let mut response = self.send(call, progress)?;
        let mut text = Vec::new();
        let reader = response.body_mut().as_reader();
        reader.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(|error| unreachable(&call.url, error))?;
        if text.len() as u64 > MAX_JSON_BYTES {
            return Err(strange(format!("more than {MAX_JSON_BYTES} bytes")));
        }
        // The parser's message may quote a value; where it failed is enough.
        let value = serde_json::from_slice(&text).map_err(|error| {
            strange(format!("not the JSON that was expected, line {} column {}", error.line(), error.column()))
        })?;
        Ok((value, std::mem::take(response.headers_mut())))
    }

    fn token_for<'c>(&'c self, call: &Call<'c>) -> Result<Option<&'c Token>, HubError> {
        match call.token {
            UseToken::None => Ok(None),
            UseToken::This(token) => Ok(Some(token)),
            UseToken::Implicit => Ok(self.token.as_ref().filter(|_| self.send_token)),
            UseToken::Required(what) => self.token.as_ref().map(Some).ok_or(HubError::NoToken { what }),
        }
    }

    /// Sends a request once, along its redirects.
    fn attempt(&self, call: &Call, token: Option<&Token>) -> Result<Response<Body>, Failure> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.check_address(&url).map_err(Failure::Final)?;
            let response = self.exchange(call, &url, token)?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(answer::failure(response, call, token, self));
            }
            let strange = |reason: &str| Failure::Final(HubError::Answer { url: shown(&url), reason: reason.into() });
            if !matches!(call.content, Content::Nothing) && !matches!(status.as_u16(), 307 | 308) {
                return Err(strange("a redirect of an upload that would drop its content"));
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| absolute(&url, location));
            url = next.ok_or_else(|| strange("a redirect to nowhere"))?;
        }
        Err(Failure::Final(HubError::Answer { url: shown(&call.url), reason: "too many redirects".into() }))
    }

    /// One request and its answer.
    fn exchange(&self, call: &Call, url: &str, token: Option<&Token>) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(call.method.clone()).uri(url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        // Storage and mirrors get signed addresses, never the token.
        if let Some(token) = token.filter(|_| Origin::of(url) == Origin::of(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        let sent = match call.content {
            Content::Nothing => self.run(request, ()),
            Content::Bytes(bytes) => self.run(request, bytes),
            Content::Part { path, start, len } => {
                let unread = |source| Failure::Final(HubError::Read { path: path.to_owned(), source });
                let mut file = File::open(path).map_err(unread)?;
                file.seek(SeekFrom::Start(start)).map_err(unread)?;
                let mut part = file.take(len);
                let request = request.header(header::CONTENT_LENGTH, len);
                self.run(request, SendBody::from_reader(&mut part))
            }
        };
        sent.map_err(|error| transport_failure(url, error))
    }

    fn run(
        &self,
        request: ureq::http::request::Builder,
        content: impl AsSendBody,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = request.body(content)?;
        let sends = *request.method() != Method::GET;
        let request = self.agent.configure_request(request);
        // The wait is for the first byte; a slow body comes in pieces.
        let request = if sends { request.timeout_per_read(Some(ANSWER_TIME)) } else { request };
        self.agent.run(request.build())
    }

    /// Plain HTTP is for a Hub on the loopback interface alone, and then for nothing beyond it.
    fn check_address(&self, url: &str) -> Result<(), HubError> {
        let endpoint_is_local = Origin::of(&self.endpoint).is_some_and(|origin| origin.is_loopback());
        let is_safe = Origin::of(url).is_some_and(|origin| origin.https || (endpoint_is_local && origin.is_loopback()));
        if is_safe { Ok(()) } else { Err(HubError::Insecure { url: shown(url) }) }
    }
}

/// Scheme, host and port.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` where the text is no http or https address.
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        // A user in an address is a trick more often than a user.
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host: authority.host().to_ascii_lowercase(), port })
    }

    fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn is_safe(&self) -> bool {
        self.https || self.is_loopback()
    }
}

/// Where a redirect leads.
fn absolute(from: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return Some(location.to_owned());
    }
    let uri: Uri = from.parse().ok()?;
    let path = location.strip_prefix('/').filter(|path| !path.starts_with('/'))?;
    Some(format!("{}://{}/{path}", uri.scheme_str()?, uri.authority()?))
}

/// An address without its query, which may be a signature.
pub(crate) fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &HubError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

pub(crate) fn unreachable(url: &str, source: io::Error) -> HubError {
    let host = Origin::of(url).map_or_else(|| shown(url), |origin| origin.host);
    HubError::Unreachable { host, source }
}

/// What ureq says, as ours. Its texts may hold whole addresses, so only those that can't are kept.
fn transport_failure(url: &str, error: ureq::Error) -> Failure {
    let other = |text: &str| io::Error::other(text.to_owned());
    let source = match error {
        ureq::Error::Io(error) => error,
        ureq::Error::Timeout(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        ureq::Error::HostNotFound => io::Error::new(io::ErrorKind::NotFound, "the host is unknown"),
        ureq::Error::ConnectionFailed => other("the connection failed"),
        ureq::Error::Protocol(_) => other("the answer is not HTTP"),
        ureq::Error::Tls(reason) => other(reason),
        ureq::Error::Rustls(error) => other(&format!("no safe connection: {error}")),
        ureq::Error::InvalidProxyUrl => {
            return Failure::Final(unreachable(url, other("the proxy's address is malformed")));
        }
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
            return Failure::Final(HubError::Answer { url: shown(url), reason: "the address is malformed".into() });
        }
        _ => other("the connection failed"),
    };
    Failure::Passing(unreachable(url, source), None)
}

fn read_certificates(path: &Path) -> Result<RootCerts, HubError> {
    let unread = |source| HubError::Read { path: PathBuf::from(path), source };
    let pem = std::fs::read(path).map_err(unread)?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unread(io::Error::new(io::ErrorKind::InvalidData, "it holds no certificate in PEM form")));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Tells the caller, and ends the work where it says so.
pub(crate) fn tell(event: &Event, progress: &Progress) -> Result<(), HubError> {
    match progress(event) {
        Flow::Continue => Ok(()),
        Flow::Stop => Err(HubError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<Client, HubError> {
        let settings = HubSettings::in_folder(Path::new("/nowhere"));
        Client::new(&HubSettings { endpoint: endpoint.to_owned(), ..settings })
    }

    #[test]
    fn plain_http_is_for_the_loopback_interface() {
        for endpoint in ["https://huggingface.co", "http://localhost:8080", "http://127.0.0.1", "http://[::1]:1"] {
            assert!(client(endpoint).is_ok(), "{endpoint}");
        }
        for endpoint in [
            "http://huggingface.co",
            "ftp://localhost",
            "localhost",
            "http://localhost.evil.com",
            "http://127.0.0.1@x.y",
        ] {
            assert!(matches!(client(endpoint), Err(HubError::Insecure { .. })), "{endpoint}");
        }
    }

    #[test]
    fn a_public_hub_cannot_send_us_to_the_loopback_interface() {
        let hub = client("https://huggingface.co").unwrap();
        assert!(hub.check_address("https://cdn.example/x?sig=1").is_ok());
        assert!(hub.check_address("http://127.0.0.1/x").is_err());
        assert!(hub.check_address("http://cdn.example/x").is_err());
        assert!(hub.check_address("file:///etc/passwd").is_err());
    }

    #[test]
    fn redirects_are_absolute_or_from_the_root() {
        let from = "https://hub.example/a/resolve/main/b";
        assert_eq!(absolute(from, "/api/x?y=1").as_deref(), Some("https://hub.example/api/x?y=1"));
        assert_eq!(absolute(from, "https://cdn.example/z").as_deref(), Some("https://cdn.example/z"));
        assert_eq!(absolute(from, "//evil.example/z"), None);
        assert_eq!(absolute(from, "javascript:x"), None);
    }

    #[test]
    fn queries_are_not_shown() {
        assert_eq!(shown("https://cdn.example/blob?X-Amz-Signature=abc"), "https://cdn.example/blob");
    }
}
