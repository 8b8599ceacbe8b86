//! Evaluation while training: exact means, the best model, stopping early.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use burn::tensor::Device;
use reheat_data::{PreferencePair, Sequence};
use reheat_model::{Qwen2, Qwen2Config, for_each_parameter};
use reheat_train::{
    Checkpoint, Dpo, DpoConfig, IntervalStrategy, JsonLines, NoCallback, Reference, RunDir, SaveStrategy, Sft,
    SftConfig, TrainError, Trainer, TrainingConfig, evaluate,
};

/// Means of the same f32 numbers, added in another order.
const ROUNDING: f64 = 1e-6;

fn rows(step: u32) -> Vec<Sequence> {
    (0..6u32).map(|row| Sequence::new((0..2 + 3 * row).map(|i| (row * 7 + i * step) % 64).collect())).collect()
}

fn sft(rows: Vec<Sequence>) -> Sft {
    Sft::new(rows, SftConfig::default())
}

fn model() -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), 5, &Device::flex())
}

/// Learns the training rows by heart, and unlearns the others.
fn config() -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = 12;
    config.per_device_train_batch_size = 6;
    config.logging_steps = 4;
    config.save_steps = 1;
    config.eval_strategy = IntervalStrategy::Steps;
    config.eval_steps = Some(2);
    config
}

fn trainer(config: TrainingConfig) -> Trainer<Sft> {
    Trainer::new(model(), sft(rows(5)), config).unwrap().with_evaluation(sft(rows(11))).unwrap()
}

fn in_dir(config: TrainingConfig, dir: &Path) -> Trainer<Sft> {
    trainer(config)
        .with_run_dir(RunDir::create(dir, Vec::new()).unwrap())
        .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
}

fn weights(model: &Qwen2) -> Vec<f32> {
    let mut all = Vec::new();
    for_each_parameter(model, "", |_, _, values| all.extend(values.into_data().try_to_vec::<f32>().unwrap()));
    all
}

/// In steps, or in epochs where evaluations are counted in them (transformers' `DefaultFlowCallback`).
#[test]
fn evaluations_begin_after_the_delay() {
    let steps = |config| {
        let mut trainer = trainer(config);
        trainer.train(&mut NoCallback).unwrap();
        trainer.evaluations().iter().map(|row| row.step).collect::<Vec<_>>()
    };
    let mut delayed = config();
    delayed.eval_delay = 6.0;
    assert_eq!(steps(delayed.clone()), [6, 8, 10, 12]);
    delayed.eval_on_start = true;
    assert_eq!(steps(delayed.clone()), [0, 6, 8, 10, 12]);
    // Two steps an epoch.
    (delayed.eval_on_start, delayed.per_device_train_batch_size) = (false, 3);
    (delayed.eval_strategy, delayed.eval_delay) = (IntervalStrategy::Epoch, 2.5);
    assert_eq!(steps(delayed), [6, 8, 10, 12]);
}

#[test]
fn a_smoothed_loss_has_no_perplexity() {
    let mut smoothed = SftConfig::default();
    smoothed.label_smoothing_factor = 0.1;
    let row = evaluate(&model(), &mut Sft::new(rows(5), smoothed), 6).unwrap();
    assert_eq!(row.metric("perplexity"), None);
    let plain = evaluate(&model(), &mut sft(rows(5)), 6).unwrap();
    assert!((row.loss - plain.loss).abs() > 1e-4, "{} {}", row.loss, plain.loss);
}

/// Rows of 2 to 17 tokens: a mean of batch means would depend on how they are cut.
#[test]
fn the_batch_size_does_not_change_an_evaluation() {
    let evaluate = |batch_size| {
        let mut config = config();
        config.per_device_eval_batch_size = batch_size;
        trainer(config).evaluate().unwrap().unwrap()
    };
    let (one, all) = (evaluate(1), evaluate(6));
    for name in ["loss", "entropy", "mean_token_accuracy", "perplexity"] {
        let (a, b) = (one.metric(name).unwrap(), all.metric(name).unwrap());
        assert!((a - b).abs() <= ROUNDING * b.abs().max(1.0), "{name}: {a} and {b}");
    }
    assert!((one.metric("perplexity").unwrap() - one.loss.exp()).abs() <= ROUNDING);
    // The loss of a step over the same rows, before its update.
    let mut first = config();
    (first.max_steps, first.logging_steps) = (1, 1);
    let mut first = Trainer::new(model(), sft(rows(11)), first).unwrap();
    first.train(&mut NoCallback).unwrap();
    assert!((first.log_history()[0].loss - all.loss).abs() <= ROUNDING * all.loss);
}

#[test]
fn the_run_ends_with_the_best_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.load_best_model_at_end = true;
    config.save_total_limit = Some(1);
    let mut trainer = in_dir(config, folder.path());
    let summary = trainer.train(&mut NoCallback).unwrap();
    let losses: Vec<(u64, f64)> = trainer.evaluations().iter().map(|row| (row.step, row.loss)).collect();
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(best.0 < 12, "the rows are meant to be unlearned: {losses:?}");
    assert_eq!(summary.best_step, Some(best.0));
    assert_eq!(trainer.evaluate().unwrap().unwrap().loss, best.1);
    let saved = Qwen2::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(weights(&saved), weights(trainer.model()));
    let state = std::fs::read_to_string(folder.path().join("trainer_state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["best_global_step"], best.0);
    assert_eq!(state["best_model_checkpoint"], format!("checkpoint-{}", best.0));
}

#[test]
fn evaluations_that_do_not_improve_end_the_run() {
    let mut config = config();
    config.early_stopping_patience = Some(2);
    config.save_strategy = SaveStrategy::No;
    let mut trainer = trainer(config);
    let summary = trainer.train(&mut NoCallback).unwrap();
    let losses: Vec<f64> = trainer.evaluations().iter().map(|row| row.loss).collect();
    assert!(summary.stopped_early && summary.global_step < 12, "{losses:?}");
    let (stale, best) = losses.split_at(losses.len() - 2);
    assert!(best.iter().all(|loss| stale.iter().any(|earlier| loss >= earlier)), "{losses:?}");
}

/// What evaluation remembers is part of what is resumed.
#[test]
fn resumed_is_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.early_stopping_patience = Some(3);
    config.load_best_model_at_end = true;
    let (whole_dir, dir) = (folder.path().join("whole"), folder.path().join("resumed"));
    let mut whole = in_dir(config.clone(), &whole_dir);
    let summary = whole.train(&mut NoCallback).unwrap();

    in_dir(config.clone(), &dir).train(&mut NoCallback).unwrap();
    for step in [3, 4, 5] {
        let mut resumed = in_dir(config.clone(), &dir);
        resumed.resume(&Checkpoint::open(&dir.join(format!("checkpoint-{step}"))).unwrap()).unwrap();
        let again = resumed.train(&mut NoCallback).unwrap();
        assert_eq!((again.best_step, again.global_step), (summary.best_step, summary.global_step));
        assert_eq!(weights(resumed.model()), weights(whole.model()));
        let losses = |trainer: &Trainer<Sft>| -> Vec<u64> {
            trainer.evaluations().iter().map(|row| row.loss.to_bits()).collect()
        };
        assert_eq!(losses(&resumed), losses(&whole));
    }
}

#[test]
fn a_metric_that_is_not_measured_is_named() {
    let mut config = config();
    config.metric_for_best_model = Some("accuracy".into());
    let error = trainer(config).train(&mut NoCallback).unwrap_err();
    let TrainError::UnknownMetric { .. } = &error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        "metric_for_best_model is `accuracy`, but an evaluation measures loss, entropy, mean_token_accuracy, perplexity"
    );
}

/// Evaluations see the reference that training has, however seldom they are.
#[test]
fn the_reference_of_evaluations_follows_with_that_of_training() {
    let pairs: Vec<PreferencePair> = (0..6u32)
        .map(|row| PreferencePair {
            prompt_ids: vec![row, row + 1],
            chosen_ids: (0..2 + row % 3).map(|i| (row * 7 + i) % 64).collect(),
            rejected_ids: (0..4 - row % 2).map(|i| (row * 3 + i * 5) % 64).collect(),
        })
        .collect();
    let evaluated_every = |steps: u64| {
        let mut settings = DpoConfig::default();
        settings.sync_ref_model = true;
        settings.ref_model_sync_steps = 2;
        let dpo = || Dpo::new(pairs.clone(), settings.clone(), Reference::Model(Box::new(model()))).unwrap();
        let mut config = config();
        config.eval_steps = Some(steps);
        config.max_steps = 6;
        let mut trainer = Trainer::new(model(), dpo(), config).unwrap().with_evaluation(dpo()).unwrap();
        trainer.train(&mut NoCallback).unwrap();
        trainer.evaluations().iter().map(|row| (row.step, row.loss)).collect::<Vec<_>>()
    };
    let each = evaluated_every(1);
    let some: Vec<_> = each.iter().copied().filter(|(step, _)| step % 3 == 0).collect();
    assert_eq!(evaluated_every(3), some);
}
