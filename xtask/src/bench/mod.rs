//! `cargo xtask bench`: Reheat against what people use today, both in one run on one machine.

mod machine; // what the numbers were measured on
mod measured; // a child process with its peak memory
mod report; // numbers -> Markdown and JSON
mod data; // preparing rows against TRL with `datasets`
mod sft; // supervised fine-tuning against TRL

use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rows to labelled tokens: `reheat sft --dry-run` against TRL's SFTTrainer with `datasets`
    Data(data::DataArgs),
    /// Supervised fine-tuning: `reheat sft` against TRL's SFTTrainer, on the same checkpoint and rows
    Sft(sft::SftArgs),
}

/// Runs a benchmark.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Data(args) => data::run(args),
        What::Sft(args) => sft::run(args),
    }
}
