//! Whole training runs against TRL 1.16 on the shared tiny model, and what must not depend on how a step is cut.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use reheat_data::{PackOptions, PackingStrategy, Sequence, TrainSamplingStrategy, pack};
use reheat_model::{LoraConfig, Qwen2, Qwen2Config, for_each_parameter};
use reheat_train::{
    LogRow, LossType, LrSchedulerType, NoCallback, OptimizerNames, SaveStrategy, Sft, SftConfig, TrainError, Trainer,
    TrainingConfig,
};
use serde_json::Value;

/// First step: one forward pass in f32.
const FIRST_STEP: f64 = 1e-5;
/// After AdamW steps, whose quotient of small numbers magnifies rounding: the bound the reference states.
const LATER_STEPS: f64 = 1e-3;

fn golden() -> Option<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/trl-1.16");
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return None;
    }
    let values = serde_json::from_str(&fs::read_to_string(folder.join("trajectories.json")).unwrap()).unwrap();
    Some((folder, values))
}

/// The settings of the reference runs.
fn settings() -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = 3;
    config.per_device_train_batch_size = 1;
    config.gradient_accumulation_steps = 3;
    config.train_sampling_strategy = TrainSamplingStrategy::Sequential;
    config.logging_steps = 1;
    config.save_strategy = SaveStrategy::No;
    config
}

fn train(model: Qwen2, rows: Vec<Sequence>, config: TrainingConfig) -> (Vec<LogRow>, Qwen2) {
    train_with(SftConfig::default(), model, rows, config)
}

fn train_with(method: SftConfig, model: Qwen2, rows: Vec<Sequence>, config: TrainingConfig) -> (Vec<LogRow>, Qwen2) {
    let mut trainer = Trainer::new(model, Sft::new(rows, method), config).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    (trainer.log_history().to_vec(), trainer.into_model())
}

fn rows(value: &Value) -> Vec<Sequence> {
    value.as_array().unwrap().iter().map(|ids| Sequence::new(serde_json::from_value(ids.clone()).unwrap())).collect()
}

fn packed(rows: &[Sequence], max_length: usize, strategy: PackingStrategy) -> Vec<Sequence> {
    pack(rows, &PackOptions { strategy, max_length, ..PackOptions::default() }).unwrap().0
}

fn assert_trajectory(ours: &[LogRow], reference: &Value) {
    let reference = reference.as_array().unwrap();
    assert_eq!(ours.len(), reference.len());
    for (row, expected) in ours.iter().zip(reference) {
        let tolerance = if row.step == 1 { FIRST_STEP } else { LATER_STEPS };
        let close = |key: &str, value: f64| {
            let expected = expected[key].as_f64().unwrap();
            let bound = tolerance * expected.abs().max(1.0);
            assert!((value - expected).abs() <= bound, "step {}: {key} {value}, expected {expected}", row.step);
        };
        close("loss", row.loss);
        close("grad_norm", row.grad_norm);
        close("learning_rate", row.learning_rate);
        close("num_tokens", row.num_tokens as f64);
    }
}

#[test]
fn sft_follows_the_reference() {
    let Some((folder, golden)) = golden() else { return };
    let load = || Qwen2::load(&folder.join("tiny_qwen2"), &Device::flex()).unwrap();
    let data = rows(&golden["sft/input_ids"]);
    let (one_by_one, _) = train(load(), data.clone(), settings());
    assert_trajectory(&one_by_one, &golden["sft/nll_bs1_ga3"]);

    let mut config = settings();
    config.per_device_train_batch_size = 3;
    config.gradient_accumulation_steps = 1;
    let (together, _) = train(load(), data.clone(), config);
    assert_trajectory(&together, &golden["sft/nll_bs3_ga1"]);
    // One micro-batch of three: the reference's mean over micro-batches is the mean over tokens, as ours always is.
    for (ours, expected) in together.iter().zip(golden["sft/nll_bs3_ga1"].as_array().unwrap()) {
        assert!((ours.metric("entropy").unwrap() - expected["entropy"].as_f64().unwrap()).abs() <= LATER_STEPS);
        assert!(
            (ours.metric("mean_token_accuracy").unwrap() - expected["mean_token_accuracy"].as_f64().unwrap()).abs()
                <= FIRST_STEP
        );
    }

    let mut method = SftConfig::default();
    method.loss_type = LossType::Dft;
    let (dft, _) = train_with(method, load(), data, settings());
    assert_trajectory(&dft, &golden["sft/dft_bs1_ga3"]);
}

#[test]
fn completion_only_follows_the_reference() {
    let Some((folder, golden)) = golden() else { return };
    let case = &golden["sft/completion_only"];
    let sequence = Sequence::with_labels(
        serde_json::from_value(case["input_ids"].clone()).unwrap(),
        serde_json::from_value(case["labels"].clone()).unwrap(),
    );
    let mut config = settings();
    config.gradient_accumulation_steps = 1;
    let model = Qwen2::load(&folder.join("tiny_qwen2"), &Device::flex()).unwrap();
    let (ours, _) = train(model, vec![sequence; 3], config);
    assert_trajectory(&ours, &case["logs"]);
}

/// Printed by TRL 1.16 for clip 0.1, weight decay 0.1, cosine and one warm-up step; the rest as in `settings`.
#[test]
fn clipping_decay_and_cosine_follow_the_reference() {
    let Some((folder, golden)) = golden() else { return };
    let mut config = settings();
    config.max_grad_norm = 0.1;
    config.weight_decay = 0.1;
    config.lr_scheduler_type = LrSchedulerType::Cosine;
    config.warmup_steps = 1.0;
    let model = Qwen2::load(&folder.join("tiny_qwen2"), &Device::flex()).unwrap();
    let (ours, _) = train(model, rows(&golden["sft/input_ids"]), config);
    let expected = serde_json::json!([
        { "loss": 5.358139, "grad_norm": 3.626730, "learning_rate": 0.0, "num_tokens": 17 },
        { "loss": 5.708792, "grad_norm": 3.252883, "learning_rate": 0.01, "num_tokens": 40 },
        { "loss": 5.786836, "grad_norm": 3.732132, "learning_rate": 0.005, "num_tokens": 64 },
    ]);
    assert_trajectory(&ours, &expected);
}

/// Printed by TRL 1.16 for rows packed into 16 tokens, a row a step: lengths 12 and 4, then 10 and 6, then 9 and 7.
#[test]
fn packing_follows_the_reference() {
    let Some((folder, golden)) = golden() else { return };
    let packed = packed(&rows(&golden["sft/input_ids"]), 16, PackingStrategy::Bfd);
    let lens: Vec<_> = packed.iter().map(|row| row.seq_lens.clone()).collect();
    assert_eq!(lens, [vec![12, 4], vec![10, 6], vec![9, 7], vec![8, 5, 3]]);
    let mut config = settings();
    config.gradient_accumulation_steps = 1;
    let model = Qwen2::load(&folder.join("tiny_qwen2"), &Device::flex()).unwrap();
    let (ours, _) = train(model, packed, config);
    for (row, (expected, bound)) in
        ours.iter().zip([(5.716243, FIRST_STEP), (5.813468, LATER_STEPS), (5.337182, LATER_STEPS)])
    {
        assert!((row.loss - expected).abs() <= bound, "{} instead of {expected}", row.loss);
    }
}

fn toy_rows() -> Vec<Sequence> {
    (0..8u32).map(|row| Sequence::new((0..3 + row).map(|i| (row * 7 + i * 5) % 64).collect())).collect()
}

fn toy_config() -> TrainingConfig {
    let mut config = settings();
    config.per_device_train_batch_size = 8;
    config.gradient_accumulation_steps = 1;
    config
}

fn sft(rows: Vec<Sequence>) -> Sft {
    Sft::new(rows, SftConfig::default())
}

fn toy_model() -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), 5, &Device::flex())
}

fn weights(model: &Qwen2) -> Vec<f32> {
    let mut all = Vec::new();
    for_each_parameter(model, "", |_, _, values| all.extend(values.into_data().try_to_vec::<f32>().unwrap()));
    all
}

/// Two ways to one result differ by rounding alone: point by point, and on average not at all.
fn assert_same_weights(a: &[f32], b: &[f32]) {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a - b)).collect();
    let largest = differences.iter().fold(0.0f64, |largest, d| largest.max(d.abs()));
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    // AdamW moves a weight by up to the learning rate, whatever the size of its gradient.
    assert!(largest <= 2e-3, "largest difference {largest}");
    assert!(mean.abs() <= 1e-6, "mean difference {mean}");
}

#[test]
fn micro_batches_do_not_change_a_step() {
    let (whole_rows, whole) = train(toy_model(), toy_rows(), toy_config());
    let mut config = toy_config();
    config.per_device_train_batch_size = 1;
    config.gradient_accumulation_steps = 8;
    let (cut_rows, cut) = train(toy_model(), toy_rows(), config);
    for (a, b) in whole_rows.iter().zip(&cut_rows) {
        assert!((a.loss - b.loss).abs() <= FIRST_STEP && (a.grad_norm - b.grad_norm).abs() <= 1e-4);
        assert!((a.metrics["entropy"] - b.metrics["entropy"]).abs() <= FIRST_STEP);
        assert_eq!(a.metrics["mean_token_accuracy"], b.metrics["mean_token_accuracy"]);
    }
    assert_same_weights(&weights(&whole), &weights(&cut));
}

/// Packed rows, and the same documents in rows of their own: attention, positions and labels end with a document.
#[test]
fn packing_does_not_change_a_step() {
    let (apart_rows, apart) = train(toy_model(), toy_rows(), toy_config());
    for strategy in [PackingStrategy::Bfd, PackingStrategy::BfdSplit] {
        let packed = packed(&toy_rows(), 12, strategy);
        assert!(packed.len() < toy_rows().len());
        let mut config = toy_config();
        config.per_device_train_batch_size = 2;
        config.gradient_accumulation_steps = packed.len().div_ceil(2);
        let (packed_rows, packed) = train(toy_model(), packed, config);
        for (a, b) in apart_rows.iter().zip(&packed_rows) {
            assert!((a.loss - b.loss).abs() <= FIRST_STEP && (a.grad_norm - b.grad_norm).abs() <= 1e-4);
            assert!((a.metrics["entropy"] - b.metrics["entropy"]).abs() <= FIRST_STEP);
        }
        assert_same_weights(&weights(&apart), &weights(&packed));
    }
}

#[test]
fn recomputing_changes_no_bit() {
    let mut kept = toy_config();
    kept.gradient_checkpointing = false;
    let (kept_rows, kept) = train(toy_model(), toy_rows(), kept);
    let (rows, recomputed) = train(toy_model(), toy_rows(), toy_config());
    let numbers = |rows: &[LogRow]| -> Vec<_> { rows.iter().map(|row| (row.loss, row.grad_norm)).collect() };
    assert_eq!(numbers(&kept_rows), numbers(&rows));
    assert_eq!(weights(&kept), weights(&recomputed));
}

/// With a limit on the norm that counts at every step, and without; with a head that shares its gradient with the
/// embedding and with one that does not; where blocks are kept and where they run again.
#[test]
fn updating_in_the_backward_pass_changes_no_bit() {
    let numbers = |rows: &[LogRow]| -> Vec<_> { rows.iter().map(|row| (row.loss, row.grad_norm)).collect() };
    for (max_grad_norm, optim) in [
        (0.0, OptimizerNames::AdamwTorch),
        (0.1, OptimizerNames::AdamwTorch),
        (0.1, OptimizerNames::Muon),
        (0.0, OptimizerNames::Sgd),
    ] {
        for (model, gradient_checkpointing) in
            [(toy_model as fn() -> Qwen2, true), (toy_model, false), (untied_model, true)]
        {
            let run = |optimizer_in_backward| {
                let mut config = toy_config();
                config.max_grad_norm = max_grad_norm;
                config.optim = optim;
                config.gradient_checkpointing = gradient_checkpointing;
                config.neftune_noise_alpha = Some(1.0);
                config.optimizer_in_backward = optimizer_in_backward;
                let (rows, model) = train(model(), toy_rows(), config);
                (numbers(&rows), weights(&model))
            };
            assert_eq!(run(true), run(false), "{optim:?}, max_grad_norm {max_grad_norm}");
        }
    }
}

#[test]
fn what_an_update_in_the_backward_pass_needs_is_said() {
    let mut config = toy_config();
    config.optimizer_in_backward = true;
    config.gradient_accumulation_steps = 2;
    let refused = |model, config| Trainer::new(model, sft(toy_rows()), config).map(drop).unwrap_err().to_string();
    assert!(refused(toy_model(), config.clone()).contains("set gradient_accumulation_steps to 1"));
    config.gradient_accumulation_steps = 1;
    let adapted = toy_model().with_lora(LoraConfig::default(), "base", 0).unwrap();
    assert!(refused(adapted, config).contains("optimizer_in_backward is for full fine-tuning"));
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let run = || {
        let mut config = toy_config();
        config.train_sampling_strategy = TrainSamplingStrategy::Random;
        config.per_device_train_batch_size = 2;
        weights(&train(toy_model(), toy_rows(), config).1)
    };
    assert_eq!(run(), run());
}

/// Noise follows from the seed and the micro-step; without strength there is none, and rows that are only measured have
/// none.
#[test]
fn noise_on_embeddings_is_repeatable() {
    let run = |alpha, seed| {
        let mut config = toy_config();
        config.neftune_noise_alpha = alpha;
        config.seed = seed;
        let trainer = Trainer::new(toy_model(), sft(toy_rows()), config).unwrap();
        let mut trainer = trainer.with_evaluation(sft(toy_rows())).unwrap();
        let before = trainer.evaluate().unwrap().unwrap().loss;
        trainer.train(&mut NoCallback).unwrap();
        (before, trainer.log_history()[0].loss, weights(trainer.model()))
    };
    let (measured, first_loss, plain) = run(None, 1);
    assert_eq!(run(Some(0.0), 1), (measured, first_loss, plain.clone()));
    let noisy = run(Some(5.0), 1);
    assert_eq!(noisy, run(Some(5.0), 1));
    assert!(noisy.0 == measured && noisy.1 != first_loss && noisy.2 != plain);
    assert_ne!(noisy.2, run(Some(5.0), 2).2);
}

/// One layer and a head of its own.
fn untied_model() -> Qwen2 {
    let raw = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": false, "initializer_range": 0.1,
    });
    let config = Qwen2Config::from_json(raw.as_object().unwrap().clone(), "test".into()).unwrap();
    Qwen2::random(&config, 5, &Device::flex())
}

#[test]
fn an_untied_head_learns() {
    let before = untied_model();
    let head = |model: &Qwen2| model.head().into_data().try_to_vec::<f32>().unwrap();
    let old = head(&before);
    let (_, after) = train(before, toy_rows(), toy_config());
    assert_ne!(old, head(&after));
}

#[test]
fn a_loss_that_is_not_finite_stops_before_the_update() {
    let mut config = toy_config();
    config.learning_rate = 1e10;
    let mut trainer = Trainer::new(toy_model(), sft(toy_rows()), config).unwrap();
    let error = trainer.train(&mut NoCallback).unwrap_err();
    let TrainError::NotFinite { step, rows, .. } = &error else { panic!("{error}") };
    assert!(*step > 1 && rows.len() == 8, "{error}");
    assert!(error.hint().unwrap().contains("--learning-rate"));
}

#[test]
fn data_without_a_trained_token_is_refused() {
    let blind = Sequence::with_labels(vec![1, 2, 3], vec![-100; 3]);
    let refused = |rows| Trainer::new(toy_model(), sft(rows), toy_config()).map(drop).unwrap_err().to_string();
    assert_eq!(refused(vec![blind]), "the dataset holds no sequence with a token to learn");
    let outside = vec![Sequence::new(vec![1, 64])];
    assert_eq!(refused(outside), "sequence 0 holds token id 64, but the model's vocabulary has 64");
}
