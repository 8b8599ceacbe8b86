//! Which repository, at which revision.

use std::{fmt, str::FromStr};

use crate::HubError;

/// Longest name that the Hub accepts.
const MAX_NAME_BYTES: usize = 96;

/// The branch that is meant when none is named.
pub(crate) const DEFAULT_REVISION: &str = "main";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoType {
    /// A checkpoint.
    Model,
    /// Rows.
    Dataset,
}

impl RepoType {
    /// As in the API: `model`, `dataset`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    /// What stands before the name in a URL: nothing for a model.
    fn url_prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

impl fmt::Display for RepoType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RepoType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "model" => Ok(Self::Model),
            "dataset" => Ok(Self::Dataset),
            _ => Err(format!("`{text}` is no repository type, expected model or dataset")),
        }
    }
}

/// A repository at a revision: `Qwen/Qwen2.5-0.5B`, or `Qwen/Qwen2.5-0.5B@refs/pr/1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepoName {
    repo_type: RepoType,
    id: String,
    revision: Option<String>,
}

impl RepoName {
    /// Reads the name of a model, with `@revision` behind it or not.
    ///
    /// # Errors
    /// If the Hub could have no such name.
    pub fn model(text: &str) -> Result<Self, HubError> {
        Self::parse(RepoType::Model, text)
    }

    /// Reads the name of a dataset, with `@revision` behind it or not.
    ///
    /// # Errors
    /// If the Hub could have no such name.
    pub fn dataset(text: &str) -> Result<Self, HubError> {
        Self::parse(RepoType::Dataset, text)
    }

    /// Reads a name, with `@revision` behind it or not.
    ///
    /// # Errors
    /// If the Hub could have no such name.
    pub fn parse(repo_type: RepoType, text: &str) -> Result<Self, HubError> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let faulty = |reason: &'static str| HubError::Name { name: text.to_owned(), reason };
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(faulty("expected `name` or `owner/name`"));
        }
        if id.len() > MAX_NAME_BYTES {
            return Err(faulty("it is longer than 96 characters"));
        }
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
            return Err(faulty("only letters, digits, `-`, `_` and `.` are allowed"));
        }
        if parts.iter().any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.'])) {
            return Err(faulty("it begins or ends with `-` or `.`"));
        }
        // The cache's folder names are made with `--`, and `..` climbs.
        if id.contains("--") || id.contains("..") {
            return Err(faulty("`--` and `..` are not allowed"));
        }
        let name = Self { repo_type, id: id.to_owned(), revision: None };
        revision.map_or(Ok(name.clone()), |revision| name.at(revision))
    }

    /// The same repository at a branch, tag or commit.
    ///
    /// # Errors
    /// If git could have no such revision.
    pub fn at(&self, revision: &str) -> Result<Self, HubError> {
        let faulty = revision.is_empty()
            || revision.starts_with(['/', '-'])
            || revision.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock"))
            || revision.contains("..")
            || revision.chars().any(|c| c.is_control() || " ~^:?*[\\@".contains(c));
        if faulty {
            return Err(HubError::Name {
                name: format!("{}@{revision}", self.id),
                reason: "behind `@` a branch, tag or commit is expected",
            });
        }
        Ok(Self { revision: Some(revision.to_owned()), ..self.clone() })
    }

    /// `owner/name`, or `name` alone.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it holds.
    pub fn repo_type(&self) -> RepoType {
        self.repo_type
    }

    /// The revision; `main` where none was given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The revision, if it is a whole commit hash: it can't move.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|revision| is_commit(revision))
    }

    /// Whether an owner is named.
    pub(crate) fn has_owner(&self) -> bool {
        self.id.contains('/')
    }

    /// The same repository under an owner.
    pub(crate) fn owned_by(&self, owner: &str) -> Result<Self, HubError> {
        let owned = Self::parse(self.repo_type, &format!("{owner}/{}", self.id))?;
        Ok(Self { revision: self.revision.clone(), ..owned })
    }

    /// `datasets/owner/name` as in the address of its page.
    pub(crate) fn page(&self) -> String {
        format!("{}{}", self.repo_type.url_prefix(), self.id)
    }

    /// `models/owner/name` as in the API.
    pub(crate) fn api(&self) -> String {
        format!("{}s/{}", self.repo_type, self.id)
    }

    /// `models--owner--name`, its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("{}s--{}", self.repo_type, self.id.replace('/', "--"))
    }
}

/// `owner/name`, or `owner/name@revision`.
impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.id),
            None => f.write_str(&self.id),
        }
    }
}

/// Forty hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_owner_a_name_and_a_revision() {
        let name = RepoName::dataset("trl-lib/Capybara").unwrap();
        assert_eq!((name.id(), name.revision(), name.commit()), ("trl-lib/Capybara", "main", None));
        assert_eq!(name.folder(), "datasets--trl-lib--Capybara");
        assert_eq!((name.page(), name.api()), ("datasets/trl-lib/Capybara".into(), "datasets/trl-lib/Capybara".into()));

        let name = RepoName::model("gpt2@refs/pr/1").unwrap();
        assert_eq!((name.id(), name.revision(), name.to_string()), ("gpt2", "refs/pr/1", "gpt2@refs/pr/1".into()));
        assert_eq!((name.page(), name.api()), ("gpt2".into(), "models/gpt2".into()));

        let commit = "c1899de289a04d12100db370d81485cdf75e47ca";
        assert_eq!(RepoName::model("gpt2").unwrap().at(commit).unwrap().commit(), Some(commit));
    }

    #[test]
    fn names_that_the_hub_cannot_have_are_refused() {
        for name in
            ["", "a/b/c", "/a", "a/", "a/..", "../a", "a b", "a/b--c", "-a", "a.", "ü", "a\0", "C:\\a", &"a".repeat(97)]
        {
            assert!(matches!(RepoName::model(name), Err(HubError::Name { .. })), "{name:?}");
        }
        for revision in ["", "../x", "a//b", "/etc", "a b", "x\n", "a..b", ".git", "a/.b", "--x"] {
            assert!(RepoName::model("gpt2").unwrap().at(revision).is_err(), "{revision:?}");
        }
    }
}
