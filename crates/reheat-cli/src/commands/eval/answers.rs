//! `reheat eval --judge`: the model answers every prompt, and its answers are judged.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use reheat_data::{Prepared, Prompt, prepare_prompts};
use reheat_generate::{FinishReason, Flow, GenerateConfig, Generation, rollout};
use reheat_model::Qwen2;
use reheat_tokenizer::{DecodeMode, Tokenizer};
use reheat_train::{
    Reward, RewardContext, RewardInput, RewardSpec, build_rewards, check_reward_columns, score_completions,
};
use serde_json::{Map, Value, json};

use super::EvalArgs;
use crate::{
    commands::choose_eos,
    fault::Fault,
    output, progress, report,
    settings::{DatasetSettings, PrepareSettings},
};

/// Answers instead of losses.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Answers")]
pub(super) struct AnswerArgs {
    /// Let the model answer every prompt and judge the answers; may name several. `accuracy:answer` compares the last
    /// number with the one after `####` in the column `answer`, as GSM8K has it.
    #[arg(long, value_name = "REWARD", num_args = 1..)]
    judge: Vec<RewardSpec>,

    /// Longest answer in tokens.
    #[arg(long, value_name = "N", default_value_t = 512, requires = "judge")]
    max_new_tokens: usize,

    /// File for the answers with their scores, as JSON lines.
    #[arg(long, value_name = "FILE", requires = "judge")]
    answers: Option<PathBuf>,
}

impl AnswerArgs {
    pub(super) fn is_asked_for(&self) -> bool {
        !self.judge.is_empty()
    }
}

/// What the answers to all prompts came to.
struct Judged {
    texts: Vec<String>,
    /// Of each reward its name and its score of each answer; `None` where it does not apply.
    scores: Vec<(String, Vec<Option<f64>>)>,
    /// Answers that were cut at the longest length.
    truncated: usize,
}

pub(super) fn run(args: &EvalArgs, dataset: &DatasetSettings, data: &PrepareSettings) -> anyhow::Result<()> {
    let context = RewardContext::new(|line| eprintln!("{line}"));
    let mut rewards = build_rewards(&args.answers.judge, &context)?;
    let source = args.model.open()?;
    let mut tokenizer = source.tokenizer()?;
    let template = source.training_template(args.chat_template.as_deref(), &tokenizer)?;
    choose_eos(None, template.as_ref(), &mut tokenizer)?;
    let bar = progress::rows_bar("tokenising");
    let rows = &mut |rows| bar.set_position(rows);
    let prepared = prepare_prompts(&dataset.open()?, &tokenizer, template.as_ref(), &data.options(None)?, rows);
    bar.finish_and_clear();
    let Prepared { examples: prompts, report, .. } = prepared?;
    report::print(&report, None);
    for reward in &rewards {
        check_reward_columns(&**reward, prompts.iter().map(|prompt| &prompt.columns))?;
    }

    let model = source.model(&args.device.resolve()?.device)?;
    let answers = answer(args, &model, &tokenizer, &prompts)?;
    let judged = judge(&mut rewards, &tokenizer, &prompts, &answers)?;
    if let Some(path) = &args.answers.answers {
        write(path, &prompts, &judged)
            .map_err(|error| Fault::failed(format!("cannot write `{}`", path.display())).because(error))?;
    }
    tell(args, &judged)
}

/// The most likely answer to each prompt.
fn answer(
    args: &EvalArgs,
    model: &Qwen2,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
) -> anyhow::Result<Vec<Generation>> {
    let config = GenerateConfig {
        max_new_tokens: args.answers.max_new_tokens,
        temperature: 0.0,
        eos_token_ids: tokenizer.eos_ids().to_vec(),
        ..GenerateConfig::default()
    };
    let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.prompt_ids.clone()).collect();
    let bar = progress::count_bar("answering", ids.len() as u64);
    let rollout = rollout(model, &ids, &config, args.batch_size as usize, &mut |prompt, _, _| {
        // Prompts are begun in their order.
        bar.set_position(bar.position().max(prompt as u64));
        Flow::Continue
    });
    bar.finish_and_clear();
    Ok(rollout?.completions.into_iter().flatten().collect())
}

fn judge(
    rewards: &mut [Box<dyn Reward>],
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    answers: &[Generation],
) -> anyhow::Result<Judged> {
    let text = |answer: &Generation| tokenizer.decode(&answer.ids, DecodeMode::SkipSpecialTokens);
    let texts = answers.iter().map(text).collect::<Result<Vec<String>, _>>()?;
    let is_cut = |answer: &Generation| answer.finish_reason == FinishReason::Length;
    let inputs: Vec<RewardInput> = prompts
        .iter()
        .zip(answers.iter().zip(&texts))
        .map(|(prompt, (answer, text))| {
            RewardInput::new(&prompt.prompt, text, &answer.ids, &prompt.columns).with_truncated(is_cut(answer))
        })
        .collect();
    let mut scores = Vec::new();
    for reward in rewards {
        let name = reward.name().to_owned();
        scores.push((name, score_completions(&mut **reward, &inputs)?));
    }
    let truncated = answers.iter().filter(|answer| is_cut(answer)).count();
    Ok(Judged { texts, scores, truncated })
}

/// Mean over the answers that were judged, and how many those are.
fn mean(scores: &[Option<f64>]) -> (f64, usize) {
    let count = scores.iter().flatten().count();
    (scores.iter().flatten().sum::<f64>() / count.max(1) as f64, count)
}

fn tell(args: &EvalArgs, judged: &Judged) -> anyhow::Result<()> {
    let num_prompts = judged.texts.len();
    if args.format.json {
        let mut numbers = Map::new();
        numbers.extend(judged.scores.iter().map(|(name, scores)| (name.clone(), json!(mean(scores).0))));
        numbers.insert("num_prompts".into(), num_prompts.into());
        numbers.insert("num_truncated".into(), judged.truncated.into());
        return output::print_json(&numbers);
    }
    for (name, scores) in &judged.scores {
        let (mean, count) = mean(scores);
        println!("{name}  {mean:.4} over {}", report::counted(count as u64, "answer"));
    }
    if judged.truncated > 0 {
        let cut = report::counted(judged.truncated as u64, "answer");
        eprintln!(
            "{cut} of {num_prompts} did not end within {} tokens; --max-new-tokens allows more",
            args.answers.max_new_tokens
        );
    }
    Ok(())
}

/// A line for each prompt: `{"prompt", "answer", "scores": {…}}`.
fn write(path: &Path, prompts: &[Prompt], judged: &Judged) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (index, (prompt, text)) in prompts.iter().zip(&judged.texts).enumerate() {
        let scores: Map<String, Value> =
            judged.scores.iter().map(|(name, scores)| (name.clone(), json!(scores[index]))).collect();
        let line = json!({ "prompt": prompt.prompt, "answer": text, "scores": scores });
        writeln!(file, "{line}")?;
    }
    file.flush()
}
