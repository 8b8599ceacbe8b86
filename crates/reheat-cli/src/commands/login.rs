//! `reheat login`, `logout` and `whoami`: who asks the Hub.

use std::io::{self, IsTerminal as _, Read as _};

use reheat_hub::{Account, Event, Flow, Hub, Token};

use crate::fault::Fault;
use crate::output::{self, Format};

/// Keep an access token of the Hugging Face Hub for this and the Python tools.
///
/// The token is asked for without showing it, or read from stdin; the Hub is asked whether it is one; then it is kept
/// where `hf auth login` keeps it, readable by you alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat login
  reheat login < token.txt

Tokens are made at https://huggingface.co/settings/tokens. `push` needs one that may write.")]
pub(crate) struct LoginArgs {
    #[command(flatten)]
    format: Format,
}

/// Forget the kept access token.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat logout")]
pub(crate) struct LogoutArgs {}

/// Say whose access token is used.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat whoami
  reheat whoami --json

With --json: {\"name\", \"organizations\", \"role\"}.")]
pub(crate) struct WhoamiArgs {
    #[command(flatten)]
    format: Format,
}

/// Longest text that is read as a token.
const MAX_TOKEN_BYTES: u64 = 4096;

fn quiet(_: &Event) -> Flow {
    Flow::Continue
}

pub(super) fn login(args: &LoginArgs) -> anyhow::Result<()> {
    let hub = Hub::from_env()?;
    let token = Token::new(&ask()?)?;
    let account = hub.login(&token, &quiet)?;
    show(&account, args.format)?;
    eprintln!("the token is kept in {}", hub.settings().token_path.display());
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
            eprintln!("note: {name} is set, and comes before it");
        }
    }
    Ok(())
}

/// The token from the terminal, where it does not show, or from stdin.
fn ask() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        eprint!("token (not shown): ");
        return Ok(console::Term::stderr().read_secure_line()?);
    }
    let mut text = String::new();
    io::stdin()
        .take(MAX_TOKEN_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Fault::input("cannot read stdin as text").because(error))?;
    Ok(text)
}

pub(super) fn logout(_: &LogoutArgs) -> anyhow::Result<()> {
    let hub = Hub::from_env()?;
    let path = hub.settings().token_path.display();
    if hub.logout()? {
        eprintln!("the token in {path} is gone")
    } else {
        eprintln!("there is no token in {path}")
    }
    Ok(())
}

pub(super) fn whoami(args: &WhoamiArgs) -> anyhow::Result<()> {
    show(&Hub::from_env()?.whoami(&quiet)?, args.format)
}

fn show(account: &Account, format: Format) -> anyhow::Result<()> {
    if format.json {
        return output::print_json(account);
    }
    println!("{}", account.name);
    if !account.organizations.is_empty() {
        println!("organizations: {}", account.organizations.join(", "));
    }
    if let Some(role) = &account.role {
        println!("role: {role}");
    }
    Ok(())
}
