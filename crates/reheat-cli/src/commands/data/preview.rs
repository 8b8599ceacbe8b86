//! `reheat data preview`: rows as they will be trained.

use std::io::Write as _;
use std::sync::LazyLock;

use console::style;
use reheat_data::{IGNORE_INDEX, PreviewedRow, Sequence, preview};
use reheat_tokenizer::{DecodeMode, Tokenizer};
use serde_json::{Value, json};

use super::{TextArgs, open, with_paths};
use crate::{
    output::{self, Format, visible},
    painted::painted,
    settings::{DatasetSettings, Flags, HasTable, PrepareSettings, Table, resolve},
};

/// Show rows exactly as they will be trained, with what is learned on green.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat data preview train.jsonl --model ./Qwen2.5-0.5B-Instruct --assistant-only-loss
  reheat data preview 'my-data:train[100:]' --model ./Qwen2.5-0.5B --num-rows 1 --ids
  reheat data preview train.jsonl --packing --max-length 512

What is learned is on green, or between ⟦ and ⟧ where there is no colour. With --json: a line for each row, {\"row\", \"sequences\": [{\"name\", \"text\", \"input_ids\", \"labels\", \"seq_lens\"}], \"tokens_cut\", \"left_out\"}; labels are -100 where nothing is learned.")]
pub(crate) struct PreviewArgs {
    /// Files, folders, patterns, or a name on the Hub; the same as --dataset.
    #[arg(value_name = "DATASET")]
    paths: Vec<String>,

    /// Rows to show.
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    num_rows: usize,

    /// Show the id and label of every token as well.
    #[arg(long)]
    ids: bool,

    #[command(flatten)]
    text: TextArgs,

    #[command(flatten)]
    flags: Flags<Preview>,

    #[command(flatten)]
    format: Format,
}

/// The settings of `reheat data preview`.
#[derive(Debug)]
pub(crate) struct Preview;

impl HasTable for Preview {
    fn table() -> &'static Table {
        static TABLE: LazyLock<Table> =
            LazyLock::new(|| Table::default().with::<DatasetSettings>("Dataset").with::<PrepareSettings>("Data"));
        &TABLE
    }
}

pub(super) fn run(args: PreviewArgs) -> anyhow::Result<()> {
    let resolved = resolve(&with_paths(args.flags, args.paths)?, None)?;
    let settings: DatasetSettings = resolved.extract()?;
    let data: PrepareSettings = resolved.extract()?;
    let dataset = open(&settings)?;
    let (tokenizer, template) = args.text.open()?;
    let rows = preview(&dataset, &tokenizer, template.as_ref(), &data.options(None)?, args.num_rows)?;
    let mut out = output::stdout();
    for row in &rows {
        if args.format.json {
            writeln!(out, "{}", to_json(row, &tokenizer)?)?;
        } else {
            print(row, &tokenizer, args.ids, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

fn to_json(row: &PreviewedRow, tokenizer: &Tokenizer) -> anyhow::Result<Value> {
    let sequence = |(name, sequence): &(&str, Sequence)| -> anyhow::Result<Value> {
        let mut json = serde_json::to_value(sequence)?;
        json["name"] = (*name).into();
        json["text"] = tokenizer.decode(&sequence.input_ids, DecodeMode::KeepSpecialTokens)?.into();
        Ok(json)
    };
    let sequences = row.sequences.iter().map(sequence).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({ "row": row.row, "sequences": sequences, "tokens_cut": row.tokens_cut, "left_out": row.left_out }))
}

fn print(row: &PreviewedRow, tokenizer: &Tokenizer, ids: bool, out: &mut impl std::io::Write) -> anyhow::Result<()> {
    let place = row.row.as_ref().map_or_else(|| "packed row".to_owned(), ToString::to_string);
    writeln!(out, "{}", style(format!("── {place} ──")).bold())?;
    for (name, sequence) in &row.sequences {
        let lens = if sequence.seq_lens.is_empty() {
            String::new()
        } else {
            format!(", documents of {:?}", sequence.seq_lens)
        };
        let learned = sequence.num_items();
        let head = format!("{name}: {} tokens, {learned} learned{lens}", sequence.input_ids.len());
        writeln!(out, "{}", style(head).dim())?;
        let labels = sequence.labels();
        for document in sequence.documents() {
            let (input_ids, labels) = (&sequence.input_ids[document.clone()], &labels[document]);
            let text = shown(input_ids, labels, tokenizer)?;
            writeln!(out, "{}", text.strip_suffix('\n').unwrap_or(&text))?;
            if ids {
                print_ids(input_ids, labels, tokenizer, out)?;
            }
        }
    }
    if row.tokens_cut > 0 {
        writeln!(out, "{}", style(format!("{} tokens are cut off", row.tokens_cut)).yellow())?;
    }
    if let Some(problem) = &row.left_out {
        writeln!(out, "{}", style(format!("left out: {problem}")).red())?;
    }
    Ok(writeln!(out)?)
}

/// A document as text, with what is learned in colour. Its first token is never learned.
fn shown(input_ids: &[u32], labels: &[i32], tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let is_learned = |index: usize| index > 0 && labels[index] != IGNORE_INDEX;
    let mut text = String::new();
    let mut learned = Vec::new();
    let mut start = 0;
    while start < input_ids.len() {
        let run = (start..input_ids.len()).take_while(|&index| is_learned(index) == is_learned(start)).count();
        let piece = tokenizer.decode(&input_ids[start..start + run], DecodeMode::KeepSpecialTokens)?;
        if is_learned(start) {
            learned.push(text.len()..text.len() + piece.len());
        }
        text.push_str(&piece);
        start += run;
    }
    Ok(painted(&text, &learned))
}

fn print_ids(
    input_ids: &[u32],
    labels: &[i32],
    tokenizer: &Tokenizer,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    writeln!(out, "{}", style(format!("{:>8}  {:>8}  token", "id", "label")).dim())?;
    for (id, label) in input_ids.iter().zip(labels) {
        let piece = tokenizer.decode(&[*id], DecodeMode::KeepSpecialTokens)?;
        // A part of a character is no text; the vocabulary spells it.
        let spelled = || tokenizer.id_to_token(*id).unwrap_or_default();
        let piece = if piece.contains('\u{fffd}') { spelled() } else { visible(&piece) };
        let piece = if *label == IGNORE_INDEX { style(piece) } else { style(piece).green() };
        writeln!(out, "{id:>8}  {label:>8}  {piece}")?;
    }
    Ok(())
}
