//! `reheat plot`: the curves of training runs.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    curves::{self, Curves},
    fault::Fault,
    output::{self, Format},
    plot,
};

/// Draw the curves of training runs, one picture for each metric.
///
/// Reads the `metrics.jsonl` of each run, also of one that is training right now. Several runs share the pictures.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat plot runs/sft
  reheat plot runs/a runs/b --out plots/a-b
  reheat plot runs/sft --metric loss mean_token_accuracy --json")]
pub(crate) struct PlotArgs {
    /// Output folders of runs, or their metrics.jsonl.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Folder for the pictures; `plots` in the first run's folder when absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Metrics to draw; all when absent.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    metric: Vec<String>,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &PlotArgs) -> anyhow::Result<()> {
    let mut runs = args.runs.iter().map(|run| Curves::read(run)).collect::<Result<Vec<_>, _>>()?;
    if let [only] = runs.as_mut_slice() {
        only.name.clear();
    }
    let known = Curves::metrics(&runs);
    let metrics = if args.metric.is_empty() { known.clone() } else { args.metric.clone() };
    let extra = "tokens_per_second".to_owned();
    if let Some(unknown) = metrics.iter().find(|metric| !known.contains(metric) && **metric != extra) {
        return Err(Fault::input(format!("no run has logged `{unknown}`, only {}", known.join(", "))).into());
    }
    let first = &args.runs[0];
    let beside = if first.is_dir() { first.clone() } else { first.parent().map(PathBuf::from).unwrap_or_default() };
    let files = curves::draw(&runs, &metrics, &args.out.clone().unwrap_or_else(|| beside.join("plots")))?;

    let loss: Vec<_> = runs.iter().map(|run| run.training(&metrics[0])).collect();
    if let [only] = loss.as_slice() {
        eprintln!("{} by step", metrics[0]);
        eprintln!("{}", plot::curve(only, "step", output::stderr_width()));
    }
    if args.format.json {
        return output::print_json(&json!({ "metrics": metrics, "files": files }));
    }
    for file in files {
        println!("{}", file.display());
    }
    Ok(())
}
