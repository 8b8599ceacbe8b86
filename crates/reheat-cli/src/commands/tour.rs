//! `reheat tour`: from a text to what fine-tuning would train on, step by step, on any model.

mod training; // a template, a dataset row, what would be trained

use std::path::PathBuf;

use console::style;
use reheat_generate::{Flow, GenerateConfig, NextToken, Positions, next_tokens};
use reheat_model::Qwen2;
use reheat_tokenizer::{DecodeMode, Tokenizer};

use super::{
    generate::stream_text,
    source::{ModelArg, ModelSource},
};
use crate::{
    device::DeviceChoice,
    fault::Fault,
    output::{stdout_width, visible},
    plot::{self, Bar, BarChart, BarPanel, Figure},
    text,
};

/// The walk that every newcomer takes, explained step by step, on any model.
///
/// Text becomes tokens, tokens become a distribution, a distribution becomes text; a question gets no answer from a base
/// model, and what has to be trained for one is shown to the last token. Everything is computed by the model at hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat tour
  reheat tour --model ./Qwen2.5-0.5B --text \"Octopuses have three hearts\" --question \"How many hearts has an octopus?\"")]
pub(crate) struct TourArgs {
    #[command(flatten)]
    model: ModelArg,

    /// The text that is looked at and continued.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,

    /// The question that is asked.
    #[arg(long, value_name = "TEXT")]
    question: Option<String>,

    /// Folder for the plot.
    #[arg(long, value_name = "DIR", default_value = "runs/tour")]
    output_dir: PathBuf,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// Text and question for models that know the world, and for the bundled one, which knows animals.
const WORLD: (&str, &str) = ("Octopuses have three hearts", "How many hearts does an octopus have?");
const ANIMALS: (&str, &str) = ("The zebra eats grass", "What does the lion eat?");

/// Tokens shown at each position.
const TOP: usize = 5;
/// Positions shown in the terminal, the last ones.
const SHOWN_POSITIONS: usize = 3;
/// Positions in the plot, the last ones.
const PLOTTED_POSITIONS: usize = 12;

/// The model at hand.
struct Guide {
    source: ModelSource,
    tokenizer: Tokenizer,
    model: Qwen2,
}

pub(super) fn run(args: &TourArgs) -> anyhow::Result<()> {
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let model = source.model(&args.device.resolve()?.device)?;
    let guide = Guide { source, tokenizer, model };
    let (text, question) = if args.model.model.is_none() { ANIMALS } else { WORLD };
    let text = args.text.as_deref().unwrap_or(text);
    let question = args.question.as_deref().unwrap_or(question);

    println!("{}", style(format!("A walk through `{}`.", guide.source.name())).bold());
    let ids = guide.tokens(text)?;
    guide.shapes(ids.len());
    guide.distributions(&ids, args)?;
    guide.continuation(text, &ids)?;
    guide.question(question)?;
    training::show(&guide, question)
}

fn step(number: usize, title: &str) {
    println!("\n{}", style(format!("{number}. {title}")).green().bold());
}

/// What is happening and why; wrapped to the terminal.
fn say(text: &str) {
    let width = stdout_width().clamp(40, 100);
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && console::measure_text_width(&line) + 1 + console::measure_text_width(word) > width {
            println!("{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{line}");
}

/// A command that shows the same.
fn try_it(command: &str) {
    println!("{}", style(format!("   try: {command}")).dim());
}

impl Guide {
    /// `--model` as a command needs it.
    fn model_flag(&self) -> String {
        if self.source.is_bundled() { String::new() } else { format!(" --model {}", self.source.given()) }
    }

    fn tokens(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        step(1, "Text becomes tokens");
        say(
            "A model reads no letters. The tokenizer cuts a text into pieces of a fixed vocabulary, and the model sees \
             their numbers. A space belongs to the piece that follows it, shown as ␣.",
        );
        let encoding = self.tokenizer.encode_with_special_tokens(text)?;
        if encoding.is_empty() {
            return Err(Fault::input("the text has no tokens").hint("give --text some words").into());
        }
        println!("   text    {}", style(text).cyan());
        let pieces: Vec<String> = encoding.ids.iter().map(|id| self.label(*id)).collect();
        println!("   pieces  {}", style(pieces.join(" · ")).cyan());
        println!("   ids     {:?}", encoding.ids);
        try_it(&format!("reheat tokenize{} {text:?}", self.model_flag()));
        Ok(encoding.ids)
    }

    fn shapes(&self, tokens: usize) {
        step(2, "Tokens become numbers, and numbers pass through layers");
        let config = self.model.config();
        say(
            "Each id picks a row of a table. The rows pass through blocks of attention, where a position looks at those \
             before it, and of a feed-forward layer. At the end every position has a score for each token of the \
             vocabulary: the logits.",
        );
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        println!("   ids            [1, {tokens}]");
        println!("   embedded       [1, {tokens}, {hidden}]");
        println!(
            "   {:<14} [1, {tokens}, {hidden}]   {} heads of {}, {} for keys and values",
            format!("{} blocks", config.num_hidden_layers),
            config.num_attention_heads,
            config.head_dim,
            config.num_key_value_heads
        );
        println!("   logits         [1, {tokens}, {vocab}]");
        println!("   parameters     {}", thousands(config.num_parameters()));
    }

    fn distributions(&self, ids: &[u32], args: &TourArgs) -> anyhow::Result<()> {
        step(3, "Logits become a distribution over the next token");
        say(
            "A softmax turns the scores of a position into probabilities. Every position predicts the token after it, \
             from the tokens before it alone. Entropy says how undecided the model is: 0 is certain.",
        );
        let found = next_tokens(&self.model, ids, Positions::All, TOP)?;
        for next in &found[found.len().saturating_sub(SHOWN_POSITIONS)..] {
            let prefix = console::truncate_str(&visible(&self.prefix(ids, next)), 80, "…").into_owned();
            println!("   {} entropy {:.2} nats", style(format!("{prefix} →")).bold(), next.entropy);
            for candidate in &next.top {
                let share = f64::from(candidate.logprob).exp();
                let label =
                    console::pad_str(&self.label(candidate.id), 14, console::Alignment::Left, Some("…")).into_owned();
                println!(
                    "     {} {:>6.2}% {}",
                    style(label).cyan(),
                    100.0 * share,
                    style(plot::bar(share, 40)).green()
                );
            }
        }
        let figure = Figure::svg(&args.output_dir.join("next-token.svg"));
        let plotted = &found[found.len().saturating_sub(PLOTTED_POSITIONS)..];
        let panels = plotted.iter().map(|next| BarPanel {
            title: visible(&self.prefix(ids, next)),
            bars: next
                .top
                .iter()
                .map(|candidate| Bar {
                    label: self.label(candidate.id),
                    values: vec![f64::from(candidate.logprob).exp()],
                })
                .collect(),
        });
        let chart = BarChart {
            x_label: "probability".into(),
            y_label: "next token".into(),
            legend: Vec::new(),
            panels: panels.collect(),
        };
        plot::save_bars(&figure, &chart)?;
        println!("   every position, as a plot: {}", figure.path().display());
        try_it(&format!("reheat next-token{} --all-positions {:?}", self.model_flag(), self.prefix_text(ids)));
        Ok(())
    }

    fn continuation(&self, text: &str, ids: &[u32]) -> anyhow::Result<()> {
        step(4, "A distribution becomes text");
        say(
            "Take a token, append it, predict the next one. Always taking the likeliest is greedy decoding; drawing by \
             probability gives another text with every seed.",
        );
        for (name, temperature, seed) in [("greedy", 0.0, 0), ("seed 1", 1.0, 1), ("seed 2", 1.0, 2)] {
            let config = GenerateConfig { max_new_tokens: 24, temperature, seed, ..self.config() };
            let continued = self.complete(ids, &config)?;
            println!("   {name:<7} {}{}", style(visible_lines(text)).cyan(), visible_lines(&continued));
        }
        try_it(&format!("reheat generate{} --temperature 1 --seed 1 {text:?}", self.model_flag()));
        Ok(())
    }

    fn question(&self, question: &str) -> anyhow::Result<()> {
        step(5, "A question is a text, too");
        say(
            "A base model has learned to continue texts. Asked something, it goes on as a text with that sentence might \
             go on, whether or not that answers it.",
        );
        let ids = self.tokenizer.encode_with_special_tokens(question)?.ids;
        let continued =
            self.complete(&ids, &GenerateConfig { max_new_tokens: 40, temperature: 0.0, ..self.config() })?;
        println!("   {}{}", style(question).cyan(), visible_lines(&continued));
        Ok(())
    }

    fn config(&self) -> GenerateConfig {
        GenerateConfig { eos_token_ids: self.tokenizer.eos_ids().to_vec(), ..GenerateConfig::default() }
    }

    fn complete(&self, ids: &[u32], config: &GenerateConfig) -> anyhow::Result<String> {
        Ok(stream_text(&self.model, &self.tokenizer, ids, config, &[], &mut |_| Flow::Continue)?.0)
    }

    fn label(&self, id: u32) -> String {
        text::label(&self.tokenizer, id)
    }

    fn prefix(&self, ids: &[u32], next: &NextToken) -> String {
        self.prefix_text(&ids[..next.prefix_len])
    }

    fn prefix_text(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, DecodeMode::KeepSpecialTokens).unwrap_or_default()
    }
}

/// A text on one line, with its line breaks as signs and its spaces as they are.
fn visible_lines(text: &str) -> String {
    visible(text).replace('␣', " ")
}

/// `494,032,768`
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!(
            ["7", "1234", "494032768"].map(|text| thousands(text.parse().unwrap())),
            ["7", "1,234", "494,032,768"]
        );
    }
}
