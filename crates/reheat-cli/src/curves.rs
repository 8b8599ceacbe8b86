//! The curves of a run: drawn while it trains, and afterwards from its `metrics.jsonl`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use reheat_train::{EvalRow, LogEntry, LogRow};

use crate::{
    fault::Fault,
    plot::{self, Figure, Panel, Series},
};

/// The file that every run writes.
const METRICS: &str = "metrics.jsonl";

/// What was logged by one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curves {
    /// Name in legends; empty where a picture shows one run alone.
    pub(crate) name: String,
    pub(crate) rows: Vec<LogRow>,
    pub(crate) evaluations: Vec<EvalRow>,
}

impl Curves {
    /// Reads what a run has logged so far.
    pub(crate) fn read(run: &Path) -> Result<Self, Fault> {
        let path = if run.is_dir() { run.join(METRICS) } else { run.to_owned() };
        let text = fs::read_to_string(&path).map_err(|error| {
            Fault::input(format!("cannot read `{}`", path.display()))
                .because(error)
                .hint("name the output folder of a training run")
        })?;
        let mut curves = Self { name: run.display().to_string(), ..Self::default() };
        for (index, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(LogEntry::Train(row)) => curves.rows.push(row),
                Ok(LogEntry::Evaluation(row)) => curves.evaluations.push(row),
                // A run that is writing right now, or was killed, may leave half a line at the end.
                Err(_) if index + 1 == text.lines().count() && !text.ends_with('\n') => {}
                Err(_) => {
                    return Err(Fault::input(format!("{}:{}: not a row of metrics", path.display(), index + 1)));
                }
            }
        }
        if curves.rows.is_empty() {
            return Err(Fault::input(format!("`{}` has no row of training", path.display())));
        }
        Ok(curves)
    }

    /// Every metric that was logged, the ones that all methods have first.
    pub(crate) fn metrics(runs: &[Self]) -> Vec<String> {
        let own: BTreeSet<&String> = runs.iter().flat_map(|run| &run.rows).flat_map(|row| row.metrics.keys()).collect();
        ["loss", "learning_rate", "grad_norm"].map(str::to_owned).into_iter().chain(own.into_iter().cloned()).collect()
    }

    /// A metric of training by step.
    pub(crate) fn training(&self, metric: &str) -> Series {
        let value = |row: &LogRow| match metric {
            "loss" => Some(row.loss),
            "learning_rate" => Some(row.learning_rate),
            "grad_norm" => Some(row.grad_norm),
            "tokens_per_second" => Some(row.tokens_per_second),
            other => row.metric(other),
        };
        let points = self.rows.iter().filter_map(|row| Some((row.step as f64, value(row)?)));
        Series::new(self.label("training"), points.collect())
    }

    /// The same metric of the evaluations.
    fn evaluation(&self, metric: &str) -> Series {
        let points = self.evaluations.iter().filter_map(|row| Some((row.step as f64, row.metric(metric)?)));
        Series::new(self.label("evaluation"), points.collect())
    }

    /// Whether the loss is a mean over tokens, as that of methods without rewards.
    fn has_likelihood(&self) -> bool {
        let Some(row) = self.rows.first() else { return false };
        row.metric("mean_token_accuracy").is_some() && !row.metrics.keys().any(|name| name.starts_with("reward"))
    }

    fn label(&self, kind: &str) -> String {
        if self.name.is_empty() { kind.into() } else { format!("{}, {kind}", self.name) }
    }
}

/// Draws each metric of all runs into a picture of its own, SVG and PNG, and gives the files.
pub(crate) fn draw(runs: &[Curves], metrics: &[String], dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for metric in metrics {
        let curves = runs.iter().flat_map(|run| [run.training(metric), run.evaluation(metric)]);
        let series: Vec<Series> = curves.filter(|series| !series.points.is_empty()).collect();
        if series.is_empty() {
            continue;
        }
        let label = label(metric, runs);
        let panel = Panel { title: label.clone(), x_label: "step".into(), y_label: label, series };
        // `rewards/margins` is one name.
        let file = |extension| dir.join(format!("{}.{extension}", metric.replace('/', "_")));
        for figure in [Figure::svg(&file("svg")), Figure::png(&file("png"))] {
            plot::save_panels(&figure, std::slice::from_ref(&panel))?;
            files.push(figure.path().to_owned());
        }
    }
    Ok(files)
}

/// Draws everything that one run has logged.
pub(crate) fn draw_one(curves: &Curves, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let runs = std::slice::from_ref(curves);
    draw(runs, &Curves::metrics(runs), dir)
}

/// A metric with its unit.
fn label(metric: &str, runs: &[Curves]) -> String {
    match metric {
        "loss" if runs.iter().all(Curves::has_likelihood) => "loss (nats per token)".into(),
        "learning_rate" => "learning rate".into(),
        "grad_norm" => "gradient norm before clipping".into(),
        "entropy" => "entropy (nats per token)".into(),
        "mean_token_accuracy" => "share of tokens predicted".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN: &str = r#"{"step":1,"loss":2.0,"grad_norm":1.0,"learning_rate":0.1,"entropy":3.0,"num_tokens":5,"epoch":0.5,"tokens_per_second":9.0}"#;
    const EVAL: &str =
        r#"{"step":1,"epoch":0.5,"eval_loss":1.5,"eval_entropy":2.0,"eval_runtime":1.0,"eval_samples_per_second":2.0}"#;

    #[test]
    fn a_run_is_read_and_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let half = r#"{"step":2,"lo"#;
        fs::write(folder.path().join(METRICS), format!("{TRAIN}\n{EVAL}\n{half}")).unwrap();
        let curves = Curves::read(folder.path()).unwrap();
        assert_eq!((curves.rows.len(), curves.evaluations.len()), (1, 1));
        let runs = [curves];
        let metrics = Curves::metrics(&runs);
        assert_eq!(metrics, ["loss", "learning_rate", "grad_norm", "entropy"]);
        assert_eq!(runs[0].evaluation("loss").points, [(1.0, 1.5)]);
        let files = draw(&runs, &metrics, &folder.path().join("plots")).unwrap();
        assert_eq!(files.len(), 8);
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() > 1000));
    }

    #[test]
    fn a_loss_has_a_unit_where_it_is_a_mean_over_tokens() {
        let run = |metrics: &[&str]| {
            let mut row: LogRow = serde_json::from_str(TRAIN).unwrap();
            row.metrics = metrics.iter().map(|name| ((*name).to_owned(), 0.5)).collect();
            Curves { rows: vec![row], ..Curves::default() }
        };
        let (sft, dpo) = (run(&["mean_token_accuracy"]), run(&["mean_token_accuracy", "rewards/margins"]));
        assert_eq!(label("loss", std::slice::from_ref(&sft)), "loss (nats per token)");
        assert_eq!(label("loss", &[sft, dpo]), "loss");
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        fs::write(&path, format!("{TRAIN}\nnonsense\n{EVAL}\n")).unwrap();
        let fault = Curves::read(folder.path()).unwrap_err().to_string();
        assert!(fault.ends_with("metrics.jsonl:2: not a row of metrics"), "{fault}");
    }
}
