//! `reheat data lengths`: how long the sequences are, and what a limit would cut.

use std::{io::Write as _, path::Path};

use console::style;
use reheat_data::{LengthReport, OnBadRow, PrepareOptions, lengths};
use serde_json::{Value, json};

use super::{FormatArgs, RowsArgs, TextArgs};
use crate::{
    output::{self, Format},
    plot::{self, Figure, Histogram},
    progress::{self, thousands},
    report::{counted, number},
};

/// Show how long the sequences of a dataset are in tokens, and what --max-length would cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat data lengths train.jsonl --model ./Qwen2.5-0.5B-Instruct
  reheat data lengths train.jsonl --model ./Qwen2.5-0.5B --max-length 650 --plot lengths.svg
  reheat data lengths pairs.jsonl --model ./Qwen2.5-0.5B --plot lengths.png --json

With --json: {\"rows\", \"tokens\": {\"count\", \"total\", \"min\", \"mean\", \"median\", \"p90\", \"p95\", \"p99\", \"max\"}, \"max_length\", \"over\", \"over_share\", \"tokens_cut\", \"tokens_cut_share\", \"bins\": [{\"from\", \"to\", \"count\"}], …}.")]
pub(crate) struct LengthsArgs {
    #[command(flatten)]
    rows: RowsArgs,

    #[command(flatten)]
    columns: FormatArgs,

    #[command(flatten)]
    text: TextArgs,

    /// The limit to judge.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_length: usize,

    /// Bins of the histogram.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    bins: u16,

    /// Save the histogram as an SVG or PNG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<Figure>,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: LengthsArgs) -> anyhow::Result<()> {
    let dataset = args.rows.open()?;
    let conversion = args.columns.options(OnBadRow::Skip)?;
    let options = PrepareOptions {
        format: conversion.format,
        dataset_text_field: conversion.dataset_text_field,
        on_bad_row: OnBadRow::Skip,
        max_length: Some(args.max_length),
        ..PrepareOptions::default()
    };
    let (tokenizer, template) = args.text.open()?;
    let bar = progress::rows_bar("tokenising");
    let report = lengths(&dataset, &tokenizer, template.as_ref(), &options, &mut |rows| bar.set_position(rows));
    bar.finish_and_clear();
    let report = report?;
    let histogram = Histogram::of(&report.lengths, args.bins.into(), args.max_length as u64);
    if let Some(figure) = &args.plot {
        let name = dataset.name().replace('`', "");
        let name = Path::new(&name).file_name().map_or(name.as_str().into(), |name| name.to_string_lossy());
        let title = format!("Sequence lengths of {name}");
        let share = 100.0 * report.over_share;
        let tokens = match report.over {
            0 => "tokens".to_owned(),
            _ => format!("tokens (the line, --max-length {}, cuts {share:.1}% of sequences)", args.max_length),
        };
        plot::save_histogram(figure, &histogram, &title, &tokens, "sequences")?;
        eprintln!("saved {}", figure.path().display());
    }
    if args.format.json {
        return output::print_json(&to_json(&report, &histogram)?);
    }
    print(&report, &histogram)
}

fn to_json(report: &LengthReport, histogram: &Histogram) -> anyhow::Result<Value> {
    let mut json = serde_json::to_value(report)?;
    let bins = histogram.bins.iter().map(|bin| json!({ "from": bin.from, "to": bin.to, "count": bin.count }));
    json["bins"] = bins.collect();
    Ok(json)
}

fn print(report: &LengthReport, histogram: &Histogram) -> anyhow::Result<()> {
    let mut out = output::stdout();
    if let Some(tokens) = &report.tokens {
        writeln!(
            out,
            "{}, {}",
            style(counted(tokens.count, "sequence")).bold(),
            style(counted(tokens.total, "token")).bold()
        )?;
        writeln!(
            out,
            "min {}  median {}  mean {}  p90 {}  p95 {}  p99 {}  max {}",
            number(tokens.min.into()),
            number(tokens.median.into()),
            thousands(tokens.mean),
            number(tokens.p90.into()),
            number(tokens.p95.into()),
            number(tokens.p99.into()),
            number(tokens.max.into())
        )?;
    }
    writeln!(out, "\n{}", plot::histogram(histogram, output::stderr_width()))?;
    let limit = number(histogram.limit);
    if report.over == 0 {
        writeln!(out, "--max-length {limit} cuts nothing")?;
    } else {
        writeln!(
            out,
            "--max-length {limit} cuts {} ({:.1}%) and {} ({:.1}%)",
            counted(report.over, "sequence"),
            100.0 * report.over_share,
            counted(report.tokens_cut, "token"),
            100.0 * report.tokens_cut_share
        )?;
    }
    out.flush()?;
    if let Some(first) = &report.first_bad_row {
        eprintln!("{} can't be used; the first: {first}", counted(report.bad_rows, "row"));
    }
    Ok(())
}
