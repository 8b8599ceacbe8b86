//! `cargo xtask make-parquet`: a large Parquet file in the shape of a reasoning dataset, to measure memory with.
//!
//! Columns as in OpenThoughts-114k: `system`, and `conversations` of a question and a long answer with its thoughts.
//! The words mean nothing; their lengths and frequencies are those of English, so that tokenizers have as much to do.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use polars_arrow::array::{Array, ListArray, StructArray, Utf8Array};
use polars_arrow::datatypes::{ArrowDataType, ArrowSchema, Field};
use polars_arrow::offset::Offsets;
use polars_arrow::record_batch::RecordBatchT;
use polars_parquet::write::{
    CompressionOptions, FileWriter, StatisticsOptions, Version, WriteOptions, get_dtype_encoding, row_group_iter,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(clap::Args)]
pub(crate) struct MakeParquetArgs {
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of rows
    #[arg(long, default_value_t = 114_000)]
    rows: usize,
    /// Mean length of a row's text
    #[arg(long, default_value_t = 26_300, value_name = "BYTES")]
    row_bytes: usize,
    /// Rows of a row group
    #[arg(long, default_value_t = 1000)]
    row_group_size: usize,
    /// How pages are compressed
    #[arg(long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Compression {
    None,
    Snappy,
    Zstd,
}

const SYSTEM: &str = "Your role as an assistant involves thoroughly exploring questions through a systematic long \
    thinking process before providing the final precise and accurate solutions. Please structure your response into two \
    main sections: Thought and Solution.";

/// The most frequent first; how often each comes follows Zipf's law.
const WORDS: &str = "the of and to in a is that for it as was with be by on not he this are or his from at which but \
    have an had they you were there one all we can her has if what when so no will their more some them would then than \
    into about could time only its other people first over these like new any well through also after how our because \
    number two just where most good work each being between under same another never day system might function value \
    equation suppose therefore however consider again problem answer check wait let maybe triangle integer proof sum \
    divide square result correct total length assume calculate different element sequence possible condition polynomial \
    probability coefficient substitution derivative approximately simultaneously";

/// Writes the file, a row group at a time.
pub(crate) fn run(args: &MakeParquetArgs) -> anyhow::Result<()> {
    let out = || format!("cannot write `{}`", args.out.display());
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let file = BufWriter::new(File::create(&args.out).with_context(out)?);
    let options = WriteOptions {
        statistics: StatisticsOptions::empty(),
        version: Version::V1,
        compression: match args.compression {
            Compression::None => CompressionOptions::Uncompressed,
            Compression::Snappy => CompressionOptions::Snappy,
            Compression::Zstd => CompressionOptions::Zstd(None),
        },
        data_page_size: None,
    };
    let schema: ArrowSchema =
        [field("system", ArrowDataType::LargeUtf8), field("conversations", conversations())].into_iter().collect();
    let mut writer = FileWriter::try_new(file, schema.clone(), options)?;
    let schema = Arc::new(schema);
    for start in (0..args.rows).step_by(args.row_group_size.max(1)) {
        let rows = start..args.rows.min(start + args.row_group_size.max(1));
        let num_rows = rows.len();
        let columns = columns(rows, args.row_bytes, &mut rng)?;
        let encodings = columns.iter().map(|column| get_dtype_encoding(column.dtype())).collect();
        let batch = RecordBatchT::try_new(num_rows, Arc::clone(&schema), columns)?;
        let types = writer.parquet_schema().fields().to_vec();
        writer.write(num_rows as u64, row_group_iter(batch, encodings, types, options)).with_context(out)?;
    }
    let bytes = writer.end(None).with_context(out)?;
    writer.into_inner().flush().with_context(out)?;
    println!("{}: {} rows, {bytes} bytes", args.out.display(), args.rows);
    Ok(())
}

fn field(name: &str, dtype: ArrowDataType) -> Field {
    Field::new(name.into(), dtype, true)
}

/// What one turn is.
fn turn() -> ArrowDataType {
    ArrowDataType::Struct(vec![field("from", ArrowDataType::LargeUtf8), field("value", ArrowDataType::LargeUtf8)])
}

fn conversations() -> ArrowDataType {
    ArrowDataType::LargeList(Box::new(field("item", turn())))
}

/// The columns `system` and `conversations`, of a question and an answer each.
fn columns(rows: Range<usize>, row_bytes: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<Box<dyn Array>>> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let num_rows = rows.len();
    let mut values = Vec::with_capacity(2 * num_rows);
    for row in rows {
        // Most answers are shorter than the mean and a few much longer, as real ones are.
        let length = (row_bytes as f64 * -rng.random_range(0.001_f64..1.0).ln()) as usize;
        values.push(format!("Problem {row}. {}", text(&words, 300, rng)));
        let thought = text(&words, length * 4 / 5, rng);
        let solution = text(&words, length / 5, rng);
        values.push(format!(
            "<|begin_of_thought|>\n\n{thought}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{solution}\n\n\
             <|end_of_solution|>"
        ));
    }
    let from = Utf8Array::<i64>::from_iter_values(["user", "assistant"].into_iter().cycle().take(2 * num_rows)).boxed();
    let values = Utf8Array::<i64>::from_iter_values(values.into_iter()).boxed();
    let turns = StructArray::try_new(turn(), 2 * num_rows, vec![from, values], None)?.boxed();
    let offsets = Offsets::<i64>::try_from_lengths(std::iter::repeat_n(2, num_rows))?;
    let system = Utf8Array::<i64>::from_iter_values(std::iter::repeat_n(SYSTEM, num_rows)).boxed();
    Ok(vec![system, ListArray::try_new(conversations(), offsets.into(), turns, None)?.boxed()])
}

/// Sentences of about so many bytes.
fn text(words: &[&str], bytes: usize, rng: &mut ChaCha8Rng) -> String {
    let mut text = String::with_capacity(bytes + 32);
    let mut sentence = 0;
    while text.len() < bytes {
        // The rank of a word under Zipf's law is about an exponential of a uniform number.
        let rank = (words.len() as f64).powf(rng.random_range(0.0..1.0)) as usize - 1;
        match rng.random_range(0..20) {
            0 => text.push_str(&rng.random_range(0..1000).to_string()),
            1 => text.push_str(&format!("x_{} = {}", rng.random_range(0..9), rng.random_range(0..99))),
            _ => text.push_str(words[rank]),
        }
        sentence += 1;
        let end = match rng.random_range(0..sentence + 12) {
            reached if reached > 16 => ". ",
            16 => ".\n\n",
            15 => ", ",
            _ => " ",
        };
        if end.starts_with('.') {
            sentence = 0;
        }
        text.push_str(end);
    }
    text
}
