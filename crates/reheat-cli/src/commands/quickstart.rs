//! `reheat quickstart`: the bundled base model before and after fine-tuning.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use console::style;
use reheat_chat::ChatTemplate;
use reheat_data::{Dataset, DatasetSpec, PrepareOptions, prepare_sft};
use reheat_generate::{Flow, GenerateConfig};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use reheat_train::{JsonLines, RunDir, SaveStrategy, Sft, SftConfig, Trainer, TrainingConfig};
use serde_json::json;

use super::{chat::Chat, source::template_tokens};
use crate::{
    curves,
    demo::{self, HeldOut},
    fault::Fault,
    interrupt::Interrupt,
    output::{self, Format},
    plot,
    progress::TrainingProgress,
    training::Companions,
};

/// Train the bundled tiny model and see the difference, offline.
///
/// The base model has read plain sentences about animals. It continues text, and a question is text to it. After a few
/// passes over conversations it answers, also about animals that no conversation mentions.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat quickstart
  reheat quickstart --seed 7 --output-dir runs/quickstart
  reheat quickstart --json")]
pub(crate) struct QuickstartArgs {
    /// Seed of the order of the conversations.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// Folder for the model, metrics and plots.
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    output_dir: PathBuf,

    #[command(flatten)]
    format: Format,
}

/// Questions that are shown with both answers.
const SHOWN: usize = 5;
/// Longest answer in tokens.
const MAX_NEW_TOKENS: usize = 40;

/// The answers to all held-out questions.
struct Exam {
    answers: Vec<String>,
    score: f64,
}

pub(super) fn run(args: &QuickstartArgs) -> anyhow::Result<()> {
    let out = &args.output_dir;
    let base_dir = out.join("base");
    let cannot = |error| Fault::failed(format!("cannot write into `{}`", out.display())).because(error);
    demo::write_base(&base_dir).map_err(cannot)?;
    let dataset = out.join("train.jsonl");
    fs::write(&dataset, demo::TRAIN).map_err(cannot)?;

    let device = Device::flex();
    let mut tokenizer = Tokenizer::from_dir(&base_dir)?;
    let template = ChatTemplate::chatml(&template_tokens(&tokenizer));
    let questions = demo::held_out();

    heading("1. The base model has read about animals. Asked a question, it rambles on:");
    let before = exam(Qwen2::load(&base_dir, &device)?, &tokenizer, &template, &questions)?;
    show(&questions, &[("base", &before)]);

    heading("2. Training on conversations about other animals:");
    tokenizer.set_eos_token("<|im_end|>")?;
    let interrupt = Interrupt::install()?;
    let mut shown =
        if args.format.json { TrainingProgress::silent(interrupt) } else { TrainingProgress::new(interrupt) };
    let tuned = train(
        args,
        &base_dir,
        &dataset,
        &Companions { tokenizer: tokenizer.clone(), template: Some(template.clone()) },
        &mut shown,
    )?;
    eprintln!("loss by step");
    eprintln!("{}", plot::curve(&shown.curves.training("loss"), "step", output::stderr_width()));

    heading("3. The same questions, about animals that no conversation mentions:");
    let after = exam(tuned, &tokenizer, &template, &questions)?;
    show(&questions, &[("base", &before), ("tuned", &after)]);

    let count = questions.len();
    if args.format.json {
        output::print_json(&json!({
            "score_before": before.score, "score_after": after.score, "num_questions": count,
            "output_dir": out, "plot": out.join("plots/loss.svg"),
        }))?;
    } else {
        println!(
            "score on {count} held-out questions: {:.0}% before, {:.0}% after",
            100.0 * before.score,
            100.0 * after.score
        );
        println!("model: {0}   plots: {0}/plots/*.svg   metrics: {0}/metrics.jsonl", out.display());
        println!("talk with it:            reheat chat --model {}", out.display());
        println!(
            "the same, step by step:  reheat sft --model {0}/base --dataset {0}/train.jsonl --learning-rate 3e-4 --num-train-epochs 6",
            out.display()
        );
        println!(
            "with a real model:       reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --output-dir runs/qwen"
        );
    }
    Ok(())
}

fn heading(text: &str) {
    eprintln!("\n{}", style(text).bold().for_stderr());
}

/// Fine-tunes the base model; the settings fit a model this small.
fn train(
    args: &QuickstartArgs,
    base_dir: &Path,
    dataset: &Path,
    companions: &Companions,
    shown: &mut TrainingProgress,
) -> anyhow::Result<Qwen2> {
    let mut model = Qwen2::load(base_dir, &Device::flex())?;
    if let Some(eos) = companions.tokenizer.special_tokens().eos() {
        model.config_mut().set("eos_token_id", eos.id.into());
    }
    let options = PrepareOptions { assistant_only_loss: true, ..PrepareOptions::default() };
    let dataset = Dataset::open(&DatasetSpec::new(dataset.to_string_lossy()).into())?;
    let prepared = prepare_sft(&dataset, &companions.tokenizer, companions.template.as_ref(), &options, &mut |_| {})?;
    let mut config = TrainingConfig::default();
    config.learning_rate = 3e-4;
    config.num_train_epochs = 6.0;
    config.per_device_train_batch_size = 16;
    config.gradient_checkpointing = false;
    config.logging_steps = 5;
    config.save_strategy = SaveStrategy::No;
    config.seed = args.seed;
    let files = companions.save(&args.output_dir)?;
    let method = Sft::new(prepared.examples, SftConfig::default());
    let mut trainer = Trainer::new(model, method, config)?
        .with_run_dir(RunDir::create(&args.output_dir, files)?)
        .with_logger(JsonLines::new(args.output_dir.join("metrics.jsonl")));
    let summary = trainer.train(shown);
    shown.finish();
    if summary?.interrupted {
        return Err(Fault::interrupted("the quickstart ends here").into());
    }
    curves::draw_one(&shown.curves, &args.output_dir.join("plots"))?;
    Ok(trainer.into_model())
}

/// Asks every question in a chat of its own.
fn exam(model: Qwen2, tokenizer: &Tokenizer, template: &ChatTemplate, questions: &[HeldOut]) -> anyhow::Result<Exam> {
    let config = GenerateConfig {
        max_new_tokens: MAX_NEW_TOKENS,
        temperature: 0.0,
        eos_token_ids: tokenizer.eos_ids().to_vec(),
        ..GenerateConfig::default()
    };
    let mut chat = Chat::new(model, tokenizer.clone(), template.clone(), config);
    let answers = questions
        .iter()
        .map(|question| {
            chat.reset(None);
            chat.say(question.question(), &mut |_| Flow::Continue)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let right = questions.iter().zip(&answers).filter(|(question, answer)| question.is_right(answer)).count();
    Ok(Exam { score: right as f64 / questions.len() as f64, answers })
}

/// A few questions with the answers of each model.
fn show(questions: &[HeldOut], exams: &[(&str, &Exam)]) {
    for (index, question) in questions.iter().enumerate().take(SHOWN) {
        eprintln!("  {}", style(question.question()).cyan().for_stderr());
        for (name, exam) in exams {
            let answer = exam.answers[index].split_whitespace().collect::<Vec<_>>().join(" ");
            let mark = if question.is_right(&answer) { style("✓").green() } else { style("✗").red() };
            eprintln!("    {name:<6}{} {}", mark.for_stderr(), console::truncate_str(&answer, 100, "…"));
        }
    }
}
