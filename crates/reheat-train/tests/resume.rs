//! A run that is stopped and taken up again ends in the same bytes as one that is not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use reheat_data::{PreferencePair, Sequence};
use reheat_model::{LoraConfig, Qwen2, Qwen2Config, TargetModules, WeightDtype};
use reheat_train::{
    Checkpoint, Dpo, DpoConfig, IntervalStrategy, JsonLines, NoCallback, OptimizerNames, Reference, RunDir,
    SaveStrategy, Sft, SftConfig, TrainError, Trainer, TrainingConfig, TrainingDtype,
};

use self::shared::{StopAfter, weights};

const STEPS: u64 = 9;

fn rows() -> Vec<Sequence> {
    (0..7u32).map(|row| Sequence::new((0..3 + row).map(|i| (row * 7 + i * 5) % 64).collect())).collect()
}

fn config() -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = STEPS as i64;
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    // A window of logging is open at most checkpoints.
    config.logging_steps = 4;
    config.save_steps = 3;
    config
}

/// Another model than the one that was trained: everything has to come from the checkpoint.
fn model(seed: u64) -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), seed, &Device::flex())
}

/// With matrices that are large enough for moments in 8 bits.
fn wide_model(seed: u64) -> Qwen2 {
    let raw = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "initializer_range": 0.1,
    });
    let config = Qwen2Config::from_json(raw.as_object().unwrap().clone(), "test".into()).unwrap();
    Qwen2::random(&config, seed, &Device::flex())
}

fn trainer(dir: &Path, seed: u64, config: TrainingConfig) -> Trainer<Sft> {
    let model = if config.optim == OptimizerNames::Adamw8bit { wide_model(seed) } else { model(seed) };
    Trainer::new(model, Sft::new(rows(), SftConfig::default()), config)
        .unwrap()
        .with_run_dir(RunDir::create(dir, Vec::new()).unwrap())
        .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
}

/// The rows without the one column that has a clock in it.
fn metrics(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| line.split(",\"tokens_per_second\"").next().unwrap().to_owned()).collect()
}

/// Every file of a checkpoint but those with the speed in them.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .filter(|(name, _)| name.ends_with(".safetensors") || name == "config.json")
        .collect()
}

fn check_at_every_step(change: impl Fn(&mut TrainingConfig)) {
    let config = || {
        let mut config = config();
        change(&mut config);
        config
    };
    let folder = tempfile::tempdir().unwrap();
    let whole_dir = folder.path().join("whole");
    let mut whole = trainer(&whole_dir, 5, config());
    let summary = whole.train(&mut NoCallback).unwrap();
    for stop in 1..STEPS {
        let dir = folder.path().join(format!("stopped-{stop}"));
        let stopped = trainer(&dir, 5, config()).train(&mut StopAfter(stop)).unwrap();
        assert!(stopped.interrupted);
        let (checkpoint, damaged) = Checkpoint::newest(&dir).unwrap();
        assert!(damaged.is_empty() && checkpoint.dir().ends_with(format!("checkpoint-{stop}")));

        let mut resumed = trainer(&dir, 6, config());
        assert_eq!(resumed.resume(&checkpoint).unwrap(), []);
        let resumed_summary = resumed.train(&mut NoCallback).unwrap();
        assert_eq!(weights(resumed.model()), weights(whole.model()), "stopped at {stop}");
        assert_eq!(metrics(&dir), metrics(&whole_dir), "stopped at {stop}");
        assert_eq!(files(&dir.join("checkpoint-9")), files(&whole_dir.join("checkpoint-9")), "stopped at {stop}");
        assert_eq!(resumed_summary.train_loss.to_bits(), summary.train_loss.to_bits());
        assert_eq!(resumed_summary.num_tokens, summary.num_tokens);
    }
}

#[test]
fn resumed_is_uninterrupted() {
    check_at_every_step(|_| {});
}

/// The saved model is rounded; what training goes on with is not.
#[test]
fn resumed_is_uninterrupted_where_models_are_saved_in_bfloat16() {
    check_at_every_step(|config| config.save_dtype = WeightDtype::Bf16);
}

/// Moments in bfloat16 are rounded by a generator that follows from the seed and the step.
#[test]
fn resumed_is_uninterrupted_with_moments_in_bfloat16() {
    check_at_every_step(|config| config.optim_dtype = TrainingDtype::Bfloat16);
}

#[test]
fn resumed_is_uninterrupted_with_moments_in_8_bits() {
    check_at_every_step(|config| config.optim = OptimizerNames::Adamw8bit);
}

#[test]
fn resumed_is_uninterrupted_where_the_backward_pass_updates() {
    check_at_every_step(|config| {
        config.gradient_accumulation_steps = 1;
        config.optimizer_in_backward = true;
    });
}

/// Adapters are saved under PEFT's names, and dropout follows from the seed and the step.
#[test]
fn resumed_adapters_are_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = |dir: &Path, adapter_seed| {
        let lora = LoraConfig { lora_dropout: 0.2, ..LoraConfig::default() };
        let model = model(5).with_lora(lora, "base", adapter_seed).unwrap();
        Trainer::new(model, Sft::new(rows(), SftConfig::default()), config())
            .unwrap()
            .with_run_dir(RunDir::create(dir, Vec::new()).unwrap())
            .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
    };
    let (whole_dir, dir) = (folder.path().join("whole"), folder.path().join("stopped"));
    trainer(&whole_dir, 1).train(&mut NoCallback).unwrap();
    trainer(&dir, 1).train(&mut StopAfter(5)).unwrap();
    let mut resumed = trainer(&dir, 2);
    resumed.resume(&Checkpoint::newest(&dir).unwrap().0).unwrap();
    resumed.train(&mut NoCallback).unwrap();
    assert_eq!(metrics(&dir), metrics(&whole_dir));
    let (ours, expected) = (files(&dir.join("checkpoint-9")), files(&whole_dir.join("checkpoint-9")));
    assert!(expected.contains_key("adapter_model.safetensors") && expected.contains_key("master.safetensors"));
    assert_eq!(ours, expected);
}

/// A reference that follows the policy is part of a checkpoint; evaluations have the same one.
#[test]
fn a_resumed_reference_is_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = |count: u32| -> Vec<PreferencePair> {
        let pair = |row: u32| PreferencePair {
            prompt_ids: vec![row, row + 1],
            chosen_ids: (0..2 + row % 3).map(|i| (row * 7 + i) % 64).collect(),
            rejected_ids: (0..4 - row % 2).map(|i| (row * 3 + i * 5) % 64).collect(),
        };
        (0..count).map(pair).collect()
    };
    let trainer = |dir: &Path, seed| {
        let mut config = config();
        config.eval_strategy = IntervalStrategy::Steps;
        config.eval_steps = Some(2);
        let mut settings = DpoConfig::default();
        settings.sync_ref_model = true;
        settings.ref_model_sync_steps = 2;
        let dpo =
            |count, seed| Dpo::new(pairs(count), settings.clone(), Reference::Model(Box::new(model(seed)))).unwrap();
        Trainer::new(model(seed), dpo(7, seed), config)
            .unwrap()
            .with_evaluation(dpo(3, seed))
            .unwrap()
            .with_run_dir(RunDir::create(dir, Vec::new()).unwrap())
    };
    let whole_dir = folder.path().join("whole");
    let mut whole = trainer(&whole_dir, 5);
    whole.train(&mut NoCallback).unwrap();
    for stop in [1, 3, 4, 7] {
        let dir = folder.path().join(format!("stopped-{stop}"));
        trainer(&dir, 5).train(&mut StopAfter(stop)).unwrap();
        let mut resumed = trainer(&dir, 6);
        resumed.resume(&Checkpoint::newest(&dir).unwrap().0).unwrap();
        resumed.train(&mut NoCallback).unwrap();
        let (ours, expected) = (files(&dir.join("checkpoint-9")), files(&whole_dir.join("checkpoint-9")));
        assert!(expected.contains_key("method_state.safetensors"));
        assert_eq!(ours, expected, "stopped at {stop}");
        let losses = |trainer: &Trainer<Dpo>| trainer.evaluations().iter().map(|row| row.loss).collect::<Vec<_>>();
        assert_eq!(losses(&resumed), losses(&whole), "stopped at {stop}");
    }
}

/// Rows that were logged after the checkpoint, before the run was killed, are not there twice.
#[test]
fn metrics_after_the_checkpoint_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    trainer(&whole, 5, config()).train(&mut NoCallback).unwrap();
    trainer(&killed, 5, config()).train(&mut NoCallback).unwrap();
    let mut resumed = trainer(&killed, 5, config());
    resumed.resume(&Checkpoint::open(&killed.join("checkpoint-3")).unwrap()).unwrap();
    // As a crash in the middle of a line leaves it.
    let torn = fs::read_to_string(killed.join("metrics.jsonl")).unwrap() + "{\"step\":12,\"lo";
    fs::write(killed.join("metrics.jsonl"), torn).unwrap();
    resumed.train(&mut NoCallback).unwrap();
    assert_eq!(metrics(&killed), metrics(&whole));
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    trainer(folder.path(), 5, config()).train(&mut NoCallback).unwrap();
    let expected = files(&folder.path().join("checkpoint-9"));
    let damaged = folder.path().join("checkpoint-9/optimizer.safetensors");
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();

    let (checkpoint, damaged) = Checkpoint::newest(folder.path()).unwrap();
    assert!(checkpoint.dir().ends_with("checkpoint-6"));
    let [TrainError::Damaged { reason, .. }] = damaged.as_slice() else { panic!("{damaged:?}") };
    assert_eq!(reason, "`optimizer.safetensors` is not what was written");
    let mut resumed = trainer(folder.path(), 6, config());
    resumed.resume(&checkpoint).unwrap();
    resumed.train(&mut NoCallback).unwrap();
    assert_eq!(files(&folder.path().join("checkpoint-9")), expected);
}

#[test]
fn what_decides_the_rows_of_a_step_must_be_the_same() {
    let folder = tempfile::tempdir().unwrap();
    trainer(folder.path(), 5, config()).train(&mut StopAfter(3)).unwrap();
    let (checkpoint, _) = Checkpoint::newest(folder.path()).unwrap();

    let mut changed = config();
    changed.seed = 43;
    changed.learning_rate = 1.0;
    let error = trainer(folder.path(), 5, changed).resume(&checkpoint).unwrap_err();
    assert_eq!(error.to_string(), "the run to resume had other settings: seed was 42, is 43");

    let fewer = Sft::new(rows()[..6].to_vec(), SftConfig::default());
    let error = Trainer::new(model(5), fewer, config()).unwrap().resume(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("num_rows was 7, is 6"), "{error}");

    let mut changed = config();
    changed.learning_rate = 1e-3;
    changed.save_strategy = SaveStrategy::No;
    let changes = trainer(folder.path(), 5, changed).resume(&checkpoint).unwrap();
    let told: Vec<_> = changes.iter().map(|change| (change.to_string(), change.has_effect)).collect();
    let expected = [("learning_rate was 0.01, is 0.001", true), ("save_strategy was \"steps\", is \"no\"", false)];
    assert_eq!(told, expected.map(|(text, effect)| (text.to_owned(), effect)));
}

#[test]
fn which_parameters_are_trained_must_be_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = |lora: Option<LoraConfig>| {
        let model = model(5);
        let model = match lora {
            Some(lora) => model.with_lora(lora, "base", 1).unwrap(),
            None => model,
        };
        Trainer::new(model, Sft::new(rows(), SftConfig::default()), config())
            .unwrap()
            .with_run_dir(RunDir::create(folder.path(), Vec::new()).unwrap())
    };
    let names = |names: &[&str]| TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let lora = LoraConfig { r: 2, target_modules: names(&["v_proj", "q_proj"]), ..LoraConfig::default() };
    trainer(Some(lora.clone())).train(&mut StopAfter(3)).unwrap();
    let (checkpoint, _) = Checkpoint::newest(folder.path()).unwrap();

    let refused = |lora| trainer(lora).resume(&checkpoint).unwrap_err().to_string();
    let wider = LoraConfig { r: 4, target_modules: TargetModules::AllLinear, ..lora.clone() };
    let error = refused(Some(wider));
    assert!(error.contains("lora_r was 2, is 4; lora_target_modules was [\"q_proj\",\"v_proj\"], is"), "{error}");
    assert!(refused(None).contains("lora_r was 2, is null"), "{}", refused(None));

    let louder = LoraConfig { lora_alpha: 3.0, target_modules: names(&["q_proj", "v_proj"]), ..lora };
    let changes = trainer(Some(louder)).resume(&checkpoint).unwrap();
    assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["lora_alpha was 8.0, is 3.0"]);
}

#[test]
fn a_model_of_another_shape_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trainer(folder.path(), 5, config()).train(&mut StopAfter(3)).unwrap();
    let (checkpoint, _) = Checkpoint::newest(folder.path()).unwrap();
    let other = Qwen2::random(&Qwen2Config::tiny(65), 5, &Device::flex());
    let mut trainer = Trainer::new(other, Sft::new(rows(), SftConfig::default()), config()).unwrap();
    let error = trainer.resume(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("`model.embed_tokens.weight` has 2048 numbers, the model 2080"), "{error}");
}
