//! `reheat plan`: whether a model fits, and how, before anything is downloaded or loaded.

use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use console::style;
use reheat_kernels::{FourBitConfig, total_memory_bytes};
use reheat_model::{LoadOptions, LoraConfig, Precision, Quantization, Qwen2, Qwen2Config, TargetModules};
use reheat_train::{Checkpointing, MemoryOf, MemoryPlan, OptimizerNames, PlannedRun, Trained, TrainingDtype};
use serde_json::{Value, json};

use crate::{
    fault::Fault,
    output::{self, Format},
};

/// Say how much memory training takes, by component, and the largest batch that fits.
///
/// `config.json` is enough; the shapes of the Qwen2.5 models are known by name, offline.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat plan --model Qwen/Qwen2.5-1.5B --device 16GB
  reheat plan --model ./Qwen2.5-0.5B --method lora --batch-size 4 --seq-len 2048
  reheat plan --model Qwen/Qwen2.5-7B --device h100 --json")]
pub(crate) struct PlanArgs {
    /// Model folder, or the name of a Qwen2.5 model.
    #[arg(short, long, value_name = "DIR|NAME")]
    model: String,

    /// Whose memory: cpu, a size such as 16GB, or a card: t4, l4, a10g, rtx3090, rtx4090, a100, a100-80gb, h100, h200.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Target,

    /// What is trained; all of them when absent.
    #[arg(long, value_enum)]
    method: Option<Method>,

    /// Rows per forward pass.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch_size: u32,

    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    seq_len: u32,

    /// Rank of the adapters.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    lora_r: u32,

    /// Layers that get an adapter.
    #[arg(long, value_name = "LIST", num_args = 1.., value_delimiter = ',', default_value = "all-linear")]
    lora_target_modules: Vec<String>,

    /// Rows of the embedding that adapters train besides, one for each of `--new-tokens` in training.
    #[arg(long, value_name = "N", default_value_t = 0)]
    num_new_tokens: u32,

    /// Keep the activations of every block (`--no-gradient-checkpointing` in training).
    #[arg(long)]
    keep_activations: bool,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Every weight
    Full,
    /// Low-rank adapters
    Lora,
    /// Low-rank adapters on 4-bit weights
    Qlora,
}

/// Whose memory is asked about.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    name: String,
    memory_of: MemoryOf,
    /// `None` where it is this computer's.
    bytes: Option<u64>,
    /// Multiply-adds and adds per second in bf16 (f16 on Turing), dense, by the vendor's data sheet.
    peak_flops: Option<f64>,
}

/// Name, GiB, peak TFLOP/s.
const CARDS: [(&str, u64, f64); 9] = [
    ("t4", 16, 65.0),
    ("l4", 24, 121.0),
    ("a10g", 24, 70.0),
    ("rtx3090", 24, 71.0),
    ("rtx4090", 24, 165.0),
    ("a100", 40, 312.0),
    ("a100-80gb", 80, 312.0),
    ("h100", 80, 989.0),
    ("h200", 141, 989.0),
];

const GIB: u64 = 1 << 30;

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        if name == "cpu" {
            return Ok(Self { name, memory_of: MemoryOf::Cpu, bytes: None, peak_flops: None });
        }
        if let Some((_, gib, tflops)) = CARDS.iter().find(|(card, ..)| *card == name) {
            let (bytes, peak_flops) = (Some(gib * GIB), Some(tflops * 1e12));
            return Ok(Self { name, memory_of: MemoryOf::Accelerator, bytes, peak_flops });
        }
        let number = name.trim_end_matches("ib").trim_end_matches('b').strip_suffix('g').map(str::trim);
        let gib = number.and_then(|number| number.parse::<f64>().ok()).filter(|gib| *gib > 0.0 && *gib < 1e6);
        let cards: Vec<_> = CARDS.iter().map(|(card, ..)| *card).collect();
        let gib = gib.ok_or_else(|| format!("expected cpu, a size such as 16GB, or one of {}", cards.join(", ")))?;
        let bytes = Some((gib * GIB as f64) as u64);
        Ok(Self { name: text.to_owned(), memory_of: MemoryOf::Accelerator, bytes, peak_flops: None })
    }
}

/// One way to train.
struct Way {
    method: Method,
    name: &'static str,
    /// The settings of `reheat sft` that ask for it.
    settings: &'static str,
    run: PlannedRun,
}

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let model = shape(&args.model)?;
    let bytes = args.device.bytes.or_else(total_memory_bytes);
    let ways: Vec<Way> = ways(args, &model)?;
    let plans: Vec<(Way, MemoryPlan, Option<usize>)> = ways
        .into_iter()
        .map(|way| {
            let plan = MemoryPlan::new(&model, &way.run);
            let largest = bytes.map(|bytes| way.run.largest_batch(&model, bytes));
            (way, plan, largest)
        })
        .collect();
    if args.format.json {
        return output::print_json(&to_json(args, &model, bytes, &plans));
    }
    Ok(print(args, &model, bytes, &plans)?)
}

/// The shape in a folder, or of a model that is known by name.
fn shape(model: &str) -> anyhow::Result<Qwen2Config> {
    let dir = Path::new(model);
    if dir.is_dir() {
        let dir = if Qwen2::is_adapter(dir) { Qwen2::adapter_base(dir)? } else { dir.to_owned() };
        return Ok(Qwen2Config::from_dir(&dir)?);
    }
    let known: Vec<_> = Qwen2Config::released_names().collect();
    Qwen2Config::released(model).ok_or_else(|| {
        Fault::input(format!("there is no model folder `{model}`, and no model of that name is known"))
            .hint(format!("give a folder with config.json, or one of {}", known.join(", ")))
            .into()
    })
}

fn ways(args: &PlanArgs, model: &Qwen2Config) -> anyhow::Result<Vec<Way>> {
    let lora = LoraConfig {
        r: args.lora_r as usize,
        target_modules: TargetModules::parse(&args.lora_target_modules),
        // Which rows they are does not matter here.
        trainable_token_indices: (0..args.num_new_tokens).collect(),
        ..LoraConfig::default()
    };
    lora.check(model)?;
    let run = |trained| PlannedRun {
        trained,
        optim: OptimizerNames::default(),
        optim_dtype: TrainingDtype::Float32,
        optimizer_in_backward: false,
        checkpointing: if args.keep_activations { Checkpointing::Keep } else { Checkpointing::Recompute },
        memory_of: args.device.memory_of,
        batch_size: args.batch_size as usize,
        seq_len: args.seq_len as usize,
    };
    let adapters = |precision, quantization| {
        let base = LoadOptions { precision, quantization };
        run(Trained::Adapters { config: lora.clone(), base })
    };
    let four_bit = Quantization::FourBit(FourBitConfig { nested_scales: true, ..FourBitConfig::default() });
    let full = run(Trained::Full);
    let eight_bit = PlannedRun { optim: OptimizerNames::Adamw8bit, ..full.clone() };
    let way = |method, name, settings, run| Way { method, name, settings, run };
    let all = vec![
        way(Method::Full, "full", "", full.clone()),
        way(
            Method::Full,
            "full, fused step",
            "--optimizer-in-backward",
            PlannedRun { optimizer_in_backward: true, ..full.clone() },
        ),
        way(
            Method::Full,
            "full, bf16 moments",
            "--optim-dtype bfloat16",
            PlannedRun { optim_dtype: TrainingDtype::Bfloat16, ..full.clone() },
        ),
        way(Method::Full, "full, 8-bit moments", "--optim adamw_8bit", eight_bit.clone()),
        way(
            Method::Full,
            "full, 8-bit, fused",
            "--optim adamw_8bit --optimizer-in-backward",
            PlannedRun { optimizer_in_backward: true, ..eight_bit },
        ),
        way(Method::Lora, "LoRA", "--use-peft", adapters(Precision::Float32, None)),
        way(Method::Lora, "LoRA, bf16 base", "--use-peft --dtype bfloat16", adapters(Precision::Bfloat16, None)),
        way(
            Method::Qlora,
            "QLoRA",
            "--use-peft --load-in-4bit --use-bnb-nested-quant --dtype bfloat16",
            adapters(Precision::Bfloat16, Some(four_bit)),
        ),
    ];
    Ok(all.into_iter().filter(|way| args.method.is_none_or(|method| method == way.method)).collect())
}

/// Floating-point operations of a trained token: two for each parameter forward, two for the gradient of inputs, two for
/// that of weights where they are trained, and a forward pass more where blocks run again. Attention is left out.
fn flops_per_token(model: &Qwen2Config, run: &PlannedRun) -> f64 {
    let passes = match run.trained {
        Trained::Full => 3.0,
        Trained::Adapters { .. } => 2.0,
    };
    let again = if run.checkpointing == Checkpointing::Recompute { 1.0 } else { 0.0 };
    2.0 * (passes + again) * model.num_parameters() as f64
}

fn to_json(
    args: &PlanArgs,
    model: &Qwen2Config,
    bytes: Option<u64>,
    plans: &[(Way, MemoryPlan, Option<usize>)],
) -> Value {
    let plans: Vec<Value> = plans
        .iter()
        .map(|(way, plan, largest)| {
            json!({
                "method": way.name,
                "settings": way.settings,
                "components": plan,
                "total_bytes": plan.total(),
                "fits": bytes.map(|bytes| plan.total() <= bytes),
                "largest_batch": largest,
                "tokens_per_second_limit": args.device.peak_flops.map(|peak| peak / flops_per_token(model, &way.run)),
            })
        })
        .collect();
    json!({
        "model": args.model,
        "num_parameters": model.num_parameters(),
        "device": { "name": args.device.name, "memory_bytes": bytes, "peak_flops": args.device.peak_flops },
        "batch_size": args.batch_size,
        "seq_len": args.seq_len,
        "plans": plans,
    })
}

fn print(
    args: &PlanArgs,
    model: &Qwen2Config,
    bytes: Option<u64>,
    plans: &[(Way, MemoryPlan, Option<usize>)],
) -> std::io::Result<()> {
    let mut out = output::stdout();
    let gib = |bytes: u64| format!("{:.2}", bytes as f64 / GIB as f64);
    let available = bytes.map(|bytes| format!(", {} GiB", gib(bytes))).unwrap_or_default();
    let title = format!(
        "{}, {:.2} billion parameters, on {}{available}: {} × {} tokens a pass, in GiB",
        args.model,
        model.num_parameters() as f64 / 1e9,
        args.device.name,
        args.batch_size,
        args.seq_len
    );
    writeln!(out, "{}\n", style(title).bold())?;
    writeln!(
        out,
        "  {:<19} {:>8} {:>9} {:>8} {:>11} {:>7} {:>9} {:>8}  largest batch",
        "", "weights", "gradients", "moments", "activations", "logits", "overhead", "total"
    )?;
    for (way, plan, largest) in plans {
        let total = format!("{:>8}", gib(plan.total()));
        let fits = bytes.is_none_or(|bytes| plan.total() <= bytes);
        let total = if fits { style(total).green() } else { style(total).red() };
        let largest = match largest {
            Some(0) => "does not fit".to_owned(),
            Some(largest) => largest.to_string(),
            None => String::new(),
        };
        writeln!(
            out,
            "  {:<19} {:>8} {:>9} {:>8} {:>11} {:>7} {:>9} {total}  {largest}",
            way.name,
            gib(plan.weights),
            gib(plan.gradients),
            gib(plan.moments),
            gib(plan.activations),
            gib(plan.logits),
            gib(plan.overhead),
        )?;
    }
    writeln!(out)?;
    for (way, plan, _) in plans {
        if !way.settings.is_empty() && bytes.is_none_or(|bytes| plan.total() <= bytes) {
            writeln!(out, "  {:<19} reheat sft {}", way.name, way.settings)?;
        }
    }
    if let Some(peak) = args.device.peak_flops {
        writeln!(out, "\n  tokens per second at the card's peak, which no program reaches:")?;
        for (way, ..) in plans {
            writeln!(out, "  {:<19} {:.0}", way.name, peak / flops_per_token(model, &way.run))?;
        }
    }
    if args.device.memory_of == MemoryOf::Accelerator {
        writeln!(out, "\n  On a card this is an estimate: operations are less fused there than on the CPU.")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_sizes_cards_or_this_computer() {
        let bytes = |text: &str| text.parse::<Target>().map(|target| target.bytes);
        for text in ["16GB", "16 gb", "16gib", "16G", "T4"] {
            assert_eq!(bytes(text), Ok(Some(16 * GIB)), "{text}");
        }
        assert_eq!(bytes("cpu"), Ok(None));
        assert_eq!(bytes("7.5GB"), Ok(Some(15 * GIB / 2)));
        for text in ["", "GB", "-3GB", "nanGB", "tpu"] {
            assert!(bytes(text).unwrap_err().starts_with("expected cpu, a size such as 16GB"), "{text}");
        }
    }
}
