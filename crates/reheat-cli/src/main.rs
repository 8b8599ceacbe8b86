//! The `reheat` command line: flags and files become a printed plan, and the plan becomes a run.
//!
//! stdout carries data, stderr carries talk. From a typed command to the loop that trains it is two files: `training.rs`,
//! which asks the command's own in `commands/` for what it has of its own, and the loop in `reheat-train`.

mod cli; // the flags of everything
mod commands; // one file per command
mod settings; // flags over YAML over defaults, with the origin of every value
mod fault; // exit codes and what a person reads when something fails
mod device;
mod kernels;
mod demo; // the bundled model and dataset
mod hub; // names of repositories to folders
mod interrupt; // Ctrl-C
mod talk; // stderr
mod output; // stdout
mod painted; // text with what is trained in colour
mod plot; // curves and bars, in the terminal and as files
mod progress;
mod dashboard; // live curves on the whole terminal
mod training; // from a typed training command to the loop
mod curves; // the curves of a run
mod samples; // answers while a model trains
mod serve; // OpenAI's HTTP interface
mod text; // drawn tokens as text
mod report; // what became of a dataset's rows

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use reheat_kernels::LargeBuffers;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: LargeBuffers<MiMalloc> = LargeBuffers::new(MiMalloc);

fn main() -> ExitCode {
    reheat_kernels::keep_pages();
    fault::install_panic_hook();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return fault::usage(&error),
    };
    start_logging(cli.verbose);
    match fault::catch_panics(|| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fault::report(&error),
    }
}

/// Log lines go to stderr: warnings always, more with each `-v`; `RUST_LOG` overrides.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info,reheat=debug",
        2 => "debug",
        _ => "trace",
    };
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // The HTTP client logs whole addresses, and those of storage are signed: who has one, has the file.
    // The dashboard says itself what it warns of.
    for quiet in ["ureq=warn", "ureq_proto=warn", "burn_train=error"] {
        filter = filter.add_directive(quiet.parse().expect("it is a target and a level"));
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| talk::Talk)
        .with_ansi(console::colors_enabled_stderr())
        .without_time()
        .with_target(false)
        .init();
}
