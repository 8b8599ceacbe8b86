//! `reheat quickstart`: the bundled model before and after training.

mod exam; // the questions that score it
mod stage; // one training

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use console::style;
use reheat_chat::ChatTemplate;
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use serde_json::json;

use self::exam::{Exam, Standard, show};
use self::stage::{
    BATCH_SIZE, COMPLETIONS, DPO_EPOCHS, DPO_LEARNING_RATE, DPO_WEIGHTS, GRPO_LEARNING_RATE, GRPO_STEPS,
    MAX_COMPLETION_LENGTH, NUM_GENERATIONS, REWARDS, SFT_EPOCHS, SFT_LEARNING_RATE, Stage,
};
use super::source::template_tokens;
use crate::{
    demo::{self, HeldOut},
    fault::Fault,
    output::{self, Format},
    training::Companions,
};

/// Train the bundled tiny model and see the difference, offline.
///
/// The base model has read plain sentences about animals. It continues text, and a question is text to it. After a few
/// passes over conversations it answers, also about animals that no conversation mentions. With `--method dpo` it first
/// learns from a chatty assistant, and then from pairs of answers to say no more than was asked; with `--method grpo` it
/// learns the same from rewards for its own answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reheat quickstart
  reheat quickstart --method dpo
  reheat quickstart --method grpo
  reheat quickstart --seed 7 --output-dir runs/quickstart
  reheat quickstart --json")]
pub(crate) struct QuickstartArgs {
    /// What is shown: fine-tuning, or training on pairs or on rewards after it.
    #[arg(long, value_name = "METHOD", default_value = "sft")]
    method: QuickstartMethod,

    /// Seed of the order of the rows.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// Folder for the model, metrics and plots; runs/quickstart, or runs/quickstart-METHOD, when absent.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum QuickstartMethod {
    Sft,
    Dpo,
    Grpo,
}

impl QuickstartArgs {
    fn output_dir(&self) -> PathBuf {
        self.output_dir.clone().unwrap_or_else(|| {
            Path::new("runs").join(match self.method {
                QuickstartMethod::Sft => "quickstart",
                QuickstartMethod::Dpo => "quickstart-dpo",
                QuickstartMethod::Grpo => "quickstart-grpo",
            })
        })
    }
}

pub(super) fn run(args: &QuickstartArgs) -> anyhow::Result<()> {
    let out = args.output_dir();
    let base = out.join("base");
    let cannot = |error| Fault::failed(format!("cannot write into `{}`", out.display())).because(error);
    demo::write_base(&base).map_err(cannot)?;
    let mut tokenizer = Tokenizer::from_dir(&base)?;
    let template = ChatTemplate::chatml(&template_tokens(&tokenizer));
    let untuned = tokenizer.clone();
    tokenizer.set_eos_token("<|im_end|>")?;
    let course = Course {
        out: &out,
        base: &base,
        untuned,
        stage: Stage {
            companions: &Companions { tokenizer, template: Some(template.clone()) },
            seed: args.seed,
            quiet: args.format.json,
        },
        template,
        questions: demo::held_out(),
    };
    let result = match args.method {
        QuickstartMethod::Sft => course.sft(cannot)?,
        QuickstartMethod::Dpo => course.dpo(cannot)?,
        QuickstartMethod::Grpo => course.grpo(cannot)?,
    };
    course.tell(&result, args.format)
}

/// What a course came to.
struct Outcome {
    before: f64,
    after: f64,
    /// What was scored.
    scored: &'static str,
    /// Commands that do the same, step by step.
    steps: Vec<String>,
}

/// Exam, training, exam.
struct Course<'a> {
    out: &'a Path,
    base: &'a Path,
    /// The base model's own tokenizer.
    untuned: Tokenizer,
    stage: Stage<'a>,
    template: ChatTemplate,
    questions: Vec<HeldOut>,
}

impl Course<'_> {
    fn sft(&self, cannot: impl Fn(std::io::Error) -> Fault) -> anyhow::Result<Outcome> {
        let rows = self.out.join("train.jsonl");
        fs::write(&rows, demo::TRAIN).map_err(cannot)?;
        heading("1. The base model has read about animals. Asked a question, it rambles on:");
        let standard = Standard::Right;
        let base = Qwen2::load(self.base, &Device::flex())?;
        let before = Exam::of(base, &self.untuned, &self.template, &self.questions, standard)?;
        show(&self.questions, &[("base", &before)], standard);

        heading("2. Training on conversations about other animals:");
        let tuned = self.stage.sft(self.base, &rows, self.out)?;

        heading("3. The same questions, about animals that no conversation mentions:");
        let after = self.exam(tuned, standard)?;
        show(&self.questions, &[("base", &before), ("tuned", &after)], standard);
        let steps = vec![format!(
            "reheat sft --model {0}/base --dataset {0}/train.jsonl {1}",
            self.out.display(),
            sft_settings()
        )];
        Ok(Outcome { before: before.score, after: after.score, scored: "right answers", steps })
    }

    fn dpo(&self, cannot: impl Fn(std::io::Error) -> Fault) -> anyhow::Result<Outcome> {
        let rows = self.out.join("preferences.jsonl");
        fs::write(&rows, demo::PREFERENCES).map_err(&cannot)?;
        let (out, [sigmoid, sft]) = (self.out.display(), DPO_WEIGHTS);
        let step = format!(
            "reheat dpo --model {out}/sft --dataset {out}/preferences.jsonl --loss-type sigmoid sft --loss-weights {sigmoid} \
             {sft} --learning-rate {DPO_LEARNING_RATE} --num-train-epochs {DPO_EPOCHS} --per-device-train-batch-size \
             {BATCH_SIZE} --output-dir {out}-again"
        );
        let title = "2. Training on pairs of answers, of which the brief one is better:";
        self.trimmed(title, step, cannot, |chatty| self.stage.dpo(chatty, &rows, self.out))
    }

    fn grpo(&self, cannot: impl Fn(std::io::Error) -> Fault) -> anyhow::Result<Outcome> {
        let rows = self.out.join("questions.jsonl");
        fs::write(&rows, demo::QUESTIONS).map_err(&cannot)?;
        let (out, [right, brief]) = (self.out.display(), REWARDS);
        let step = format!(
            "reheat grpo --model {out}/sft --dataset {out}/questions.jsonl --reward {right} --reward '{brief}' \
             --num-generations {NUM_GENERATIONS} --max-completion-length {MAX_COMPLETION_LENGTH} \
             --learning-rate {GRPO_LEARNING_RATE} --max-steps {GRPO_STEPS} --per-device-train-batch-size {COMPLETIONS} \
             --output-dir {out}-again"
        );
        let title = "2. Training on its own answers, with a reward for the right word and one for a single sentence:";
        self.trimmed(title, step, cannot, |chatty| self.stage.grpo(chatty, &rows, self.out))
    }

    /// Fine-tunes on a chatty assistant, and then trains in another way to say no more than was asked.
    fn trimmed(
        &self,
        title: &str,
        step: String,
        cannot: impl Fn(std::io::Error) -> Fault,
        train: impl FnOnce(Qwen2) -> anyhow::Result<Qwen2>,
    ) -> anyhow::Result<Outcome> {
        let rows = self.out.join("chatty.jsonl");
        fs::write(&rows, demo::CHATTY).map_err(cannot)?;
        let standard = Standard::RightAndBrief;

        heading("1. Fine-tuning on an assistant that tells more than it was asked:");
        let chatty = self.stage.sft(self.base, &rows, &self.out.join("sft"))?;
        let before = self.exam(chatty.clone(), standard)?;
        show(&self.questions, &[("chatty", &before)], standard);

        heading(title);
        let tuned = train(chatty)?;

        heading("3. Held-out questions, about animals that no row mentions:");
        let after = self.exam(tuned, standard)?;
        show(&self.questions, &[("chatty", &before), ("tuned", &after)], standard);
        let out = self.out.display();
        let first = format!(
            "reheat sft --model {out}/base --dataset {out}/chatty.jsonl {} --output-dir {out}/sft",
            sft_settings()
        );
        let (before, after) = (before.score, after.score);
        Ok(Outcome { before, after, scored: "right answers of one sentence", steps: vec![first, step] })
    }

    fn exam(&self, model: Qwen2, standard: Standard) -> anyhow::Result<Exam> {
        Exam::of(model, &self.stage.companions.tokenizer, &self.template, &self.questions, standard)
    }

    fn tell(&self, result: &Outcome, format: Format) -> anyhow::Result<()> {
        let (out, count) = (self.out, self.questions.len());
        if format.json {
            return output::print_json(&json!({
                "score_before": result.before, "score_after": result.after, "num_questions": count,
                "output_dir": out, "plot": out.join("plots/loss.svg"),
            }));
        }
        println!(
            "{} to {count} held-out questions: {:.0}% before, {:.0}% after",
            result.scored,
            100.0 * result.before,
            100.0 * result.after
        );
        println!("model: {0}   plots: {0}/plots/*.svg   metrics: {0}/metrics.jsonl", out.display());
        println!("talk with it:            reheat chat --model {}", out.display());
        for (index, step) in result.steps.iter().enumerate() {
            println!("{:<25}{step}", if index == 0 { "the same, step by step:" } else { "" });
        }
        println!(
            "with a real model:       reheat sft --model ./Qwen2.5-0.5B --dataset train.jsonl --output-dir runs/qwen"
        );
        Ok(())
    }
}

fn sft_settings() -> String {
    format!(
        "--assistant-only-loss --learning-rate {SFT_LEARNING_RATE} --num-train-epochs {SFT_EPOCHS} \
         --per-device-train-batch-size {BATCH_SIZE}"
    )
}

fn heading(text: &str) {
    eprintln!("\n{}", style(text).bold().for_stderr());
}
