//! `reheat data convert`: rows in a spelling that TRL reads, as JSON lines or Parquet.

use std::io::Write as _;
use std::path::PathBuf;

use reheat_data::{ConvertOptions, ConvertTo, OnBadRow, convert};

use super::{FormatArgs, RowsArgs};
use crate::{output, progress, report};

/// Convert a dataset to messages, prompts and completions, or preferences, as TRL and transformers read them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat data convert sharegpt.json > messages.jsonl
  reheat data convert --format sharegpt chats.jsonl --output chats.parquet
  reheat data convert pairs.jsonl --unpair --output labelled.jsonl --on-bad-row skip

Without --output, JSON lines go to stdout. In Parquet, what is nested deeper than a message's fields, such as tool calls, is JSON text, so that no row gets fields of another; reheat reads it back as it was. With --json: what became of the rows, once the file is written.")]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    rows: RowsArgs,

    #[command(flatten)]
    columns: FormatArgs,

    /// File to write: .jsonl or .parquet.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Make two rows of a preference, each with one answer and its label.
    #[arg(long)]
    unpair: bool,

    /// What happens when a row can't be converted: stop, or leave it out and write it to FILE.rejected.jsonl.
    #[arg(long, value_name = "POLICY", default_value = "error")]
    on_bad_row: BadRow,

    /// Print what became of the rows as JSON on stdout.
    #[arg(long, requires = "output")]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BadRow {
    Error,
    Skip,
}

pub(super) fn run(args: ConvertArgs) -> anyhow::Result<()> {
    let on_bad_row = match args.on_bad_row {
        BadRow::Error => OnBadRow::Error,
        BadRow::Skip => OnBadRow::Skip,
    };
    let options = ConvertOptions {
        conversion: args.columns.options(on_bad_row)?,
        unpair: args.unpair,
        rejected: args.output.as_ref().map(|path| path.with_added_extension("rejected.jsonl")),
    };
    let dataset = args.rows.open()?;
    let to = match &args.output {
        Some(path) => ConvertTo::File(path.clone()),
        None => ConvertTo::Writer(Box::new(output::stdout())),
    };
    let bar = progress::rows_bar("converting");
    let report = convert(&dataset, to, &options, &mut |rows| bar.set_position(rows));
    bar.finish_and_clear();
    let report = report?;
    report::print_conversion(&report, options.rejected.as_deref());
    if args.json {
        return output::print_json(&report);
    }
    if let Some(path) = &args.output {
        writeln!(output::stdout(), "{}", path.display())?;
    }
    Ok(())
}
