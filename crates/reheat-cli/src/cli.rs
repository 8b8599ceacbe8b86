//! The flags of everything. Each command's own are declared beside what it does, in `commands/`.

use clap::{
    Parser,
    builder::{Styles, styling::AnsiColor},
};

use crate::commands::Command;

/// What `--help` looks like: headings stand out, the rest is calm.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default().dimmed());

/// Post-training for language models: from a base checkpoint and a dataset of conversations to a model that answers.
#[derive(Debug, Parser)]
#[command(
    name = "reheat",
    version,
    styles = STYLES,
    max_term_width = 120,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Start here:
  reheat quickstart                  train the bundled tiny model and see the difference, about two minutes, offline
  reheat <COMMAND> --help            what a command does, with examples

stdout carries results, stderr the rest. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more on stderr; -vv and -vvv for debugging.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let children: Vec<_> = command.get_subcommands().collect();
            let leaves = if children.is_empty() { vec![command] } else { children };
            for leaf in leaves {
                let help = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "`{}` has no examples", leaf.get_name());
            }
        }
    }
}
