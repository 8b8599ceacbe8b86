//! An HTTP status to an error: what the Hub means by it is in `X-Error-Code` and `X-Error-Message`.

use std::io::Read as _;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::{Call, Client, Failure, shown, wait};
use crate::{HubError, Token};

/// Longest text of a server in a message.
const MAX_MESSAGE_CHARS: usize = 300;
const MAX_BODY_BYTES: u64 = 64 << 10;

pub(super) fn failure(mut response: Response<Body>, call: &Call, token: Option<&Token>, client: &Client) -> Failure {
    let status = response.status();
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (code, header_message) = (text("x-error-code"), text("x-error-message"));
    let wish = wait::wish(response.headers());
    let message = header_message
        .or_else(|| body_message(&mut response))
        .unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    let message = clean(&message, token);
    let logged_in = token.is_some();

    let (repo, path) = (call.about.repo, call.about.path);
    let error = match (status.as_u16(), code.as_deref(), repo) {
        (_, Some("RevisionNotFound"), Some(repo)) => HubError::RevisionNotFound { repo: repo.clone() },
        (_, Some("EntryNotFound"), Some(repo)) => {
            HubError::FileNotFound { repo: repo.clone(), path: path.unwrap_or_default().to_owned() }
        }
        (_, Some("GatedRepo"), Some(repo)) => {
            HubError::Gated { repo: repo.clone(), page: format!("{}/{}", client.endpoint, repo.page()), logged_in }
        }
        (401, _, _) if message.contains("Invalid credentials") && token.is_some() => invalid_token(token),
        (401, _, None) if token.is_some() => invalid_token(token),
        // Without a login the Hub answers 401 where a repository is private or not there at all.
        (401, _, Some(repo)) | (404, _, Some(repo)) | (_, Some("RepoNotFound"), Some(repo)) => {
            HubError::RepositoryNotFound { repo: repo.clone(), host: client.host(), logged_in }
        }
        (403, _, repo) => {
            let what = repo.map_or_else(|| shown(&call.url), |repo| format!("{} `{}`", repo.repo_type(), repo.id()));
            HubError::Forbidden { what, message }
        }
        (429, ..) => {
            let error = HubError::RateLimited { wait: wish.unwrap_or(Duration::ZERO), logged_in };
            return Failure::Passing(error, wish);
        }
        (status, ..) => {
            let error = HubError::Status { url: shown(&call.url), status, message };
            return match status {
                408 | 500 | 502 | 503 | 504 => Failure::Passing(error, wish),
                _ => Failure::Final(error),
            };
        }
    };
    Failure::Final(error)
}

fn invalid_token(token: Option<&Token>) -> HubError {
    let origin = token.map_or(crate::TokenOrigin::Given, |token| token.origin().clone());
    HubError::InvalidToken { origin }
}

/// `{"error": "…"}`
fn body_message(response: &mut Response<Body>) -> Option<String> {
    let mut text = Vec::new();
    response.body_mut().as_reader().take(MAX_BODY_BYTES).read_to_end(&mut text).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(value.get("error")?.as_str()?.to_owned())
}

/// A server's text on one line, cut, and without the token should it be sent back.
pub(crate) fn clean(text: &str, token: Option<&Token>) -> String {
    let text = token.map_or_else(|| text.to_owned(), |token| text.replace(token.secret(), "[token]"));
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable.trim().chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_made_harmless() {
        let token = Token::new("hf_abcdefgh").unwrap();
        assert_eq!(clean("bad\u{1b}[31m hf_abcdefgh\n", Some(&token)), "bad [31m [token]");
        assert_eq!(clean(&"x".repeat(1000), None).len(), 300);
    }
}
