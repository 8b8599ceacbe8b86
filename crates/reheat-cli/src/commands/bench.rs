//! `reheat bench`: how fast this machine trains a model, and in how much memory.

use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reheat_data::Sequence;
use reheat_kernels::{FourBitConfig, peak_memory_bytes};
use reheat_model::{LoadOptions, LoraConfig, Precision, Quantization, Qwen2, TargetModules};
use reheat_train::{
    Callback, Control, LogRow, OptimizerNames, SaveStrategy, Sft, SftConfig, Trainer, TrainingConfig, TrainingDtype,
};
use serde_json::json;

use super::source::ModelArg;
use crate::{
    device::DeviceChoice,
    output::{self, Format},
};

/// Time real steps of training in this process, on rows of random tokens. Nothing is saved.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BenchCommand {
    Sft(SftArgs),
}

/// Steps of supervised fine-tuning.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat bench sft --seq-len 128 --steps 5
  reheat bench sft --model ./Qwen2.5-0.5B --seq-len 512 --steps 4 --json
  reheat bench sft --model ./Qwen2.5-0.5B --seq-len 512 --steps 4 --use-peft --lora-r 16 --json
  reheat bench sft --model ./Qwen2.5-0.5B --seq-len 512 --steps 4 --use-peft --load-in-4bit
  reheat bench sft --model ./Qwen2.5-0.5B --seq-len 512 --steps 4 --dtype float32 --gradient-checkpointing
  reheat bench sft --model ./Qwen2.5-0.5B --adamw-8bit --optimizer-in-backward --max-grad-norm 0")]
pub(crate) struct SftArgs {
    #[command(flatten)]
    model: ModelArg,

    /// Tokens of a row.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    seq_len: u32,

    /// Timed steps.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,

    /// Steps before the timed ones; the first ones get their memory from the system.
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,

    /// Rows of a step, in one forward pass.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,

    /// Type in which matrix products are taken.
    #[arg(long, value_enum, default_value_t = Dtype::Bfloat16)]
    dtype: Dtype,

    /// Type in which the optimizer keeps its moments.
    #[arg(long, value_enum, default_value_t = Dtype::Bfloat16)]
    optim_dtype: Dtype,

    /// AdamW's moments in 8 bits, but for the embedding's.
    #[arg(long)]
    adamw_8bit: bool,

    /// Train low-rank adapters of every dense layer instead of the whole model.
    #[arg(long)]
    use_peft: bool,

    /// Rank of the adapters.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    lora_r: u32,

    /// Hold the frozen dense layers in 4 bits, with scales in 8 bits.
    #[arg(long, requires = "use_peft")]
    load_in_4bit: bool,

    /// Run blocks again in the backward pass instead of keeping their activations.
    #[arg(long)]
    gradient_checkpointing: bool,

    /// Update each block as soon as its gradient is there, in full fine-tuning.
    #[arg(long, conflicts_with = "use_peft")]
    optimizer_in_backward: bool,

    /// Largest norm of the whole gradient; 0 for no limit, with which `--optimizer-in-backward` takes gradients once.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    max_grad_norm: f64,

    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    #[value(alias = "f32")]
    Float32,
    #[value(alias = "bf16")]
    Bfloat16,
}

impl From<Dtype> for TrainingDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Float32 => Self::Float32,
            Dtype::Bfloat16 => Self::Bfloat16,
        }
    }
}

pub(super) fn run(command: BenchCommand) -> anyhow::Result<()> {
    let BenchCommand::Sft(args) = command;
    let device = args.device.resolve()?;
    let source = args.model.open()?;
    let four_bit = FourBitConfig { nested_scales: true, ..FourBitConfig::default() };
    let options = LoadOptions {
        precision: match args.dtype {
            Dtype::Bfloat16 if args.use_peft => Precision::Bfloat16,
            _ => Precision::Float32,
        },
        quantization: args.load_in_4bit.then_some(Quantization::FourBit(four_bit)),
    };
    let model = source.model_with(&options, &device.device)?;
    let num_parameters = model.config().num_parameters();
    let model = if args.use_peft { with_adapters(model, args.lora_r, source.dir())? } else { model };

    let mut config = TrainingConfig::default();
    config.max_steps = i64::from(args.warmup) + i64::from(args.steps);
    config.per_device_train_batch_size = args.batch_size as usize;
    config.gradient_checkpointing = args.gradient_checkpointing;
    if args.adamw_8bit {
        config.optim = OptimizerNames::Adamw8bit;
    }
    config.optimizer_in_backward = args.optimizer_in_backward;
    config.max_grad_norm = args.max_grad_norm;
    config.dtype = args.dtype.into();
    config.optim_dtype = args.optim_dtype.into();
    config.save_strategy = SaveStrategy::No;

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let vocab_size = model.config().vocab_size as u32;
    let rows = (0..config.max_steps as usize * config.per_device_train_batch_size)
        .map(|_| Sequence::new((0..args.seq_len).map(|_| rng.random_range(0..vocab_size)).collect()))
        .collect();
    let mut stopwatch =
        Stopwatch { warmup: args.warmup, seconds: Vec::new(), losses: Vec::new(), last: Instant::now() };
    Trainer::new(model, Sft::new(rows, SftConfig::default()), config)?.train(&mut stopwatch)?;

    let tokens_per_step = f64::from(args.batch_size) * f64::from(args.seq_len);
    let tokens_per_second = tokens_per_step * stopwatch.seconds.len() as f64 / stopwatch.seconds.iter().sum::<f64>();
    let fastest = stopwatch.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let peak_memory_bytes = peak_memory_bytes();
    if args.format.json {
        return output::print_json(&json!({
            "tokens_per_second": tokens_per_second,
            "tokens_per_second_of_the_fastest_step": tokens_per_step / fastest,
            "peak_memory_bytes": peak_memory_bytes,
            "step_seconds": stopwatch.seconds,
            "losses": stopwatch.losses,
            "num_parameters": num_parameters,
            "lora_r": args.use_peft.then_some(args.lora_r),
            "load_in_4bit": args.load_in_4bit,
            "seq_len": args.seq_len,
            "batch_size": args.batch_size,
            "device": device.name,
            "dtype": TrainingDtype::from(args.dtype),
            "optim_dtype": TrainingDtype::from(args.optim_dtype),
            "adamw_8bit": args.adamw_8bit,
            "gradient_checkpointing": args.gradient_checkpointing,
            "optimizer_in_backward": args.optimizer_in_backward,
            "max_grad_norm": args.max_grad_norm,
        }));
    }
    println!("{tokens_per_second:.1} tokens per second, {:.2} s for the fastest of {} steps", fastest, args.steps);
    if let Some(bytes) = peak_memory_bytes {
        println!("{:.2} GB of memory at most", bytes as f64 / 1e9);
    }
    Ok(())
}

/// As TRL's `--use_peft --lora_target_modules all-linear`.
fn with_adapters(model: Qwen2, rank: u32, base_model: &Path) -> anyhow::Result<Qwen2> {
    let config = LoraConfig {
        r: rank as usize,
        lora_alpha: 2.0 * f64::from(rank),
        lora_dropout: 0.05,
        target_modules: TargetModules::parse(&["all-linear".to_owned()]),
        ..LoraConfig::default()
    };
    Ok(model.with_lora(config, &base_model.to_string_lossy(), 0)?)
}

/// Notes the time of every step but the first ones.
struct Stopwatch {
    warmup: u32,
    seconds: Vec<f64>,
    losses: Vec<f64>,
    last: Instant,
}

impl Callback for Stopwatch {
    fn on_step(&mut self, row: &LogRow) -> Control {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.losses.push(row.loss);
        if row.step > u64::from(self.warmup) {
            self.seconds.push(seconds);
        }
        Control::Continue
    }
}
