//! `cargo xtask make-parquet`: a large Parquet file in the shape of a reasoning dataset, to measure memory with.
//!
//! Columns as in OpenThoughts-114k: `system`, and `conversations` of a question and a long answer with its thoughts.
//! The words mean nothing; their lengths and frequencies are those of English, so that tokenizers have as much to do.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use polars::prelude::{
    Column, DataFrame, IntoSeries, NamedFrom, ParquetCompression, ParquetWriter, Series, StatisticsOptions,
    StructChunked,
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
    let file = File::create(&args.out).with_context(out)?;
    let compression = match args.compression {
        Compression::None => ParquetCompression::Uncompressed,
        Compression::Snappy => ParquetCompression::Snappy,
        Compression::Zstd => ParquetCompression::Zstd(None),
    };
    let mut frame = frame(0..args.row_group_size.min(args.rows), args.row_bytes, &mut rng)?;
    let writer = ParquetWriter::new(file)
        .with_compression(compression)
        .with_statistics(StatisticsOptions::empty())
        .with_row_group_size(Some(args.row_group_size));
    let mut writer = writer.batched(frame.schema())?;
    let mut done = 0;
    loop {
        writer.write_batch(&frame).with_context(out)?;
        done += frame.height();
        if done >= args.rows {
            break;
        }
        frame = self::frame(done..args.rows.min(done + args.row_group_size), args.row_bytes, &mut rng)?;
    }
    let bytes = writer.finish().with_context(out)?;
    println!("{}: {done} rows, {bytes} bytes", args.out.display());
    Ok(())
}

fn frame(rows: std::ops::Range<usize>, row_bytes: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<DataFrame> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let conversations: Vec<Series> = rows
        .clone()
        .map(|row| {
            // Most answers are shorter than the mean and a few much longer, as real ones are.
            let length = (row_bytes as f64 * -rng.random_range(0.001_f64..1.0).ln()) as usize;
            let question = format!("Problem {row}. {}", text(&words, 300, rng));
            let thought = text(&words, length * 4 / 5, rng);
            let solution = text(&words, length / 5, rng);
            let answer = format!(
                "<|begin_of_thought|>\n\n{thought}\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n{solution}\n\n\
                 <|end_of_solution|>"
            );
            let from = Series::new("from".into(), ["user", "assistant"]);
            let value = Series::new("value".into(), [question, answer]);
            Ok(StructChunked::from_series("".into(), 2, [from, value].iter())?.into_series())
        })
        .collect::<anyhow::Result<_>>()?;
    let system = Series::new("system".into(), vec![SYSTEM; rows.len()]);
    let conversations = Series::new("conversations".into(), conversations);
    Ok(DataFrame::new(rows.len(), vec![Column::from(system), Column::from(conversations)])?)
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
