//! Chores of the workspace, run as `cargo xtask TASK`. No user of Reheat needs them.

mod check; // everything that must hold before a change is merged
mod workspace; // where things are, and running commands there

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the Reheat workspace", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run what CI runs, cheapest first
    Check(check::CheckArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Check(args) => check::run(&args),
    }
}
