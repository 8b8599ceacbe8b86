//! The environment variables of `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{HubError, Token, TokenOrigin};

const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// Where the Hub is, where its files are kept, and who asks.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The Hub's address. `HF_ENDPOINT`, default `https://huggingface.co`.
    pub endpoint: String,
    /// The cache. `HF_HUB_CACHE`, default `$HF_HOME/hub`.
    pub cache: PathBuf,
    /// The file of a login. `HF_TOKEN_PATH`, default `$HF_HOME/token`.
    pub token_path: PathBuf,
    /// The token to use; `HF_TOKEN`, else what the file holds.
    pub token: Option<Token>,
    /// Whether the token goes with requests that may do without. `HF_HUB_DISABLE_IMPLICIT_TOKEN` says no.
    pub send_token: bool,
    /// Use the cache alone. `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`.
    pub offline: bool,
    /// Longest silence of a connection. `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, default 10.
    pub timeout: Duration,
    /// Wait before the first repetition; each further one doubles it. Default 1 s.
    pub retry_wait: Duration,
    /// PEM file of the certificate authorities to trust instead of the built-in ones. `SSL_CERT_FILE`, or
    /// `REQUESTS_CA_BUNDLE`.
    pub certificates: Option<PathBuf>,
}

impl HubSettings {
    /// What the environment says.
    ///
    /// # Errors
    /// If a variable makes no sense, or the token's file can't be read.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The public Hub without a token, with everything that is kept under `home`.
    pub fn in_folder(home: &Path) -> Self {
        Self {
            endpoint: PUBLIC_ENDPOINT.to_owned(),
            cache: home.join("hub"),
            token_path: home.join("token"),
            token: None,
            send_token: true,
            offline: false,
            timeout: Duration::from_secs(10),
            retry_wait: Duration::from_secs(1),
            certificates: None,
        }
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let is_true = |name| variable(name).is_some_and(|value| is_true(&value));
        let path = |name| variable(name).map(|value| expanded(&value, variable));
        let user_cache = || match variable("XDG_CACHE_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => user_home(variable).join(".cache"),
        };
        let home = path("HF_HOME").unwrap_or_else(|| user_cache().join("huggingface"));
        let mut settings = Self::in_folder(&home);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        if let Some(cache) = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")) {
            settings.cache = cache;
        }
        if let Some(token_path) = path("HF_TOKEN_PATH") {
            settings.token_path = token_path;
        }
        settings.token = token(variable, &settings.token_path)?;
        settings.send_token = !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN");
        settings.offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
        if let Some(value) = variable("HF_HUB_DOWNLOAD_TIMEOUT") {
            let seconds = value.trim().parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
            settings.timeout = seconds.map(Duration::from_secs).ok_or(HubError::Setting {
                variable: "HF_HUB_DOWNLOAD_TIMEOUT",
                value,
                expected: "a whole number of seconds",
            })?;
        }
        settings.certificates = path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE"));
        Ok(settings)
    }
}

/// `HF_TOKEN`, else its older name, else the file.
fn token(variable: &dyn Fn(&str) -> Option<String>, path: &Path) -> Result<Option<Token>, HubError> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) {
            return Token::from_origin(&text, TokenOrigin::Variable(name)).map(Some);
        }
    }
    Token::read(path)
}

/// As `huggingface_hub` reads a switch.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn user_home(variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    variable("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default()
}

/// `~` and `$NAME` or `${NAME}` in a path, as Python's `expanduser` and `expandvars`. Unknown names stay.
fn expanded(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", user_home(variable).display())
        }
        _ => text.to_owned(),
    };
    let mut path = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find('$') {
        path.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let (name, len) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let len = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..len], len)
            }
        };
        match variable(name) {
            Some(value) => path.push_str(&value),
            None => path.push_str(&rest[start..=start + len]),
        }
        rest = &after[len..];
    }
    path.push_str(rest);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        HubSettings::from_variables(&find)
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| {
            let settings = settings(variables).unwrap();
            (settings.cache.display().to_string(), settings.token_path.display().to_string())
        };
        let pair = |cache: &str, token: &str| (cache.to_owned(), token.to_owned());
        assert_eq!(cache(&[("HOME", "/u")]), pair("/u/.cache/huggingface/hub", "/u/.cache/huggingface/token"));
        assert_eq!(
            cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]),
            pair("/x/huggingface/hub", "/x/huggingface/token")
        );
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), pair("/u/hf/hub", "/u/hf/token"));
        assert_eq!(
            cache(&[
                ("HF_HOME", "/h"),
                ("HF_HUB_CACHE", "${D}/$E-$F/c"),
                ("D", "/d"),
                ("E", "e"),
                ("HF_TOKEN_PATH", "/t")
            ]),
            pair("/d/e-$F/c", "/t")
        );
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]), pair("/old", "/h/token"));
    }

    #[test]
    fn switches_are_read_as_python_reads_them() {
        let home = ("HF_HOME", "/nowhere");
        assert!(settings(&[home, ("HF_HUB_OFFLINE", "1")]).unwrap().offline);
        assert!(settings(&[home, ("TRANSFORMERS_OFFLINE", "yes")]).unwrap().offline);
        assert!(!settings(&[home, ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert!(!settings(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "True")]).unwrap().send_token);
        assert_eq!(settings(&[home, ("HF_ENDPOINT", "http://localhost:1/")]).unwrap().endpoint, "http://localhost:1");
        let error = settings(&[home, ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).unwrap_err();
        assert_eq!(error.to_string(), "HF_HUB_DOWNLOAD_TIMEOUT is `soon`, expected a whole number of seconds");
    }

    #[test]
    fn a_token_of_the_environment_comes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_of_the_file\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let secret = |variables: &[(&str, &str)]| settings(variables).unwrap().token.unwrap().secret().to_owned();
        assert_eq!(secret(&[home]), "hf_of_the_file");
        assert_eq!(secret(&[home, ("HF_TOKEN", " hf_of_the_environment ")]), "hf_of_the_environment");
        assert_eq!(secret(&[home, ("HUGGING_FACE_HUB_TOKEN", "hf_of_old_times")]), "hf_of_old_times");
        assert_eq!(secret(&[home, ("HF_TOKEN", " ")]), "hf_of_the_file");
    }
}
