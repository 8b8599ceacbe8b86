//! The bundled demo: a tiny Qwen2 that has read about animals and cannot answer, and conversations that teach it to.
//!
//! The same seed gives the same bytes. Everything in the text was written for it.

mod facts; // what the model learns
mod phrasings; // how it is said
mod corpus; // plain text
mod conversations; // questions and answers
mod tokenizer;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use reheat_data::Sequence;
use reheat_model::{Qwen2, Qwen2Config, SaveOptions, WeightDtype};
use reheat_tokenizer::Tokenizer;
use reheat_train::{Callback, LogRow, LrSchedulerType, Sft, SftConfig, TrainError, Trainer, TrainingConfig};
use serde::Serialize;
use serde_json::{Value, json};

use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Where the bundle goes; the folder that the binary embeds when absent
    #[arg(long)]
    out: Option<PathBuf>,
    /// Paragraphs about each animal in the corpus
    #[arg(long, default_value_t = 200)]
    passes: usize,
    /// Seed of everything
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the rows of preference and reward training alone
    #[arg(long)]
    preferences_only: bool,
}

/// Entries of the tokenizer, special ones included.
const VOCAB_SIZE: usize = 1024;
/// Longest sequence the model is made for.
const MAX_LENGTH: usize = 512;

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| workspace::root().join("crates/reheat-cli/demo"));
    let base = out.join("base");
    fs::create_dir_all(&base)?;

    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let split = corpus::split(&mut rng);
    // A stream for each: the other files stay what they are.
    let stream = |index| {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        rng.set_stream(index);
        rng
    };
    write_rows(&out.join("preferences.jsonl"), &conversations::preference_rows(&split, &mut stream(1)))?;
    write_rows(&out.join("chatty.jsonl"), &conversations::chatty_rows(&split, &mut stream(2)))?;
    write_rows(&out.join("questions.jsonl"), &conversations::question_rows(&split, &mut stream(3)))?;
    if args.preferences_only {
        println!("{}", out.display());
        return Ok(());
    }
    let documents = corpus::documents(args.passes, &mut rng);
    write_rows(&out.join("train.jsonl"), &conversations::train_rows(&split, &mut rng))?;
    write_rows(&out.join("heldout.jsonl"), &conversations::held_out_rows(&split, &mut rng))?;
    fs::write(base.join("tokenizer.json"), tokenizer::train(&documents, VOCAB_SIZE)?)?;
    write_json(&base.join("tokenizer_config.json"), &tokenizer::config(MAX_LENGTH))?;
    let tokenizer = Tokenizer::from_dir(&base)?;
    let end =
        tokenizer.token_to_id(tokenizer::END_OF_TEXT).context("the tokenizer was trained with its special tokens")?;
    write_json(&base.join("generation_config.json"), &json!({ "eos_token_id": end, "pad_token_id": end }))?;

    let sequences = documents
        .iter()
        .map(|document| {
            let mut ids = tokenizer.encode(document)?.ids;
            ids.push(end);
            Ok(Sequence::new(ids))
        })
        .collect::<Result<Vec<_>>>()?;
    let model = pretrain(config(end)?, sequences, args.seed)?;
    model.save(&base, &SaveOptions { dtype: WeightDtype::F16, ..SaveOptions::default() })?;
    println!("{}", out.display());
    Ok(())
}

fn config(end: u32) -> Result<Qwen2Config> {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": { "rope_type": "default", "rope_theta": 10000.0 },
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": true,
        "initializer_range": 0.02,
        "bos_token_id": null,
        "eos_token_id": end,
        "pad_token_id": end,
    });
    let Value::Object(config) = config else { unreachable!("an object literal") };
    Ok(Qwen2Config::from_json(config, "config.json".into())?)
}

/// Reads the corpus once.
fn pretrain(config: Qwen2Config, sequences: Vec<Sequence>, seed: u64) -> Result<Qwen2> {
    let model = Qwen2::random(&config, seed, &Device::flex());
    let mut settings = TrainingConfig::default();
    settings.learning_rate = 2e-3;
    settings.lr_scheduler_type = LrSchedulerType::Cosine;
    settings.warmup_steps = 20.0;
    settings.weight_decay = 0.1;
    settings.num_train_epochs = 1.0;
    settings.per_device_train_batch_size = 11;
    settings.gradient_checkpointing = false;
    settings.logging_steps = 50;
    settings.seed = seed;
    let mut trainer = Trainer::new(model, Sft::new(sequences, SftConfig::default()), settings)?;
    let summary = trainer.train(&mut Lines)?;
    eprintln!("{} steps, {} tokens, {:.0} s", summary.global_step, summary.num_tokens, summary.train_runtime);
    Ok(trainer.into_model())
}

struct Lines;

impl Callback for Lines {
    fn on_log(&mut self, row: &LogRow) -> Result<(), TrainError> {
        eprintln!("step {} loss {:.4} {:.0} tok/s", row.step, row.loss, row.tokens_per_second);
        Ok(())
    }
}

fn write_rows(path: &Path, rows: &[impl Serialize]) -> Result<()> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(fs::write(path, lines.join("\n") + "\n")?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(fs::write(path, serde_json::to_string_pretty(value)? + "\n")?)
}
