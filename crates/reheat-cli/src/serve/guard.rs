//! Who may ask: whoever has the key, or without one whoever is on this machine and not sent by a web page.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use super::{ApiError, Server};

/// What clients have to send. It is kept as a hash, so that a comparison tells nothing by its time, and no dump shows it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ApiKey([u8; 32]);

impl ApiKey {
    pub(super) fn new(key: String) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn fits(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = sent.and_then(|value| value.strip_prefix("Bearer "));
        key.is_some_and(|key| Self::new(key.to_owned()) == *self)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

/// Lets a request through or refuses it.
pub(super) async fn check(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    match &server.api_key {
        Some(key) if !key.fits(headers) => return Err(ApiError::unauthorized()),
        // A web page that gives its own name this machine's address would be let in by the browser, but says its name.
        None if server.is_local && !names_this_machine(headers) => return Err(ApiError::foreign_host()),
        _ => {}
    }
    // A page may send text to anywhere unasked, but not JSON.
    if request.method() == Method::POST && !is_json(headers) {
        return Err(ApiError::not_json());
    }
    Ok(next.run(request).await)
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Each connection is a file to the system, which allows 1,024 of them unless it is asked for more.
pub(super) fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit of open files stays at {:?}: {error}", limit.current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_key_fits_itself_alone() {
        let key = ApiKey::new("secret".into());
        assert!(key.fits(&headers(header::AUTHORIZATION, "Bearer secret")));
        for value in ["Bearer secre", "Bearer secret2", "secret", "Basic secret", "Bearer "] {
            assert!(!key.fits(&headers(header::AUTHORIZATION, value)), "{value}");
        }
        assert!(!key.fits(&HeaderMap::new()));
        assert_eq!(format!("{key:?}"), "ApiKey");
    }

    #[test]
    fn this_machine_has_few_names() {
        for host in ["localhost:8000", "127.0.0.1", "LOCALHOST", "[::1]:80", "127.0.0.2:1"] {
            assert!(names_this_machine(&headers(header::HOST, host)), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1:8000", "[fe80::1]"] {
            assert!(!names_this_machine(&headers(header::HOST, host)), "{host}");
        }
    }
}
