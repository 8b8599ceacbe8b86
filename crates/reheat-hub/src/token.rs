//! The access token. It is shown nowhere, not even by `Debug`.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::HubError;

/// Shortest token that could be one; also what keeps redaction from blanking ordinary words.
const MIN_TOKEN_BYTES: usize = 8;

/// An access token of the Hub.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    origin: TokenOrigin,
}

/// Where a token was found, for messages about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrigin {
    /// An environment variable.
    Variable(&'static str),
    /// The file that `reheat login` and `hf auth login` write.
    File(PathBuf),
    /// The caller.
    Given,
}

impl Token {
    /// A token that the caller has.
    ///
    /// # Errors
    /// If it holds what no token holds.
    pub fn new(text: &str) -> Result<Self, HubError> {
        Self::from_origin(text, TokenOrigin::Given)
    }

    pub(crate) fn from_origin(text: &str, origin: TokenOrigin) -> Result<Self, HubError> {
        let secret = text.trim();
        let reason = if secret.is_empty() {
            "it is empty"
        } else if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            "it holds a space or a character that is not ASCII"
        } else if secret.len() < MIN_TOKEN_BYTES {
            "it is too short"
        } else {
            return Ok(Self { secret: secret.to_owned(), origin });
        };
        Err(HubError::MalformedToken { origin, reason })
    }

    /// Reads the file that a login wrote.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, HubError> {
        match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Self::from_origin(&text, TokenOrigin::File(path.to_owned())).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HubError::Read { path: path.to_owned(), source }),
        }
    }

    /// Writes the token where only its owner can read it, whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<(), HubError> {
        let failed = |source| HubError::Write { path: path.to_owned(), source };
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(failed)?;
        // Made with mode 0600, and never seen under its name half-written.
        let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        file.write_all(self.secret.as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// For the `Authorization` header.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Where it was found.
    pub fn origin(&self) -> &TokenOrigin {
        &self.origin
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl fmt::Display for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the token in {name}"),
            Self::File(path) => write!(f, "the token in `{}`", path.display()),
            Self::Given => f.write_str("this token"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hf_abcdefghijklmnop";

    #[test]
    fn debug_does_not_show_the_secret() {
        let token = Token::new(SECRET).unwrap();
        assert!(!format!("{token:?} {token:#?}").contains("abcdef"));
    }

    #[test]
    fn refusals_do_not_show_the_secret() {
        for text in ["hf_secret secret", "hf_sécret_sécret", "hf_x", ""] {
            let error = Token::new(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hf_"), "{error}");
        }
    }

    #[test]
    fn a_saved_token_is_read_back_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("home/token");
        assert_eq!(Token::read(&path).unwrap(), None);
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::write(&path, "an older and longer token that everybody can read").unwrap();
        Token::new(&format!(" {SECRET}\n")).unwrap().save(&path).unwrap();
        let read = Token::read(&path).unwrap().unwrap();
        assert_eq!((read.secret(), read.origin()), (SECRET, &TokenOrigin::File(path.clone())));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
