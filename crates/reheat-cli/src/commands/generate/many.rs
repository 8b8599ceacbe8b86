//! Prompts in a batch: completions are told as they become complete.

use std::collections::BTreeMap;
use std::io::Write as _;

use console::style;
use reheat_generate::{EngineStats, FinishReason, Flow, GenerateError, Generation, rollout};

use super::{GenerateArgs, Prompt, Speaker, Told, tell_speed};
use crate::{fault::Fault, interrupt::Interrupt, output, text::TextStream};

/// Completes every prompt with one model; gives its name and what was computed.
pub(super) fn run(
    args: &GenerateArgs,
    speaker: &Speaker,
    prompts: &[Prompt],
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<(String, EngineStats)>> {
    let ids = prompts.iter().map(|prompt| prompt.ids(speaker)).collect::<anyhow::Result<Vec<_>>>()?;
    let config = speaker.config(args);
    let mut streams: BTreeMap<(usize, usize), TextStream> = BTreeMap::new();
    let mut failed = None;
    let rollout = rollout(&speaker.model, &ids, &config, args.batch_size as usize, &mut |prompt, sample, token| {
        let stream = streams
            .entry((prompt, sample))
            .or_insert_with(|| TextStream::new(&speaker.tokenizer, args.sampling.stop()));
        if let Err(error) = stream.push(token.id) {
            failed = Some(error);
        }
        if stream.has_stopped() || failed.is_some() || interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    })
    .map_err(|error| in_place(error, prompts))?;
    if let Some(error) = failed {
        return Err(error.into());
    }

    let name = speaker.source.name();
    let model = (!args.compare.is_empty()).then_some(name.as_str());
    let mut out = output::stdout();
    for (index, samples) in rollout.completions.iter().enumerate() {
        if !args.format.json {
            tell_prompt(&mut out, &prompts[index], model)?;
        }
        for (sample, generation) in samples.iter().enumerate() {
            let text = match streams.remove(&(index, sample)) {
                Some(mut stream) => {
                    stream.finish()?;
                    stream.into_text()
                }
                None => String::new(),
            };
            if args.format.json {
                let told = Told { prompt: Some(index), sample: Some(sample), model, text: &text, generation };
                serde_json::to_writer(&mut out, &told).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            } else {
                tell_completion(&mut out, &text, generation)?;
            }
        }
    }
    out.flush()?;
    drop(out);
    tell_speed(&rollout.stats, ids.len() * config.num_return_sequences);
    if interrupt.is_raised() {
        return Err(Fault::interrupted("the texts end here").into());
    }
    Ok(vec![(name, rollout.stats)])
}

/// An error that names the prompt's line.
fn in_place(error: GenerateError, prompts: &[Prompt]) -> anyhow::Error {
    match error {
        GenerateError::InPrompt { index, source } => {
            Fault::input(format!("{} cannot be continued", prompts[index].place())).because(*source).into()
        }
        other => other.into(),
    }
}

fn tell_prompt(out: &mut impl std::io::Write, prompt: &Prompt, model: Option<&str>) -> std::io::Result<()> {
    let title = console::truncate_str(&output::visible(&prompt.title()), 100, "…").into_owned();
    let model = model.map(|model| format!(" {}", style(format!("[{model}]")).yellow())).unwrap_or_default();
    writeln!(out, "{}{model}", style(title.replace('␣', " ")).cyan().bold())
}

fn tell_completion(out: &mut impl std::io::Write, text: &str, generation: &Generation) -> std::io::Result<()> {
    let mark = if generation.finish_reason == FinishReason::Length { " …" } else { "" };
    writeln!(out, "  {}{}", text.trim().replace('\n', "\n  "), style(mark).dim())
}
