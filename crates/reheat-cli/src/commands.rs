//! One file per command: its flags, its help, what it does.

use clap::Subcommand;

/// What `reheat` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Nothing.
    #[command(after_help = "Examples:\n")]
    Nothing,
}

/// Runs the command.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Nothing => Ok(()),
    }
}
