//! `cargo xtask bench`: Reheat against what people use today, or against itself, both in one run on one machine.

mod machine; // what the numbers were measured on
mod measured; // a child process with its peak memory
mod report; // numbers -> Markdown and JSON
mod data; // preparing rows against TRL with `datasets`
mod sft; // supervised fine-tuning against TRL
mod grpo; // group relative policy optimisation against TRL
mod generate; // decoding against transformers
mod compare; // two builds of Reheat

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use crate::random_model::{self, RandomModelArgs, Shape};
use crate::workspace;

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
    /// Group relative policy optimisation: `reheat grpo` against TRL's GRPOTrainer, on the same checkpoint and prompts
    Grpo(grpo::GrpoArgs),
    /// Greedy decoding: `reheat generate` against transformers, on the same checkpoint and prompts
    Generate(generate::GenerateArgs),
    /// A build of Reheat against another, in paired runs that tell a regression from noise
    Compare(compare::CompareArgs),
}

/// Runs a benchmark.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Data(args) => data::run(args),
        What::Sft(args) => sft::run(args),
        What::Grpo(args) => grpo::run(args),
        What::Generate(args) => generate::run(args),
        What::Compare(args) => compare::run(args),
    }
}

/// The checkpoint of a shape in `dir`, made once.
fn checkpoint(like: &Shape, tokenizer: Option<PathBuf>, dir: &Path) -> anyhow::Result<PathBuf> {
    let out = dir.join(like.name());
    if !out.join("complete").exists() {
        let tokenizer = tokenizer.unwrap_or_else(|| workspace::root().join("tests/fixtures/tied-grouped"));
        random_model::run(&RandomModelArgs::like(like.clone(), tokenizer, out.clone()))?;
        fs::write(out.join("complete"), "").with_context(|| format!("cannot write into `{}`", out.display()))?;
    }
    Ok(out)
}
