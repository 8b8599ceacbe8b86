//! `reheat doctor`: does this machine compute what it should?

use std::io::Write as _;

use burn::tensor::DType;
use reheat_kernels::{KernelCheck, bf16_instructions, check_kernels};
use serde_json::json;

use crate::{
    device::DeviceChoice,
    fault::Fault,
    kernels::KernelChoice,
    output::{self, Format},
};

/// Compare every kernel with its plain definition on a device, and say how fast both are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat doctor
  reheat doctor --device cpu --json
  reheat doctor --device wgpu:0 --kernels reference")]
pub(crate) struct DoctorArgs {
    /// Where to compute: auto, cpu, cuda:0, wgpu:0 …
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Fused kernels, or the plain definitions: with these the device itself is compared with the CPU.
    #[arg(long, value_enum, default_value_t)]
    kernels: KernelChoice,

    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    args.kernels.apply();
    let device = args.device.resolve()?;
    eprintln!("device {}: {}", device.name, device.reason);
    for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::I8, "int8")] {
        if !device.device.supports_dtype(dtype) {
            eprintln!("note: `{}` has no {name}: what needs it is left out", device.name);
        }
    }
    let checks = check_kernels(&device.device);
    let bf16 = bf16_instructions();
    if args.format.json {
        let kernels: Vec<_> = checks.iter().map(to_json).collect();
        output::print_json(&json!({ "device": device.name, "cpu_bf16_instructions": bf16, "kernels": kernels }))?;
    } else {
        let mut out = output::stdout();
        writeln!(out, "{:<36} {:>9} {:>9} {:>10} {:>10}  ", "kernel", "error", "allowed", "time", "definition")?;
        for check in &checks {
            writeln!(
                out,
                "{:<36} {:>9.1e} {:>9.1e} {:>7.2} ms {:>7.2} ms  {}",
                check.name,
                check.error,
                check.tolerance,
                check.seconds * 1e3,
                check.definition_seconds * 1e3,
                if check.passed() { "ok" } else { "WRONG" }
            )?;
        }
        let how = if bf16 { "instructions of the CPU" } else { "float32, after rounding: this CPU lacks AVX512-BF16" };
        writeln!(out, "products in bf16 on the CPU: {how}")?;
        out.flush()?;
    }
    let wrong: Vec<_> = checks.iter().filter(|check| !check.passed()).map(|check| check.name).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let fault = Fault::failed(format!("`{}` computes something else in: {}", device.name, wrong.join("; ")));
    Err(fault.hint("--device cpu trains without this device").into())
}

fn to_json(check: &KernelCheck) -> serde_json::Value {
    json!({
        "name": check.name,
        "error": check.error,
        "tolerance": check.tolerance,
        "seconds": check.seconds,
        "definition_seconds": check.definition_seconds,
        "passed": check.passed(),
    })
}
