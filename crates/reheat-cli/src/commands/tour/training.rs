//! The second half of the walk: a template, a dataset row before and after conversion, what would be trained.

use std::fs;

use console::style;
use reheat_chat::{ChatTemplate, Conversation, Message, RenderOptions};
use reheat_data::{Conversion, ConversionOptions, Dataset, DatasetSpec, IGNORE_INDEX, PrepareOptions, prepare_sft};
use serde_json::json;

use super::{Guide, say, step, try_it, visible_lines};
use crate::{commands::source::template_tokens, fault::Fault};

/// Ids shown of a row.
const SHOWN_IDS: usize = 48;

pub(super) fn show(guide: &Guide, question: &str) -> anyhow::Result<()> {
    let template = template(guide, question)?;
    let dataset = row(guide)?;
    trained(guide, &template, &dataset)
}

/// The conversation as the text that a chat model is trained on.
fn template(guide: &Guide, question: &str) -> anyhow::Result<ChatTemplate> {
    step(6, "A template makes a conversation a text");
    let own = guide.source.template(&guide.tokenizer)?;
    let whose = if own.is_some() { "The model has its own" } else { "This model has none, so ChatML stands in" };
    say(&format!(
        "To be asked, a model needs to know who speaks. A chat template writes a conversation as one text, with control \
         tokens around every turn. {whose}."
    ));
    let template = own.unwrap_or_else(|| ChatTemplate::chatml(&template_tokens(&guide.tokenizer)));
    let conversation = Conversation::new(vec![Message::new("user", question)]);
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let rendered = template.render(&conversation, &options)?;
    for line in rendered.text.lines() {
        println!("   {}", style(line).cyan());
    }
    let ids = guide.tokenizer.encode_literal(&rendered.text, &rendered.literal_spans)?.ids;
    let specials = ids.iter().filter(|id| guide.tokenizer.is_special(**id)).count();
    println!("   {} tokens, {specials} of them control tokens; the answer would begin here", ids.len());
    Ok(template)
}

/// A row in one of the formats that datasets come in, in a file.
struct RowFile {
    folder: tempfile::TempDir,
}

impl RowFile {
    fn dataset(&self) -> anyhow::Result<Dataset> {
        let path = self.folder.path().join("row.jsonl");
        Ok(Dataset::open(&DatasetSpec::new(path.to_string_lossy()).into())?)
    }
}

fn row(guide: &Guide) -> anyhow::Result<RowFile> {
    step(7, "A dataset row becomes a conversation");
    say(
        "Datasets name their columns as they like. Reheat tells the format from the columns and converts it; here is a \
         ShareGPT row, before and after.",
    );
    let (question, answer) = if guide.source.is_bundled() {
        ("What is a baby zebra called?", "The young of the zebra is called a foal.")
    } else {
        ("How many hearts does an octopus have?", "An octopus has three hearts.")
    };
    let row = json!({ "conversations": [{ "from": "human", "value": question }, { "from": "gpt", "value": answer }] });
    let cannot = |error| Fault::failed("cannot write a temporary file").because(error);
    let file = RowFile { folder: tempfile::tempdir().map_err(cannot)? };
    fs::write(file.folder.path().join("row.jsonl"), format!("{row}\n")).map_err(cannot)?;
    println!("   before  {}", style(&row).cyan());
    let mut conversion = Conversion::new(&file.dataset()?, ConversionOptions::default());
    for (_, examples) in conversion.next_chunk()? {
        for example in examples.into_iter().flatten() {
            println!("   after   {}", style(json!(example.into_row())).cyan());
        }
    }
    Ok(file)
}

/// The row's tokens, and which of them carry loss.
fn trained(guide: &Guide, template: &ChatTemplate, file: &RowFile) -> anyhow::Result<()> {
    step(8, "What fine-tuning would train on");
    say("The conversation goes through the template and the tokenizer. Fine-tuning predicts every token from those \
         before it, but only the assistant's tokens count: the labels of all others are -100.");
    let options = PrepareOptions { assistant_only_loss: true, ..PrepareOptions::default() };
    let prepared = prepare_sft(&file.dataset()?, &guide.tokenizer, Some(template), &options, &mut |_| {})?;
    for sequence in &prepared.examples {
        let mut line = String::new();
        let labels = sequence.labels();
        for (id, label) in sequence.input_ids.iter().zip(&labels) {
            let piece = visible_lines(&guide.label(*id).replace('␣', " "));
            let piece = if *label == IGNORE_INDEX { style(piece).dim() } else { style(piece).black().on_green() };
            line.push_str(&piece.to_string());
        }
        println!("   {line}");
        let shown = SHOWN_IDS.min(sequence.input_ids.len());
        println!("   input_ids {:?}", &sequence.input_ids[..shown]);
        println!("   labels    {:?}", &labels[..shown]);
        println!("   {} of {} tokens are trained", sequence.num_items(), sequence.input_ids.len());
    }
    if guide.source.is_bundled() {
        try_it("reheat quickstart");
    } else {
        try_it(&format!("reheat sft{} --dataset train.jsonl --output-dir runs/sft", guide.model_flag()));
    }
    Ok(())
}
