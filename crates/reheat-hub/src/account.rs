//! Whose token it is.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::replace;
use crate::http::{About, Call, Client, UseToken};
use crate::{HubError, Progress, Token};

/// Who a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Account {
    /// The account's name, which owns repositories.
    pub name: String,
    /// Organisations of which it is a member.
    pub organizations: Vec<String>,
    /// What the token may do: `read`, `write`, `fineGrained`; absent where the Hub does not say.
    pub role: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Whoami {
    name: String,
    #[serde(default)]
    orgs: Vec<Organization>,
    auth: Option<Auth>,
}

#[derive(Debug, Deserialize)]
struct Organization {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Auth {
    #[serde(rename = "accessToken")]
    access_token: Option<AccessToken>,
}

#[derive(Debug, Deserialize)]
struct AccessToken {
    role: Option<String>,
}

/// Asks the Hub whose token `token` is, or that of the settings.
pub(crate) fn whoami(client: &Client, token: Option<&Token>, progress: &Progress) -> Result<Account, HubError> {
    let token = token.map_or(UseToken::Required("whoami"), UseToken::This);
    let call = Call::get(format!("{}/api/whoami-v2", client.endpoint), About::default()).token(token);
    let whoami: Whoami = client.json(&call, progress)?;
    Ok(Account {
        name: whoami.name,
        organizations: whoami.orgs.into_iter().map(|organization| organization.name).collect(),
        role: whoami.auth.and_then(|auth| auth.access_token).and_then(|token| token.role),
    })
}

/// Removes the token's file. The Python tools also keep tokens by name, in `stored_tokens` beside it: the same token
/// goes from there too, others stay.
pub(crate) fn logout(token_path: &Path) -> Result<bool, HubError> {
    let secret = match fs::read_to_string(token_path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(HubError::Read { path: token_path.to_owned(), source }),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HubError::Write { path, source }
    };
    fs::remove_file(token_path).map_err(failed(token_path))?;
    let stored = token_path.with_file_name("stored_tokens");
    if let Ok(text) = fs::read_to_string(&stored)
        && let Some(rest) = without_token(&text, &secret)
    {
        if rest.trim().is_empty() {
            fs::remove_file(&stored).map_err(failed(&stored))?;
        } else {
            replace_private(&stored, &rest)?;
        }
    }
    Ok(true)
}

/// The sections of an INI text that do not hold `secret`; `None` where none does.
fn without_token(text: &str, secret: &str) -> Option<String> {
    let mut sections: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('[') || sections.is_empty() {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push_str(line);
        }
    }
    let holds = |section: &String| {
        section.lines().any(|line| line.split_once('=').is_some_and(|(_, value)| value.trim() == secret))
    };
    let kept: Vec<_> = sections.iter().filter(|section| !holds(section)).cloned().collect();
    (kept.len() < sections.len()).then(|| kept.concat())
}

fn replace_private(path: &Path, text: &str) -> Result<(), HubError> {
    replace(path, text.as_bytes())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|source| HubError::Write { path: path.to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_leaves_other_tokens_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let stored = folder.path().join("stored_tokens");
        assert!(!logout(&path).unwrap());
        fs::write(&path, "hf_one_one_one\n").unwrap();
        fs::write(&stored, "[one]\nhf_token = hf_one_one_one\n\n[two]\nhf_token = hf_two_two_two\n\n").unwrap();
        assert!(logout(&path).unwrap());
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(&stored).unwrap(), "[two]\nhf_token = hf_two_two_two\n\n");
        fs::write(&path, "hf_two_two_two").unwrap();
        logout(&path).unwrap();
        assert!(!stored.exists());
    }
}
