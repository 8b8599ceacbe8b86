//! A text by how surprising each of its tokens is.

use std::io::Write as _;

use console::{Color, Style, measure_text_width, style};
use reheat_generate::{TokenScore, perplexity, score_tokens};
use serde_json::{Value, json};

use super::Subject;
use crate::{
    fault::Fault,
    output::{self, Format, visible},
};

pub(super) fn run(subject: &Subject, format: Format) -> anyhow::Result<()> {
    let scores = score_tokens(&subject.model, &subject.ids)?;
    if scores.is_empty() {
        return Err(Fault::input("the text has one token, and nothing is before it")
            .hint("a perplexity needs two tokens or more")
            .into());
    }
    let perplexity = perplexity(&scores);
    let mean_logprob = -perplexity.ln();
    if format.json {
        let token = |score: &TokenScore| json!({ "id": score.id, "token": subject.token(score.id), "logprob": score.logprob, "entropy": score.entropy });
        let tokens: Vec<Value> = scores.iter().map(token).collect();
        return output::print_json(
            &json!({ "perplexity": perplexity, "mean_logprob": mean_logprob, "tokens": tokens }),
        );
    }
    let mut out = output::stdout();
    if console::colors_enabled() {
        writeln!(out, "{}", heat_line(subject, &scores, output::stdout_width()))?;
        writeln!(out, "{}", legend())?;
    } else {
        writeln!(out, "{:>9}  {:>9}  token", "logprob", "entropy")?;
        writeln!(out, "{:>9}  {:>9}  {}", "", "", subject.label(subject.ids[0]))?;
        for score in &scores {
            writeln!(out, "{:>9.3}  {:>9.3}  {}", score.logprob, score.entropy, subject.label(score.id))?;
        }
    }
    let count = scores.len();
    let summary =
        format!("perplexity {perplexity:.3} over {count} tokens, {:.3} nats of surprise per token", -mean_logprob);
    writeln!(out, "{}", style(summary).bold())?;
    Ok(out.flush()?)
}

/// Up to how many nats of surprise, and its colour of the 256: from expected to not at all.
const HEAT: [(f32, u8, &str); 6] = [
    (0.1, 22, "≥ 90%"),
    (0.7, 28, "≥ 50%"),
    (2.3, 100, "≥ 10%"),
    (4.6, 130, "≥ 1%"),
    (6.9, 124, "≥ 0.1%"),
    (f32::INFINITY, 53, "less"),
];

fn heat(logprob: f32) -> Style {
    let colour = HEAT.iter().find(|(limit, ..)| -logprob <= *limit).map_or(53, |(_, colour, _)| *colour);
    Style::new().on_color256(colour).fg(Color::White)
}

/// The text in the colours of its surprise, broken to the width of the terminal; the first token has none.
fn heat_line(subject: &Subject, scores: &[TokenScore], width: usize) -> String {
    let mut line = subject.label(subject.ids[0]);
    let mut used = measure_text_width(&line);
    for score in scores {
        let token = subject.token(score.id);
        let piece = visible(&token).replace('␣', " ");
        let columns = measure_text_width(&piece);
        if used + columns > width {
            line.push('\n');
            used = 0;
        }
        line.push_str(&heat(score.logprob).apply_to(piece).to_string());
        used += columns;
        if token.ends_with('\n') {
            line.push('\n');
            used = 0;
        }
    }
    line
}

fn legend() -> String {
    let key = |(limit, _, name): &(f32, u8, &str)| heat(-limit.min(100.0)).apply_to(format!(" {name} ")).to_string();
    format!("{} {}", style("probability").dim(), HEAT.iter().map(key).collect::<String>())
}
