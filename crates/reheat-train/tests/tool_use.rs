//! A model that has learned to call a tool, in training on rewards: drawn by the engine, interrupted by the tool, masked,
//! and resumed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use reheat_chat::{ChatTemplate, Conversation, RenderOptions, TemplateTokens};
use reheat_data::{Prompt, Sequence};
use reheat_model::Qwen2;
use reheat_tokenizer::Tokenizer;
use reheat_train::{
    Checkpoint, CompletionRecord, Grpo, GrpoConfig, NoCallback, RewardFn, RewardInput, Rloo, RlooConfig, RolloutSetup,
    RunDir, Sft, SftConfig, ToolFn, Tools, Trainer, TrainingConfig,
};
use serde_json::{Value, json};

use self::shared::{StopAfter, weights};

/// Calls of tools as Qwen's templates have them.
const TEMPLATE: &str = include_str!("../../../tests/fixtures/tool_calls.jinja");

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(fixture()).unwrap()
}

fn template() -> ChatTemplate {
    ChatTemplate::new(TEMPLATE, &TemplateTokens::default()).unwrap()
}

fn ids(messages: Value, add_generation_prompt: bool) -> Vec<u32> {
    let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
    let rendered = template().render(&Conversation::from_json(messages).unwrap(), &options).unwrap();
    tokenizer().encode(&rendered.text).unwrap().ids
}

/// The bytes' model, after it has seen one conversation often enough to say it again.
fn model() -> Qwen2 {
    let call = json!([{ "type": "function", "function": { "name": "f", "arguments": {} } }]);
    let conversation = json!([
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": "", "tool_calls": call },
        { "role": "tool", "content": "7" },
        { "role": "assistant", "content": "7" },
    ]);
    let prompt = ids(json!([{ "role": "user", "content": "?" }]), true);
    let row = Sequence::new(ids(conversation, false)).learned_from(prompt.len());
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = 120;
    config.per_device_train_batch_size = 1;
    let model = Qwen2::load(&fixture(), &Device::flex()).unwrap();
    let mut trainer = Trainer::new(model, Sft::new(vec![row], SftConfig::default()), config).unwrap();
    let summary = trainer.train(&mut NoCallback).unwrap();
    assert!(trainer.log_history().last().is_none_or(|row| row.loss < 0.1), "{}", summary.train_loss);
    trainer.into_model()
}

fn tools() -> Tools {
    let schema = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } });
    let mut calls = 0;
    let tool = ToolFn::new(schema, move |_| {
        calls += 1;
        if calls % 5 == 0 { Err("out of order".into()) } else { Ok(json!(7)) }
    });
    Tools { tools: vec![Box::new(tool.unwrap())], template: template() }
}

fn setup() -> RolloutSetup {
    let prompt = |question: &str| {
        let messages = json!([{ "role": "user", "content": question }]);
        Prompt { prompt_ids: ids(messages.clone(), true), prompt: messages, ..Prompt::default() }
    };
    let judge = |input: &RewardInput<'_>| {
        // What the tool said is no word of the model's.
        assert!(
            !input.completion.contains("<|im_start|>") && !input.completion.contains("tool\n"),
            "{}",
            input.completion
        );
        Some(if input.messages.is_some_and(|messages| messages.len() == 3) {
            1.0
        } else {
            -(input.completion.len() as f64)
        })
    };
    let rewards = RewardFn::new("judge", judge);
    let mut setup = RolloutSetup::new(vec![prompt("?"), prompt("?!")], tokenizer(), vec![Box::new(rewards)]);
    setup.config.num_generations = 4;
    setup.config.max_completion_length = 160;
    setup.tools = Some(tools());
    setup
}

fn training(max_steps: i64) -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-4;
    config.max_steps = max_steps;
    config.per_device_train_batch_size = 4;
    config.logging_steps = 1;
    config
}

#[test]
fn tools_are_called_counted_shown_and_not_learned() {
    let seen = Arc::new(Mutex::new(Vec::<CompletionRecord>::new()));
    let told = Arc::clone(&seen);
    let mut setup = setup();
    setup.config.steps_per_generation = Some(2);
    setup.completions_fn = Some(Box::new(move |records: &[CompletionRecord]| {
        told.lock().unwrap().extend_from_slice(records);
        Ok(())
    }));
    let training = training(2);
    let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
    let mut trainer = Trainer::new(model(), grpo, training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let row = &trainer.log_history()[0];
    let frequency = row.metric("tools/call_frequency").unwrap();
    assert!(frequency > 0.3, "{frequency}");
    let seen = seen.lock().unwrap();
    let (calls, failures) = seen
        .iter()
        .fold((0, 0), |(calls, failures), record| (calls + record.tool_calls, failures + record.tool_failures));
    assert_eq!(frequency, calls as f64 / 8.0);
    assert_eq!(row.metric("tools/failure_frequency"), Some(failures as f64 / calls as f64));
    let called = seen.iter().find(|record| record.tool_calls > 0).unwrap();
    assert!(
        called.completion.contains("</tool_call>") && called.completion.contains("tool\n7"),
        "{}",
        called.completion
    );
    // Ids of the completion that the model did not write are in no length.
    assert!(called.num_tokens < tokenizer().encode(&called.completion).unwrap().ids.len());
    // Tokens after the tool's are drawn in a pass of their own, and come out as in training all the same.
    assert_eq!(row.metric("sampling/sampling_logp_difference/max"), Some(0.0));
}

#[test]
fn a_run_with_tools_is_resumed_in_the_middle_of_a_generation_batch() {
    let (folder, model) = (tempfile::tempdir().unwrap(), model());
    for (name, is_grpo) in [("grpo", true), ("rloo", false)] {
        let run = |dir: &Path, stop: Option<u64>| {
            let mut setup = setup();
            setup.config.steps_per_generation = Some(2);
            let training = training(4);
            // A tool that remembers nothing of what it was asked before.
            setup.tools.as_mut().unwrap().tools = {
                let schema = json!({ "type": "function", "function": { "name": "f" } });
                vec![Box::new(ToolFn::new(schema, |_| Ok(json!(7))).unwrap())]
            };
            let run_dir = RunDir::create(dir, Vec::new()).unwrap();
            if is_grpo {
                let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
                go(Trainer::new(model.clone(), grpo, training).unwrap().with_run_dir(run_dir), dir, stop)
            } else {
                let mut config = RlooConfig::default();
                config.beta = 0.0;
                let rloo = Rloo::new(setup, config, &training).unwrap();
                go(Trainer::new(model.clone(), rloo, training).unwrap().with_run_dir(run_dir), dir, stop)
            }
        };
        let whole = run(&folder.path().join(format!("{name}-whole")), None);
        assert_ne!(whole, weights(&model));
        for stop in 1..4 {
            let dir = folder.path().join(format!("{name}-{stop}"));
            run(&dir, Some(stop));
            assert_eq!(run(&dir, None), whole, "{name} stopped at {stop}");
        }
    }
}

/// Trains until a step or the end, from where the folder's newest checkpoint is.
fn go<M: reheat_train::Method>(mut trainer: Trainer<M>, dir: &Path, stop: Option<u64>) -> Vec<u32> {
    if let Ok((checkpoint, _)) = Checkpoint::newest(dir) {
        trainer.resume(&checkpoint).unwrap();
    }
    match stop {
        Some(step) => trainer.train(&mut StopAfter(step)).unwrap(),
        None => trainer.train(&mut NoCallback).unwrap(),
    };
    weights(trainer.model())
}

#[test]
fn prompts_of_text_have_no_tools() {
    let mut setup = setup();
    setup.prompts[1].prompt = json!("?!");
    let training = training(1);
    let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
    let model = Qwen2::load(&fixture(), &Device::flex()).unwrap();
    let error = Trainer::new(model, grpo, training).err().unwrap();
    assert_eq!(error.to_string(), "prompt 1 of the dataset is text, and tools are called in conversations alone");
}
