//! `reheat data inspect`: schema, format, roles, examples, and what is odd.

use std::io::Write;

use console::style;
use reheat_data::{Finding, Inspection, OnBadRow, Spread, inspect};

use super::{FormatArgs, RowsArgs, TextArgs};
use crate::{
    output::{self, Format},
    painted::harmless,
    progress::{self, thousands},
    report::{counted, number},
};

/// Show what a dataset holds: columns, format, roles, examples, lengths, and what is odd about it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat data inspect train.jsonl
  reheat data inspect my-data:test --model ./Qwen2.5-0.5B-Instruct
  reheat data inspect data/*.parquet --json | jq .roles

Tokens are counted where --model names a tokenizer. With --json: {\"rows\", \"files\", \"columns\", \"kinds\", \"roles\", \"turns\", \"characters\", \"tokens\", \"bad_rows\", \"duplicates\", \"empty_turns\", \"roles_out_of_order\", \"without_answer\", \"examples\", …}.")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    rows: RowsArgs,

    #[command(flatten)]
    columns: FormatArgs,

    #[command(flatten)]
    text: TextArgs,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: InspectArgs) -> anyhow::Result<()> {
    let dataset = args.rows.open()?;
    let options = args.columns.options(OnBadRow::Skip)?;
    let text = if args.text.is_given() { Some(args.text.open()?) } else { None };
    let text = text.as_ref().map(|(tokenizer, template)| (tokenizer, template.as_ref()));
    let bar = progress::rows_bar("reading");
    let inspection = inspect(&dataset, text, &options, &mut |rows| bar.set_position(rows));
    bar.finish_and_clear();
    let inspection = inspection?;
    if args.format.json {
        return output::print_json(&inspection);
    }
    Ok(print(&inspection, &mut output::stdout())?)
}

fn print(found: &Inspection, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}", style(counted(found.rows, "row")).bold())?;
    for file in &found.files {
        writeln!(out, "  {}: {}, since {}", file.file, style(file.format).cyan(), file.reason)?;
    }
    if let Some(problem) = &found.problem {
        writeln!(out, "  {} {problem}", style("format unknown:").red())?;
    }
    if found.filtered > 0 {
        writeln!(out, "  {} left out by the filter", number(found.filtered))?;
    }
    if found.not_sampled > 0 {
        writeln!(out, "  {} not drawn", number(found.not_sampled))?;
    }

    heading(out, "Columns")?;
    let width = found.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0).min(32);
    for column in &found.columns {
        let shapes: Vec<String> = column
            .shapes
            .iter()
            .map(
                |(shape, count)| {
                    if *count == found.rows { shape.clone() } else { format!("{shape} ×{}", number(*count)) }
                },
            )
            .collect();
        let missing =
            if column.missing > 0 { format!(", missing ×{}", number(column.missing)) } else { String::new() };
        writeln!(out, "  {:width$}  {}{missing}", harmless(&column.name), harmless(&shapes.join(", ")))?;
    }
    counts(out, "Examples", found.kinds.iter().map(|(kind, count)| (*kind, *count)))?;
    counts(out, "Roles", found.roles.iter().map(|(role, count)| (role.as_str(), *count)))?;

    let spreads = [("messages", &found.turns), ("characters", &found.characters), ("tokens", &found.tokens)];
    if spreads.iter().any(|(_, spread)| spread.is_some()) {
        heading(out, "Sizes")?;
        let head = ["min", "median", "mean", "p95", "p99", "max", "total"];
        write!(out, "  {:10}", "")?;
        head.iter().try_for_each(|name| write!(out, "  {:>11}", style(name).dim()))?;
        writeln!(out)?;
        for (name, spread) in spreads {
            if let Some(spread) = spread {
                writeln!(out, "  {name:10}{}", columns_of(spread))?;
            }
        }
    }
    print_findings(found, out)?;
    if !found.examples.is_empty() {
        heading(out, "The first rows")?;
        for row in &found.examples {
            let text = serde_json::to_string_pretty(row).unwrap_or_default();
            text.lines().try_for_each(|line| writeln!(out, "  {}", harmless(line)))?;
        }
    }
    out.flush()
}

fn print_findings(found: &Inspection, out: &mut impl Write) -> std::io::Result<()> {
    let findings = [
        ("repeat another", &found.duplicates),
        ("with an empty message", &found.empty_turns),
        ("with roles out of order", &found.roles_out_of_order),
        ("without an answer at the end", &found.without_answer),
    ];
    let mut all: Vec<(String, &Finding)> = findings.map(|(what, finding)| (what.to_owned(), finding)).into();
    all.extend(found.bad_rows.iter().map(|(reason, finding)| (format!("can't be used: {reason}"), finding)));
    all.retain(|(_, finding)| finding.count > 0);
    heading(out, "Findings")?;
    if all.is_empty() {
        writeln!(out, "  {}", style("nothing odd").green())?;
    }
    for (what, finding) in all {
        writeln!(out, "  {} {what}", style(number(finding.count)).yellow())?;
        for place in &finding.first {
            writeln!(out, "    {}", style(harmless(place)).dim())?;
        }
        let more = finding.count - finding.first.len() as u64;
        if more > 0 {
            writeln!(out, "    {}", style(format!("and {} more", number(more))).dim())?;
        }
    }
    Ok(())
}

fn heading(out: &mut impl Write, text: &str) -> std::io::Result<()> {
    writeln!(out, "\n{}", style(text).bold())
}

fn counts<'a>(out: &mut impl Write, title: &str, counts: impl Iterator<Item = (&'a str, u64)>) -> std::io::Result<()> {
    let counts: Vec<String> = counts.map(|(name, count)| format!("{} ×{}", harmless(name), number(count))).collect();
    if counts.is_empty() {
        return Ok(());
    }
    heading(out, title)?;
    writeln!(out, "  {}", counts.join(", "))
}

/// The numbers under the headings of the table of sizes.
fn columns_of(spread: &Spread) -> String {
    let whole = [spread.min, spread.median].map(|value| number(value.into()));
    let tail = [spread.p95, spread.p99, spread.max].map(|value| number(value.into()));
    let all = whole.into_iter().chain([thousands(spread.mean)]).chain(tail).chain([number(spread.total)]);
    all.map(|value| format!("  {value:>11}")).collect()
}
