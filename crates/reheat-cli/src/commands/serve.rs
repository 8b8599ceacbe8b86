//! `reheat serve`: a model behind OpenAI's HTTP interface.

use std::net::IpAddr;
use std::path::PathBuf;

use reheat_generate::EngineConfig;

use super::source::{ModelArg, PrecisionArg};
use crate::{
    device::DeviceChoice,
    fault::Fault,
    interrupt::Interrupt,
    serve::{self, Options},
};

/// Serve a model over HTTP, as OpenAI does: /v1/chat/completions, /v1/completions and /v1/models.
///
/// Many requests share each forward pass. Without an API key only this machine is served; with one, in the variable
/// REHEAT_API_KEY or a file, others too. Ctrl-C lets answers under way end.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat serve --model runs/sft
  reheat serve --model Qwen/Qwen2.5-0.5B-Instruct --port 9000 --max-batch-size 32
  REHEAT_API_KEY=secret reheat serve --model runs/sft --host 0.0.0.0

Then, from Python:
  OpenAI(base_url=\"http://127.0.0.1:8000/v1\", api_key=\"none\").chat.completions.create(model=\"sft\", messages=[…])

The address is printed on stdout when requests are taken.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    model: ModelArg,

    /// The model's name in requests; the last part of --model by default.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,

    /// Address to listen at. One that other machines reach needs an API key.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,

    /// Port to listen at; 0 for any free one.
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,

    /// File with the key that clients send as bearer token; REHEAT_API_KEY otherwise.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Most completions at a time.
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_batch_size)]
    max_batch_size: usize,

    /// Tokens of all completions at a time, prompts included; a request that needs more is refused.
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().cache_tokens)]
    cache_tokens: usize,

    /// Requests under way or waiting; one more is answered with status 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_queue: usize,

    /// Longest answer in tokens where a request does not say.
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: usize,

    /// Seed of the first request without one; each further one has the next.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let api_key = args.api_key()?;
    if api_key.is_none() && !args.host.is_loopback() {
        return Err(Fault::input(format!("{} can be reached by others, and there is no API key", args.host))
            .hint("set REHEAT_API_KEY or give --api-key-file; or leave --host out to serve this machine alone")
            .into());
    }
    let counts = [
        ("--max-batch-size", args.max_batch_size),
        ("--cache-tokens", args.cache_tokens),
        ("--max-queue", args.max_queue),
        ("--max-new-tokens", args.max_new_tokens),
    ];
    if let Some((flag, _)) = counts.iter().find(|(_, value)| *value == 0) {
        return Err(Fault::input(format!("{flag} is 0, expected 1 or more")).into());
    }
    let source = args.model.open()?;
    let tokenizer = source.tokenizer()?;
    let template = source.template(&tokenizer)?;
    if template.is_none() {
        eprintln!("note: the model has no chat template; there is /v1/completions alone");
    }
    let name = args.served_model_name.clone().unwrap_or_else(|| source.name());
    let device = args.device.resolve()?;
    let model = source.model_in(&device.device, args.precision.resolve(&source, &device)?)?;
    let options = Options {
        host: args.host,
        port: args.port,
        name: name.clone(),
        api_key,
        engine: EngineConfig {
            max_batch_size: args.max_batch_size,
            cache_tokens: args.cache_tokens,
            ..EngineConfig::default()
        },
        max_queue: args.max_queue,
        max_new_tokens: args.max_new_tokens,
        seed: args.seed,
    };
    let interrupt = Interrupt::install()?;
    serve::serve(model, tokenizer, template, options, &interrupt, |address| {
        eprintln!("`{name}` is served; Ctrl-C ends it");
        println!("http://{address}/v1");
    })?;
    eprintln!("stopped");
    Ok(())
}

impl ServeArgs {
    fn api_key(&self) -> anyhow::Result<Option<String>> {
        let key = match &self.api_key_file {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| Fault::input(format!("cannot read `{}`", path.display())).because(error))?,
            ),
            None => std::env::var("REHEAT_API_KEY").ok(),
        };
        match key.map(|key| key.trim().to_owned()) {
            Some(key) if key.is_empty() && self.api_key_file.is_some() => {
                Err(Fault::input("the file of --api-key-file is empty").into())
            }
            key => Ok(key.filter(|key| !key.is_empty())),
        }
    }
}
