//! `cargo xtask bench compare`: two binaries of `reheat` in paired runs, so that a change is told from noise.
//!
//! One run of each makes a pair, and which goes first changes from pair to pair: a machine that becomes busier slows
//! both. Judged is the mean of the logarithms of the pairs' ratios, with Student's interval of 95%.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::machine::Machine;
use super::measured;
use crate::workspace;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  cp target/release/reheat /tmp/before
  (change something, cargo build --release)
  cargo xtask bench compare --baseline /tmp/before -- --seq-len 128 --steps 20
  cargo xtask bench compare --baseline /tmp/before -- --model ./Qwen2.5-0.5B --use-peft")]
pub(crate) struct CompareArgs {
    /// The binary from before the change
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    /// The binary after it; by default the one that `cargo build --release` leaves
    #[arg(long, value_name = "FILE")]
    current: Option<PathBuf>,
    /// Pairs of runs
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(2..=30))]
    pairs: u8,
    /// A slowdown that counts, in percent, beyond what noise explains
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    tolerance: f64,
    /// Print the JSON record instead of the table
    #[arg(long)]
    json: bool,
    /// Arguments of `reheat bench sft` in both
    #[arg(last = true)]
    bench_args: Vec<String>,
}

/// What one run printed.
#[derive(Deserialize, Clone, Copy)]
struct Run {
    tokens_per_second_of_the_fastest_step: f64,
    peak_memory_bytes: Option<f64>,
}

/// Current over baseline, and how sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ratio {
    mean: f64,
    low: f64,
    high: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Faster,
    Slower,
    NoDifference,
}

/// Measures, prints, and fails where the change made it slower.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let machine = Machine::here();
    let current = args.current.clone().unwrap_or_else(|| workspace::target_dir().join("release/reheat"));
    if args.current.is_none() {
        workspace::run(workspace::cargo().args(["build", "--release"]))?;
    }
    let mut pairs = Vec::new();
    for pair in 0..args.pairs {
        let [first, second] = if pair % 2 == 0 { [&args.baseline, &current] } else { [&current, &args.baseline] };
        let (first, second) = (bench(first, &args.bench_args)?, bench(second, &args.bench_args)?);
        pairs.push(if pair % 2 == 0 { (first, second) } else { (second, first) });
    }
    let speed = |run: &Run| run.tokens_per_second_of_the_fastest_step;
    let ratios: Vec<f64> = pairs.iter().map(|(before, after)| speed(after) / speed(before)).collect();
    let ratio = Ratio::of(&ratios);
    let verdict = ratio.verdict(args.tolerance / 100.0);
    let peak = |pick: fn(&(Run, Run)) -> Option<f64>| pairs.iter().filter_map(pick).fold(0.0, f64::max);
    let (memory_before, memory_after) = (peak(|pair| pair.0.peak_memory_bytes), peak(|pair| pair.1.peak_memory_bytes));

    if args.json {
        let record = json!({
            "benchmark": "compare", "machine": machine, "arguments": args.bench_args, "speed_ratios": ratios,
            "speed": ratio, "verdict": verdict,
            "peak_memory_bytes": { "baseline": memory_before, "current": memory_after },
        });
        println!("{}", serde_json::to_string_pretty(&record)?);
    } else {
        println!("{}\n", machine.line());
        println!("| pair | baseline, tokens/s | current, tokens/s | ratio |\n|---|---|---|---|");
        for (index, ((before, after), ratio)) in pairs.iter().zip(&ratios).enumerate() {
            println!("| {} | {:.1} | {:.1} | {ratio:.3} |", index + 1, speed(before), speed(after));
        }
        let Ratio { mean, low, high } = ratio;
        println!("\nspeed {mean:.3}× of the baseline, 95% between {low:.3} and {high:.3}: {}", verdict.text());
        println!("peak memory {:.2} GB, was {:.2} GB", memory_after / 1e9, memory_before / 1e9);
    }
    if verdict == Verdict::Slower {
        bail!("slower than the baseline by more than {}%, and more than noise explains", args.tolerance);
    }
    Ok(())
}

fn bench(binary: &Path, args: &[String]) -> anyhow::Result<Run> {
    let binary = fs::canonicalize(binary).with_context(|| format!("no binary at `{}`", binary.display()))?;
    let mut command = Command::new(binary);
    command.args(["bench", "sft", "--json"]).args(args);
    let measured = measured::run(&mut command)?;
    serde_json::from_str(&measured.stdout).context("`reheat bench sft --json` printed something else")
}

impl Ratio {
    /// Of at least two ratios.
    fn of(ratios: &[f64]) -> Self {
        let count = ratios.len() as f64;
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let mean = logs.iter().sum::<f64>() / count;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let margin = student(ratios.len() - 1) * (variance / count).sqrt();
        Self { mean: mean.exp(), low: (mean - margin).exp(), high: (mean + margin).exp() }
    }

    fn verdict(self, tolerance: f64) -> Verdict {
        if self.high < 1.0 - tolerance {
            Verdict::Slower
        } else if self.low > 1.0 + tolerance {
            Verdict::Faster
        } else {
            Verdict::NoDifference
        }
    }
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifference => "no difference that noise does not explain",
        }
    }
}

/// The 97.5% quantile of Student's t, by degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.2).
fn student(degrees: usize) -> f64 {
    const QUANTILES: [f64; 29] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
    ];
    QUANTILES[degrees.clamp(1, QUANTILES.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_loss_of_a_tenth_is_slower_and_its_inverse_faster() {
        let ratios = [0.90, 0.91, 0.89, 0.90];
        assert_eq!(Ratio::of(&ratios).verdict(0.01), Verdict::Slower);
        assert_eq!(Ratio::of(&ratios.map(|ratio| 1.0 / ratio)).verdict(0.01), Verdict::Faster);
    }

    #[test]
    fn a_loss_within_the_spread_is_no_difference() {
        assert_eq!(Ratio::of(&[0.8, 1.15, 0.9, 1.05]).verdict(0.01), Verdict::NoDifference);
    }

    /// Logarithms ±0.1: mean 0, deviation 0.1·√2, so the margin is 12.706 · 0.1.
    #[test]
    fn the_interval_of_two_pairs_is_worked_by_hand() {
        let ratio = Ratio::of(&[0.1_f64.exp(), (-0.1_f64).exp()]);
        assert!((ratio.mean - 1.0).abs() < 1e-12);
        assert!((ratio.high.ln() - 1.2706).abs() < 1e-9);
    }
}
