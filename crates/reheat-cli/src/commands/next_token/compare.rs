//! Two models side by side.

use std::io::Write as _;

use console::{Alignment, measure_text_width, pad_str, style};
use reheat_generate::{Compared, Positions, compare_next_tokens};
use serde_json::{Value, json};

use super::{Expected, NextTokenArgs, Subject, prob, save};
use crate::{
    commands::source::ModelArg,
    fault::Fault,
    output::{self, visible},
};

pub(super) fn run(
    args: &NextTokenArgs,
    first: &Subject,
    second: &ModelArg,
    text: &str,
    positions: Positions,
) -> anyhow::Result<()> {
    let second = Subject::open(second, args.device, text)?;
    if first.ids != second.ids {
        return Err(Fault::input("the two models' tokenizers cut the text into different tokens")
            .hint("compare models of one family, such as a base model and its tuned one")
            .into());
    }
    let found = compare_next_tokens(&first.model, &second.model, &first.ids, positions, args.top_k.into())?;
    let names = [first.source.name(), second.source.name()];
    if let Some(figure) = &args.plot {
        let panels = found.iter().map(|compared| {
            let mut others = compared.second_logprobs.iter();
            let mut panel = first.panel(&compared.first, |candidate| vec![prob(candidate)]);
            for bar in &mut panel.bars {
                bar.values.extend(others.next().map(|logprob| f64::from(*logprob).exp()));
            }
            panel
        });
        save(figure, names.to_vec(), panels.collect())?;
    }
    if args.format.json {
        let positions: Vec<Value> = found.iter().map(|compared| to_json(first, &second, compared)).collect();
        return output::print_json(&json!({ "shape": first.shape(), "positions": positions }));
    }
    print(first, &second, &names, &found)
}

fn to_json(first: &Subject, second: &Subject, compared: &Compared) -> Value {
    let top: Vec<Expected> = compared
        .first
        .top
        .iter()
        .zip(&compared.second_logprobs)
        .map(|(candidate, other)| Expected { other_prob: Some(f64::from(*other).exp()), ..first.expected(candidate) })
        .collect();
    let other: Vec<Expected> = compared.second.top.iter().map(|candidate| second.expected(candidate)).collect();
    json!({
        "prefix": first.prefix(&compared.first),
        "top": top,
        "entropy": compared.first.entropy,
        "other": { "top": other, "entropy": compared.second.entropy },
        "kl": compared.kl,
    })
}

fn print(first: &Subject, second: &Subject, names: &[String; 2], found: &[Compared]) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let width = output::stdout_width();
    let half = width.saturating_sub(2) / 2;
    for compared in found {
        let prefix = console::truncate_str(&visible(&first.prefix(&compared.first)), 200, "…").into_owned();
        let kl = format!("KL({} ‖ {}) {:.4} nats", names[0], names[1], compared.kl);
        writeln!(out, "\n{} {}", style(format!("{prefix} →")).bold(), style(kl).dim())?;
        let head = |name: &str, entropy: f32| format!("  {name}, entropy {entropy:.2} nats");
        let lines = |width: usize| {
            let left =
                [head(&names[0], compared.first.entropy)].into_iter().chain(first.bars(&compared.first.top, width));
            let right =
                [head(&names[1], compared.second.entropy)].into_iter().chain(second.bars(&compared.second.top, width));
            (left.collect::<Vec<String>>(), right.collect::<Vec<String>>())
        };
        let (left, right) = lines(half);
        let widest = |lines: &[String]| lines.iter().map(|line| measure_text_width(line)).max().unwrap_or(0);
        let left_width = widest(&left);
        if left_width + 2 + widest(&right) > width {
            // One below the other.
            let (left, right) = lines(width);
            for line in left.iter().chain(&right) {
                writeln!(out, "{line}")?;
            }
            continue;
        }
        for (left, right) in left.iter().zip(&right) {
            writeln!(out, "{}  {right}", pad_str(left, left_width, Alignment::Left, None))?;
        }
    }
    Ok(out.flush()?)
}
