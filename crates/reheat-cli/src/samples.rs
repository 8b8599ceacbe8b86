//! Answers to fixed prompts while a model trains.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use console::style;
use reheat_chat::ChatTemplate;
use reheat_generate::{Flow, GenerateConfig};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use reheat_train::TrainError;
use serde::{Deserialize, Serialize};

use crate::commands::{Chat, stream_text};

/// Columns of an answer on the terminal.
const WIDTH: usize = 100;

/// One line of `samples.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    step: u64,
    prompt: String,
    answer: String,
}

/// Prompts, and where the answers go.
#[derive(Debug)]
pub(crate) struct Samples {
    path: PathBuf,
    prompts: Vec<String>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    config: GenerateConfig,
}

impl Samples {
    /// Greedy answers, so that they differ from step to step by what was learned alone.
    pub(crate) fn new(
        dir: &Path,
        prompts: Vec<String>,
        max_new_tokens: usize,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
    ) -> Self {
        let config = GenerateConfig {
            max_new_tokens,
            temperature: 0.0,
            eos_token_ids: tokenizer.eos_ids().to_vec(),
            ..GenerateConfig::default()
        };
        Self { path: dir.join("samples.jsonl"), prompts, tokenizer, template, config }
    }

    /// Forgets the answers after `step`, where the run goes on.
    pub(crate) fn rewind(&self, step: u64) -> anyhow::Result<()> {
        let Ok(text) = fs::read_to_string(&self.path) else { return Ok(()) };
        let before = |line: &&str| serde_json::from_str::<Sample>(line).is_ok_and(|sample| sample.step <= step);
        let kept: String = text.lines().filter(before).map(|line| format!("{line}\n")).collect();
        Ok(fs::write(&self.path, if step == 0 { String::new() } else { kept })?)
    }

    /// Answers every prompt; the lines to show.
    pub(crate) fn take(&self, step: u64, model: &Qwen2) -> Result<Vec<String>, TrainError> {
        let cannot_write = |source| TrainError::Write { path: self.path.clone(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path).map_err(cannot_write)?;
        let mut lines = Vec::new();
        for prompt in &self.prompts {
            let answer = self.answer(prompt, model).map_err(|error| TrainError::Callback(format!("{error:#}")))?;
            let shown = answer.split_whitespace().collect::<Vec<_>>().join(" ");
            lines.push(format!("  {}", style(prompt).cyan().for_stderr()));
            lines.push(format!("    {}", console::truncate_str(&shown, WIDTH, "…")));
            let sample = Sample { step, prompt: prompt.clone(), answer };
            let line = serde_json::to_string(&sample).expect("text and numbers by name") + "\n";
            file.write_all(line.as_bytes()).map_err(cannot_write)?;
        }
        Ok(lines)
    }

    /// In a chat of its own, or as a continuation where there is no template.
    fn answer(&self, prompt: &str, model: &Qwen2) -> anyhow::Result<String> {
        let go_on = &mut |_: &str| Flow::Continue;
        match &self.template {
            Some(template) => {
                let (tokenizer, template) = (self.tokenizer.clone(), template.clone());
                Chat::new(model.clone(), tokenizer, template, self.config.clone()).say(prompt, go_on)
            }
            None => {
                let ids = self.tokenizer.encode_with_special_tokens(prompt)?.ids;
                Ok(stream_text(model, &self.tokenizer, &ids, &self.config, &[], go_on)?.0)
            }
        }
    }
}
