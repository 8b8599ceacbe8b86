//! `reheat tokenize`: what a text becomes.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use console::{Alignment, pad_str, style};
use reheat_tokenizer::{DecodeMode, Encoding, Tokenizer};
use serde::Serialize;

use super::source::ModelArg;
use crate::{
    fault::Fault,
    output::{self, Format, visible},
};

/// Show the tokens of a text: pieces, ids, offsets.
///
/// Control tokens that the text spells, such as <|im_end|>, become those tokens, as in transformers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat tokenize \"Octopuses have three\"
  reheat tokenize --model ./Qwen2.5-0.5B --file notes.txt
  echo \"Octopuses have three\" | reheat tokenize --json -
  reheat tokenize --model ./Qwen2.5-0.5B --decode 18053 453 4776 614 2326

With --json: {\"ids\", \"tokens\", \"offsets\"}; tokens as the vocabulary spells them, offsets in characters (code points).")]
pub(crate) struct TokenizeArgs {
    /// The text; `-` reads it from stdin.
    #[arg(required_unless_present_any = ["file", "decode"], conflicts_with_all = ["file", "decode"])]
    text: Option<String>,

    #[command(flatten)]
    model: ModelArg,

    /// Read the text from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "decode")]
    file: Option<PathBuf>,

    /// Turn ids into text instead.
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',')]
    decode: Option<Vec<u32>>,

    /// Add what the tokenizer puts around a text, such as a begin token.
    #[arg(long)]
    add_special_tokens: bool,

    /// Encode control tokens that the text spells as plain text.
    #[arg(long, conflicts_with = "add_special_tokens")]
    literal: bool,

    #[command(flatten)]
    format: Format,
}

/// `tokenize --json`
#[derive(Debug, Serialize)]
struct Tokens {
    ids: Vec<u32>,
    tokens: Vec<String>,
    /// Code points.
    offsets: Vec<(usize, usize)>,
}

pub(super) fn run(args: TokenizeArgs) -> anyhow::Result<()> {
    let model = args.model.open()?;
    let tokenizer = model.tokenizer()?;
    if let Some(ids) = &args.decode {
        return decode(&tokenizer, ids, args.format);
    }
    let text = read_text(&args)?;
    let encoding = if args.literal {
        tokenizer.encode_literal(&text, std::slice::from_ref(&(0..text.len())))?
    } else if args.add_special_tokens {
        tokenizer.encode_with_special_tokens(&text)?
    } else {
        tokenizer.encode(&text)?
    };
    if args.format.json {
        return output::print_json(&Tokens {
            tokens: tokenizer.tokens(&encoding.ids),
            offsets: code_point_offsets(&text, &encoding),
            ids: encoding.ids,
        });
    }
    print_table(&tokenizer, &text, &encoding)
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], format: Format) -> anyhow::Result<()> {
    let unknown: Vec<String> =
        ids.iter().filter(|id| tokenizer.id_to_token(**id).is_none()).map(ToString::to_string).collect();
    if !unknown.is_empty() {
        let message = format!("no token has the id {}", unknown.join(", "));
        return Err(Fault::input(message).hint("ids belong to one tokenizer: is --model the right one?").into());
    }
    let text = tokenizer.decode(ids, DecodeMode::KeepSpecialTokens)?;
    if format.json {
        return output::print_json(&serde_json::json!({ "text": text }));
    }
    let mut out = output::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn read_text(args: &TokenizeArgs) -> anyhow::Result<String> {
    if let Some(path) = &args.file {
        return fs::read_to_string(path)
            .map_err(|error| Fault::input(format!("cannot read `{}`", path.display())).because(error).into());
    }
    match args.text.as_deref() {
        Some("-") | None => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::input("cannot read the text from stdin").because(error))?;
            // The newline that `echo` adds isn't meant.
            if text.ends_with('\n') {
                text.truncate(text.len() - 1);
                if text.ends_with('\r') {
                    text.truncate(text.len() - 1);
                }
            }
            Ok(text)
        }
        Some(text) => Ok(text.to_owned()),
    }
}

fn code_point_offsets(text: &str, encoding: &Encoding) -> Vec<(usize, usize)> {
    // Byte offset to code point, so that long texts stay linear.
    let mut index = vec![0; text.len() + 1];
    let mut count = 0;
    for (byte, slot) in index.iter_mut().enumerate() {
        *slot = count;
        count += usize::from(text.is_char_boundary(byte + 1) && byte < text.len());
    }
    encoding.offsets.iter().map(|range| (index[range.start], index[range.end])).collect()
}

fn print_table(tokenizer: &Tokenizer, text: &str, encoding: &Encoding) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let rows = rows(tokenizer, text, encoding);
    let widest = |of: fn(&Row) -> usize, least: usize| rows.iter().map(of).max().unwrap_or(0).max(least);
    let id_width = widest(|row| row.id.len(), 2);
    let piece_width = widest(|row| console::measure_text_width(&row.piece), 5).min(48);
    let number_width = rows.len().saturating_sub(1).to_string().len().max(1);
    let head = format!("{:>number_width$}  {:>id_width$}  {:piece_width$}  bytes", "#", "id", "piece");
    writeln!(out, "{}", style(head).bold())?;
    for (number, row) in rows.iter().enumerate() {
        let piece = console::truncate_str(&row.piece, piece_width, "…");
        let piece = pad_str(&piece, piece_width, Alignment::Left, None);
        let piece = if row.special { style(piece).yellow() } else { style(piece).cyan() };
        let note = if row.note.is_empty() { String::new() } else { format!("  {}", style(&row.note).dim()) };
        let range = &row.bytes;
        writeln!(out, "{number:>number_width$}  {:>id_width$}  {piece}  {}..{}{note}", row.id, range.start, range.end)?;
    }
    let characters = text.chars().count();
    let (tokens, bytes) = (rows.len(), text.len());
    let each = if tokens == 0 {
        String::new()
    } else {
        format!(", {:.1} characters a token", characters as f64 / tokens as f64)
    };
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let summary = [plural(tokens, "token"), plural(characters, "character"), plural(bytes, "byte")].join(", ");
    writeln!(out, "{}", style(format!("{summary}{each}")).dim())?;
    Ok(out.flush()?)
}

/// One line of the table.
struct Row {
    id: String,
    piece: String,
    bytes: std::ops::Range<usize>,
    special: bool,
    note: String,
}

fn rows(tokenizer: &Tokenizer, text: &str, encoding: &Encoding) -> Vec<Row> {
    let row = |position: usize| {
        let (id, bytes) = (encoding.ids[position], encoding.offsets[position].clone());
        let special = tokenizer.is_special(id);
        let same =
            |offset: usize| encoding.offsets.get(offset).is_some_and(|other| *other == bytes && !bytes.is_empty());
        let before = (0..position).rev().take_while(|index| same(*index)).count();
        let after = (position + 1..encoding.len()).take_while(|index| same(*index)).count();
        let note = if before + after > 0 {
            format!("part {} of {}", before + 1, before + after + 1)
        } else if special {
            "special".to_owned()
        } else {
            String::new()
        };
        let piece = match text.get(bytes.clone()) {
            Some(slice) if !slice.is_empty() => visible(slice),
            _ => tokenizer.id_to_token(id).unwrap_or_default(), // added by the tokenizer
        };
        Row { id: id.to_string(), piece, bytes, special, note }
    };
    (0..encoding.len()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_code_points() {
        let encoding = Encoding { ids: vec![0, 1, 2], offsets: vec![0..2, 2..6, 6..7] };
        assert_eq!(code_point_offsets("é😀a", &encoding), [(0, 1), (1, 2), (2, 3)]);
    }
}
