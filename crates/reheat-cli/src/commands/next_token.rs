//! `reheat next-token`: what a model expects next.

mod compare; // two models side by side
mod perplexity; // a text by how surprising its tokens are

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use console::{Alignment, pad_str, style};
use reheat_generate::{Candidate, NextToken, Positions, next_tokens};
use reheat_model::Qwen2;
use reheat_tokenizer::{DecodeMode, Tokenizer};
use serde::Serialize;
use serde_json::{Value, json};

use super::source::{ModelArg, ModelSource};
use crate::{
    device::DeviceChoice,
    fault::Fault,
    output::{self, Format, visible},
    plot::{self, Bar, BarChart, BarPanel, Figure},
    text,
};

/// Show which tokens a model expects next, and how much it expects each.
///
/// A forward pass gives logits for every position of the text; their softmax is what is shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat next-token \"Octopuses have three\"
  reheat next-token --all-positions --top-k 5 --plot next.svg \"Octopuses have three hearts\"
  reheat next-token --model ./Qwen2.5-0.5B --compare ./Qwen2.5-0.5B-Instruct --plot both.png \"The capital of France is\"
  reheat next-token --perplexity \"The zebra eats grass.\"

With --json: {\"shape\", \"positions\": [{\"prefix\", \"top\": [{\"id\", \"token\", \"prob\", \"logprob\"}], \"entropy\"}]}; shape is that
of the logits, [1, tokens, vocabulary]; log-probabilities and entropies are in nats. --compare adds to each position
\"other\": {\"top\", \"entropy\"} and \"kl\", and to each of its tokens \"other_prob\". --perplexity prints
{\"perplexity\", \"mean_logprob\", \"tokens\": [{\"id\", \"token\", \"logprob\", \"entropy\"}]}.")]
pub(crate) struct NextTokenArgs {
    /// The text; `-` reads it from stdin.
    text: String,

    #[command(flatten)]
    model: ModelArg,

    /// Show every position, not only the last.
    #[arg(long)]
    all_positions: bool,

    /// Tokens to show at each position.
    #[arg(short = 'k', long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top_k: u16,

    /// Show a second model beside the first, and how far it is from it.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,

    /// Draw a panel for each position into a file, by its name SVG or PNG.
    #[arg(long, value_name = "FILE.svg|FILE.png")]
    plot: Option<Figure>,

    /// Show how surprising each token of the text is, and the perplexity.
    #[arg(long, conflicts_with_all = ["compare", "all_positions", "plot"])]
    perplexity: bool,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    #[command(flatten)]
    format: Format,
}

/// A model with the tokens of the text.
struct Subject {
    source: ModelSource,
    tokenizer: Tokenizer,
    model: Qwen2,
    ids: Vec<u32>,
}

/// Columns of a token's id and the space before it.
const ID_WIDTH: usize = 8;
/// Columns that a bar should have.
const MIN_BAR: usize = 8;
/// Most panels of a plot.
const MAX_PANELS: usize = 300;

pub(super) fn run(args: &NextTokenArgs) -> anyhow::Result<()> {
    let text = match args.text.as_str() {
        "-" => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::input("cannot read stdin as text").because(error))?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
        text => text.to_owned(),
    };
    let subject = Subject::open(&args.model, args.device, &text)?;
    if args.perplexity {
        return perplexity::run(&subject, args.format);
    }
    let positions = if args.all_positions { Positions::All } else { Positions::Last };
    let num_positions = if args.all_positions { subject.ids.len() } else { 1 };
    if args.plot.is_some() && num_positions > MAX_PANELS {
        return Err(Fault::input(format!("a plot of {num_positions} positions, more than {MAX_PANELS}"))
            .hint("leave out --all-positions, or shorten the text")
            .into());
    }
    if let Some(other) = &args.compare {
        return compare::run(args, &subject, &ModelArg::of(other), &text, positions);
    }
    let found = next_tokens(&subject.model, &subject.ids, positions, args.top_k.into())?;
    if let Some(figure) = &args.plot {
        let panels = found.iter().map(|next| subject.panel(next, |candidate| vec![prob(candidate)]));
        save(figure, vec![subject.source.name()], panels.collect())?;
    }
    if args.format.json {
        let positions: Vec<Value> = found.iter().map(|next| subject.json(next)).collect();
        return output::print_json(&json!({ "shape": subject.shape(), "positions": positions }));
    }
    subject.print(&found)
}

/// One expected token of the JSON contract.
#[derive(Debug, Serialize)]
struct Expected {
    id: u32,
    token: String,
    prob: f64,
    logprob: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_prob: Option<f64>,
}

fn prob(candidate: &Candidate) -> f64 {
    f64::from(candidate.logprob).exp()
}

impl Subject {
    fn open(model: &ModelArg, device: DeviceChoice, text: &str) -> anyhow::Result<Self> {
        let source = model.open()?;
        let tokenizer = source.tokenizer()?;
        let ids = tokenizer.encode_with_special_tokens(text)?.ids;
        if ids.is_empty() {
            return Err(Fault::input("the text has no tokens")
                .hint("a model needs at least one token to go on from")
                .into());
        }
        let model = source.model(&device.resolve()?.device)?;
        Ok(Self { source, tokenizer, model, ids })
    }

    /// Of the logits.
    fn shape(&self) -> [usize; 3] {
        [1, self.ids.len(), self.model.config().vocab_size]
    }

    fn token(&self, id: u32) -> String {
        text::token(&self.tokenizer, id)
    }

    fn label(&self, id: u32) -> String {
        text::label(&self.tokenizer, id)
    }

    fn prefix(&self, next: &NextToken) -> String {
        self.tokenizer.decode(&self.ids[..next.prefix_len], DecodeMode::KeepSpecialTokens).unwrap_or_default()
    }

    fn expected(&self, candidate: &Candidate) -> Expected {
        Expected {
            id: candidate.id,
            token: self.token(candidate.id),
            prob: prob(candidate),
            logprob: candidate.logprob,
            other_prob: None,
        }
    }

    fn json(&self, next: &NextToken) -> Value {
        let top: Vec<Expected> = next.top.iter().map(|candidate| self.expected(candidate)).collect();
        json!({ "prefix": self.prefix(next), "top": top, "entropy": next.entropy })
    }

    fn panel(&self, next: &NextToken, values: impl Fn(&Candidate) -> Vec<f64>) -> BarPanel {
        let bar = |candidate: &Candidate| Bar { label: self.label(candidate.id), values: values(candidate) };
        BarPanel { title: visible(&self.prefix(next)), bars: next.top.iter().map(bar).collect() }
    }

    fn print(&self, found: &[NextToken]) -> anyhow::Result<()> {
        let mut out = output::stdout();
        let [_, tokens, vocab_size] = self.shape();
        writeln!(out, "{}", style(format!("logits [1, {tokens}, {vocab_size}]: batch, tokens, vocabulary")).dim())?;
        for next in found {
            let prefix = console::truncate_str(&visible(&self.prefix(next)), 200, "…").into_owned();
            let entropy = format!("entropy {:.2} nats", next.entropy);
            writeln!(out, "\n{} {}", style(format!("{prefix} →")).bold(), style(entropy).dim())?;
            for line in self.bars(&next.top, output::stdout_width()) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(out.flush()?)
    }

    /// A line for each token: what it is, how likely, as a bar. Where there is little room, the id is left out.
    fn bars(&self, top: &[Candidate], width: usize) -> Vec<String> {
        let labels: Vec<String> = top.iter().map(|candidate| self.label(candidate.id)).collect();
        let widest = labels.iter().map(|label| console::measure_text_width(label)).max().unwrap_or(0).clamp(4, 20);
        let besides = widest + 12;
        let has_id = width >= besides + ID_WIDTH + MIN_BAR;
        let room = width.saturating_sub(besides + if has_id { ID_WIDTH } else { 0 }).clamp(1, 60);
        let line = |(candidate, label): (&Candidate, &String)| {
            let label = pad_str(label, widest, Alignment::Left, Some("…")).into_owned();
            let bar = plot::bar(prob(candidate), room);
            let bar = pad_str(&bar, room, Alignment::Left, None).into_owned();
            let share = 100.0 * prob(candidate);
            let id = if has_id { format!(" {:>7}", candidate.id) } else { String::new() };
            format!("  {} {share:>7.3}% {}{}", style(label).cyan(), style(bar).green(), style(id).dim())
        };
        top.iter().zip(&labels).map(line).collect()
    }
}

/// Draws the panels.
fn save(figure: &Figure, legend: Vec<String>, panels: Vec<BarPanel>) -> anyhow::Result<()> {
    let chart = BarChart { x_label: "probability".into(), y_label: "next token".into(), legend, panels };
    plot::save_bars(figure, &chart)?;
    eprintln!("plot: {}", figure.path().display());
    Ok(())
}
