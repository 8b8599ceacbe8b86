//! `cargo xtask check`: what CI runs, cheapest first, each dependency built once.

use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    /// Run only these steps, in the given order
    #[arg(value_enum)]
    steps: Vec<Step>,
}

/// One thing that must hold.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Step {
    /// The formatter has nothing to change
    Fmt,
    /// Clippy finds nothing, in code, tests and examples
    Clippy,
    /// The API documentation builds without a warning
    Doc,
    /// The binary with devices that need other hardware type-checks
    Devices,
    /// The kernels for GPUs compute what their definitions do, on a graphics adapter if there is one
    Gpu,
    /// All tests pass
    Test,
}

/// Runs the steps and stops at the first that fails.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let steps = if args.steps.is_empty() { Step::value_variants() } else { &args.steps };
    for step in steps {
        let mut command = step.command();
        eprintln!("\n== {} ==", workspace::shown(&command));
        let start = Instant::now();
        workspace::run(&mut command)?;
        eprintln!("== {step:?} passed in {:.0} s ==", start.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Step {
    /// The cargo command of this step.
    ///
    /// All use the release profile but for the kernels for GPUs, whose tests spend their time in what the driver
    /// compiles.
    fn command(self) -> Command {
        let mut cargo = workspace::cargo();
        match self {
            Step::Fmt => cargo.args(["fmt", "--all", "--check"]),
            Step::Clippy => cargo.args(["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            Step::Doc => {
                cargo.env("RUSTDOCFLAGS", "-D warnings");
                cargo.args(["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])
            }
            // `DOCS_RS` keeps the LLVM bundle that code generation for CUDA links from being fetched: checking needs
            // none of it.
            Step::Devices => {
                cargo.env("DOCS_RS", "1");
                cargo.args(["check", "--release", "--package", "reheat-cli", "--features", "cuda,wgpu"])
            }
            Step::Gpu => {
                cargo.args(["test", "--profile", "unoptimised", "--package", "reheat-kernels", "--features", "wgpu"]);
                cargo.args(["--lib", "--", "parity::cube"])
            }
            Step::Test => cargo.args(["test", "--release", "--workspace"]),
        };
        cargo
    }
}
