//! `reheat generate`: continue a text.

use std::io::{self, Read as _, Write as _};

use reheat_generate::{Flow, GenerateConfig, Generation, generate};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use serde_json::json;

use super::{sampling::SamplingArgs, source::ModelArg};
use crate::{
    device::DeviceChoice,
    fault::Fault,
    interrupt::Interrupt,
    output::{self, Format},
    text::TextStream,
};

/// Continue a text, token by token.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat generate \"Octopuses have three\"
  reheat generate --model ./Qwen2.5-0.5B --max-new-tokens 50 --temperature 0.8 --top-p 0.9 --seed 7 \"Once upon a time\"
  echo \"Octopuses have three\" | reheat generate --json -

With --json: {\"text\", \"ids\", \"finish_reason\", \"logprobs\"}; log-probabilities in nats under the model itself.")]
pub(crate) struct GenerateArgs {
    /// The text to continue; `-` reads it from stdin.
    #[arg(allow_hyphen_values = true)]
    prompt: String,

    #[command(flatten)]
    model: ModelArg,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let prompt = match args.prompt.as_str() {
        "-" => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::input("cannot read stdin as text").because(error))?;
            text.trim_end_matches('\n').to_owned()
        }
        text => text.to_owned(),
    };
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let model = source.model(&args.device.resolve()?.device)?;
    let ids = tokenizer.encode_with_special_tokens(&prompt)?.ids;
    let config = args.sampling.config(tokenizer.eos_ids());
    let interrupt = Interrupt::install()?;

    let mut out = output::stdout();
    if !args.format.json {
        out.write_all(prompt.as_bytes())?;
        out.flush()?;
    }
    let mut written = Ok(());
    let (text, generation) = stream_text(&model, &tokenizer, &ids, &config, args.sampling.stop(), &mut |piece| {
        if !args.format.json {
            written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        }
        if written.is_err() || interrupt.is_raised() { Flow::Stop } else { Flow::Continue }
    })?;
    written?;
    if args.format.json {
        drop(out);
        output::print_json(&json!({
            "text": text,
            "ids": generation.ids,
            "finish_reason": generation.finish_reason,
            "logprobs": generation.logprobs,
        }))?;
    } else {
        writeln!(out)?;
    }
    if interrupt.is_raised() { Err(Fault::interrupted("the text ends here").into()) } else { Ok(()) }
}

/// Generates and hands the text to `on_piece` as it comes: whole characters, up to the first of the strings `stop`.
pub(crate) fn stream_text(
    model: &Qwen2,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerateConfig,
    stop: &[String],
    on_piece: &mut dyn FnMut(&str) -> Flow,
) -> anyhow::Result<(String, Generation)> {
    let mut stream = TextStream::new(tokenizer, stop);
    let mut failed = None;
    let generation = generate(model, prompt, config, &mut |token| match stream.push(token.id) {
        Ok(piece) => match on_piece(&piece) {
            Flow::Continue if !stream.has_stopped() => Flow::Continue,
            _ => Flow::Stop,
        },
        Err(error) => {
            failed = Some(error);
            Flow::Stop
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let rest = stream.finish()?;
    if !rest.is_empty() {
        on_piece(&rest);
    }
    Ok((stream.into_text(), generation))
}
