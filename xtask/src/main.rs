//! Chores of the workspace, run as `cargo xtask TASK`. No user of Reheat needs them.

mod check; // everything that must hold before a change is merged
mod demo; // the bundled model and dataset
mod bench; // Reheat against what people use today
mod make_parquet; // a file larger than memory should be
mod golden; // values from the reference implementations
mod python; // the environment that these run in
mod random_model; // checkpoints of any shape
#[cfg(unix)]
mod stage_llvm; // what linking for CUDA needs, where its usual source can't be reached
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
    /// Measure speed and memory against the reference implementations
    Bench(bench::BenchArgs),
    /// Make the golden values again with the reference implementations
    Golden(golden::GoldenArgs),
    /// Make the bundled base model and its conversations again
    DemoModel(demo::DemoArgs),
    /// Write a large Parquet file in the shape of a reasoning dataset
    MakeParquet(make_parquet::MakeParquetArgs),
    /// Write a checkpoint of any shape with random weights
    RandomModel(random_model::RandomModelArgs),
    /// Unpack what the `cuda` feature links, from Debian's packages
    #[cfg(unix)]
    StageLlvm(stage_llvm::StageLlvmArgs),
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false).init();
    match Cli::parse().task {
        Task::Check(args) => check::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Golden(args) => golden::run(&args),
        Task::DemoModel(args) => demo::run(&args),
        Task::MakeParquet(args) => make_parquet::run(&args),
        Task::RandomModel(args) => random_model::run(&args),
        #[cfg(unix)]
        Task::StageLlvm(args) => stage_llvm::run(&args),
    }
}
