//! `cargo xtask golden`: makes the golden values again.

use crate::{python, workspace};

#[derive(clap::Args)]
pub(crate) struct GoldenArgs {
    /// Only set up the Python environment
    #[arg(long)]
    setup_only: bool,
    /// Run only these scripts, by name without `.py`
    #[arg(value_parser = SCRIPTS)]
    scripts: Vec<String>,
}

/// In this order: the values are computed on the models.
const SCRIPTS: [&str; 16] = [
    "models",
    "forward",
    "greedy",
    "sampling",
    "sft",
    "dpo",
    "grpo",
    "kto",
    "reward",
    "rewards",
    "tools",
    "rows",
    "adapters",
    "schedules",
    "optimizers",
    "parquet",
];

/// Runs the scripts and says which files changed.
pub(crate) fn run(args: &GoldenArgs) -> anyhow::Result<()> {
    python::python()?;
    if args.setup_only {
        return Ok(());
    }
    for script in SCRIPTS {
        if args.scripts.is_empty() || args.scripts.iter().any(|wanted| wanted == script) {
            workspace::run(&mut python::script(&format!("tests/golden/{script}.py"))?)?;
        }
    }
    let mut status = std::process::Command::new("git");
    status.current_dir(workspace::root()).args([
        "status",
        "--short",
        "tests/golden",
        "tests/fixtures",
        "crates/reheat-data/tests/fixtures",
    ]);
    workspace::run(&mut status)
}
