//! `reheat download`: a repository of the Hub to a folder.

use std::path::PathBuf;

use reheat_hub::{Hub, RepoName, RepoType, Selection};
use serde_json::json;

use crate::hub::Transfer;
use crate::output::{self, Format};

/// Fetch a model or a dataset from the Hugging Face Hub.
///
/// Files go into the cache that the Python tools share, and every one is checked against the repository's hash. A
/// download that was interrupted goes on where it stopped. Prints the folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat download Qwen/Qwen2.5-0.5B
  reheat download trl-lib/Capybara --repo-type dataset
  reheat download Qwen/Qwen2.5-0.5B --revision refs/pr/1 --include \"*.json\" --local-dir qwen

Without --include or --exclude, of a model what loading it needs is fetched, of a dataset its rows and its card.
With --json: {\"dir\", \"commit\", \"files\", \"fetched\"}.")]
pub(crate) struct DownloadArgs {
    /// `owner/name`, or `owner/name@revision`.
    name: String,

    /// Branch, tag or commit.
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,

    /// What the repository holds: model or dataset.
    #[arg(long, value_name = "TYPE", default_value = "model")]
    repo_type: RepoType,

    /// Fetch files that fit one of these patterns; `*` stands for anything.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    include: Vec<String>,

    /// Leave out files that fit one of these patterns.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,

    /// Put the files into this folder instead of the cache.
    #[arg(long, value_name = "DIR")]
    local_dir: Option<PathBuf>,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: DownloadArgs) -> anyhow::Result<()> {
    let mut repo = RepoName::parse(args.repo_type, &args.name)?;
    if let Some(revision) = &args.revision {
        repo = repo.at(revision)?;
    }
    let selection = match (args.include.is_empty() && args.exclude.is_empty(), args.repo_type) {
        (true, RepoType::Model) => Selection::Model,
        (true, RepoType::Dataset) => Selection::Dataset,
        (false, _) => Selection::Patterns { include: args.include, exclude: args.exclude },
    };
    let hub = Hub::from_env()?;
    let transfer = Transfer::new("fetching", &repo.to_string())?;
    let snapshot = match &args.local_dir {
        Some(dir) => hub.snapshot_into(dir, &repo, &selection, &|event| transfer.event(event))?,
        None => hub.snapshot(&repo, &selection, &|event| transfer.event(event))?,
    };
    drop(transfer);
    if args.format.json {
        return output::print_json(&json!({
            "dir": snapshot.dir, "commit": snapshot.commit, "files": snapshot.files, "fetched": snapshot.fetched,
        }));
    }
    eprintln!("{} files, {} of them fetched now", snapshot.files.len(), snapshot.fetched);
    println!("{}", snapshot.dir.display());
    Ok(())
}
