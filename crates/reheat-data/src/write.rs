//! Rows to files: JSON lines, or Parquet.

mod parquet;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use self::parquet::{ParquetFile, TableSchema};
use crate::{
    Conversion, ConversionOptions, DataError, Dataset, Example, OnBadRow, Report, Row, RowProblem,
    format::extract_prompt,
};

/// Where converted rows go.
pub enum ConvertTo {
    /// JSON lines, wherever they go.
    Writer(Box<dyn Write>),
    /// A file: Parquet where its name ends in `.parquet`, JSON lines in `.jsonl` or `.ndjson`. It appears when it is
    /// whole.
    File(PathBuf),
}

/// How to convert.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConvertOptions {
    /// How rows become examples, and what happens to bad ones.
    pub conversion: ConversionOptions,
    /// Preferences become two rows, each with one answer and its label.
    pub unpair: bool,
    /// Where bad rows are written, as JSON lines with the reason.
    pub rejected: Option<PathBuf>,
}

/// Converts a dataset to rows that TRL reads: `messages`, `prompt` and `completion`, `prompt`, `chosen` and
/// `rejected`, and so on.
///
/// Rows are streamed. A Parquet file takes two passes, since the columns of all rows must be known first; what is
/// nested deeper than a message's fields, such as tool calls, is JSON text in it, so that no row gets fields of
/// another.
///
/// `progress` is told the number of rows done so far.
///
/// # Errors
/// If a file can't be read or written, a format can't be told, a row can't be converted (unless such rows are
/// skipped), or no row is left.
pub fn convert(
    dataset: &Dataset,
    to: ConvertTo,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, DataError> {
    let report = match to {
        ConvertTo::Writer(writer) => {
            let failed = |source| DataError::Write { path: "stdout".into(), source };
            let mut lines = BufWriter::new(writer);
            let report = each_row(dataset, options, progress, &mut |row| json_line(&mut lines, &row).map_err(failed))?;
            lines.flush().map_err(failed)?;
            report
        }
        ConvertTo::File(path) => to_file(dataset, &path, options, progress)?,
    };
    if let Some(rejected) = &options.rejected {
        report.write_rejected(dataset, rejected)?;
    }
    if report.examples == 0 {
        return Err(match report.skipped_rows.first() {
            None => DataError::no_rows(dataset, report.filtered),
            Some(first) => {
                let reasons = format!("{}: {}", first.row, first.problem);
                DataError::NothingLeft { rows: report.rows, files: dataset.name().to_owned(), reasons }
            }
        });
    }
    Ok(report)
}

fn to_file(
    dataset: &Dataset,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, DataError> {
    let is_parquet = match path.extension().and_then(OsStr::to_str) {
        Some("parquet") => true,
        Some("jsonl" | "ndjson") => false,
        _ => {
            return Err(DataError::Setting {
                setting: "output",
                value: path.display().to_string(),
                reason: "expected a name that ends in .jsonl or .parquet".into(),
            });
        }
    };
    let failed = |source| DataError::Write { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // What was there before stays until the new file is whole.
    let partial = path.with_extension("partial");
    let written = if is_parquet {
        let mut schema = TableSchema::default();
        let quiet = ConvertOptions { rejected: None, ..options.clone() };
        each_row(dataset, &quiet, &mut |_| {}, &mut |row| {
            schema.look(&row);
            Ok(())
        })?;
        let mut file = ParquetFile::create(&partial, schema)?;
        let report = each_row(dataset, options, progress, &mut |row| file.push(row));
        report.and_then(|report| file.finish().map(|()| report))
    } else {
        File::create(&partial).map_err(failed).and_then(|file| {
            let mut lines = BufWriter::new(file);
            let report = each_row(dataset, options, progress, &mut |row| json_line(&mut lines, &row).map_err(failed));
            report.and_then(|report| lines.flush().map_err(failed).map(|()| report))
        })
    };
    match &written {
        Ok(report) if report.examples > 0 => fs::rename(&partial, path).map_err(failed)?,
        // A half-written file helps nobody, and that it can't be removed is no further harm.
        _ => drop(fs::remove_file(&partial)),
    }
    written
}

fn json_line(writer: &mut impl Write, row: &Row) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, row)?;
    writer.write_all(b"\n")
}

/// Hands every converted row to `take`, in order.
fn each_row(
    dataset: &Dataset,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64),
    take: &mut dyn FnMut(Row) -> Result<(), DataError>,
) -> Result<Report, DataError> {
    let on_bad_row = options.conversion.on_bad_row;
    let mut report = Report::default();
    let mut conversion = Conversion::new(dataset, options.conversion.clone());
    loop {
        let rows = conversion.next_chunk()?;
        if rows.is_empty() {
            break;
        }
        for (id, examples) in rows {
            let index = report.rows;
            report.rows += 1;
            let converted = examples.and_then(|examples| rows_of(examples, options.unpair));
            match (converted, on_bad_row) {
                (Ok(rows), _) => {
                    report.examples += rows.len() as u64;
                    rows.into_iter().try_for_each(&mut *take)?;
                }
                (Err(problem), OnBadRow::Error) => return Err(DataError::Row { row: id, problem }),
                (Err(problem), OnBadRow::Skip) => report.leave_out(index, id, &problem),
            }
        }
        progress(report.rows);
    }
    report.filtered = conversion.num_filtered();
    report.not_sampled = conversion.num_not_sampled();
    report.files = conversion.into_files();
    Ok(report)
}

fn rows_of(examples: Vec<Example>, unpair: bool) -> Result<Vec<Row>, RowProblem> {
    let mut rows = Vec::with_capacity(examples.len());
    for example in examples {
        match example {
            Example::Preference { prompt, chosen, rejected, context, .. } if unpair => {
                let (prompt, chosen, rejected) = match prompt {
                    Some(prompt) => (prompt, chosen, rejected),
                    None => extract_prompt(chosen, rejected)?,
                };
                for (completion, label) in [(chosen, true), (rejected, false)] {
                    let (prompt, context) = (prompt.clone(), context.clone());
                    rows.push(Example::UnpairedPreference { prompt, completion, label, context }.into_row());
                }
            }
            example => rows.push(example.into_row()),
        }
    }
    Ok(rows)
}
