//! `reheat push`: a folder to a repository of the Hub.

use std::path::PathBuf;

use reheat_hub::{Hub, PushOptions, RepoName, RepoType};
use reheat_train::ModelCard;

use crate::fault::Fault;
use crate::hub::Transfer;
use crate::output::{self, Format};

/// Upload a folder to the Hugging Face Hub, in one commit.
///
/// A model whose folder and repository have no README.md gets one there, with what its configuration tells and the licence
/// of a base model here; the folder itself stays as it is.
/// The repository is made where there is none. What is there already is not sent again. Checkpoints of a training run
/// (`checkpoint-*`) and hidden files stay here. Prints the address of the page.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat push runs/sft my-model --private
  reheat push runs/sft my-organization/my-model --exclude \"plots/*\" --message \"three epochs\"
  reheat push rows my-rows --repo-type dataset

Without an owner the repository is your own. It needs a login: reheat login.
With --json: {\"url\", \"commit\", \"files\"}; commit is null where nothing changed.")]
pub(crate) struct PushArgs {
    /// The folder.
    dir: PathBuf,

    /// `owner/name` or `name`, with `@branch` or not.
    name: String,

    /// Make the repository private.
    #[arg(long)]
    private: bool,

    /// What the repository holds: model or dataset.
    #[arg(long, value_name = "TYPE", default_value = "model")]
    repo_type: RepoType,

    /// Upload files that fit one of these patterns; `*` stands for anything.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    include: Vec<String>,

    /// Leave out files that fit one of these patterns.
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,

    /// First line of the commit.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: PushArgs) -> anyhow::Result<()> {
    let repo = RepoName::parse(args.repo_type, &args.name)?;
    if !args.dir.is_dir() {
        return Err(Fault::input(format!("there is no folder `{}`", args.dir.display())).into());
    }
    // Who names the files wants no other.
    let has_page = args.dir.join("README.md").exists() || !args.include.is_empty();
    let page = if has_page || args.repo_type != RepoType::Model { None } else { ModelCard::of_folder(&args.dir) };
    match &page {
        Some(_) => eprintln!("note: there is no README.md, the page of the model; one is made of its configuration"),
        None if !has_page => {
            eprintln!("note: there is no README.md, which would be the page of the {}", args.repo_type)
        }
        None => {}
    }
    let options = PushOptions {
        private: args.private,
        include: args.include,
        exclude: args.exclude,
        message: args.message,
        page: page.map(|card| card.render(repo.id())),
    };
    let hub = Hub::from_env()?;
    let transfer = Transfer::new("uploading", &repo.to_string())?;
    let pushed = hub.push(&args.dir, &repo, &options, &|event| transfer.event(event))?;
    drop(transfer);
    if args.format.json {
        return output::print_json(&pushed);
    }
    match pushed.commit {
        Some(_) => eprintln!("{} files uploaded", pushed.files),
        None => eprintln!("nothing changed"),
    }
    println!("{}", pushed.url);
    Ok(())
}
