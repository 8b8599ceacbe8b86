//! Training in bf16 against training in f32, on a model of two layers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::Device;
use reheat_data::Sequence;
use reheat_model::{Qwen2, Qwen2Config};
use reheat_train::{NoCallback, OptimizerNames, Sft, SftConfig, Trainer, TrainingConfig, TrainingDtype};

const STEPS: i64 = 50;

/// Rounding each factor by up to 2⁻⁹ moves a loss by less; what is checked is that it does not add up over the steps.
const TOLERANCE: f64 = 0.01;

/// Losses of 50 steps over sequences in which each token follows from the one before.
fn losses(change: impl Fn(&mut TrainingConfig)) -> Vec<f64> {
    losses_of(&Qwen2Config::tiny(64), change)
}

fn losses_of(model: &Qwen2Config, change: impl Fn(&mut TrainingConfig)) -> Vec<f64> {
    let rows = (0..8).map(|row| Sequence::new((0..40).map(|i| (i * (row + 3) + row) % 64).collect())).collect();
    let mut config = TrainingConfig::default();
    config.learning_rate = 3e-3;
    config.max_steps = STEPS;
    config.per_device_train_batch_size = 4;
    config.logging_steps = 1;
    change(&mut config);
    let model = Qwen2::random(model, 7, &Device::flex());
    let mut trainer = Trainer::new(model, Sft::new(rows, SftConfig::default()), config).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    trainer.log_history().iter().map(|row| row.loss).collect()
}

fn assert_close(what: &str, ours: &[f64], exact: &[f64]) {
    assert_eq!(ours.len(), STEPS as usize);
    for (step, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        assert!((ours / exact - 1.0).abs() <= TOLERANCE, "{what}, step {}: {ours}, in f32 {exact}", step + 1);
    }
    let drift = ours.iter().zip(exact).map(|(ours, exact)| ours / exact - 1.0).sum::<f64>() / STEPS as f64;
    assert!(drift.abs() <= TOLERANCE / 4.0, "{what}: losses differ by {drift} on average");
}

#[test]
fn losses_in_bf16_stay_within_a_hundredth_of_f32() {
    let exact = losses(|_| {});
    assert!(exact[49] < 0.7 * exact[0], "the model learns: {} to {}", exact[0], exact[49]);
    let products = losses(|config| config.dtype = TrainingDtype::Bfloat16);
    assert_ne!(products, exact);
    assert_close("products in bf16", &products, &exact);
    let moments = losses(|config| config.optim_dtype = TrainingDtype::Bfloat16);
    assert_ne!(moments, exact);
    assert_close("moments in bf16", &moments, &exact);
    let both = |config: &mut TrainingConfig| {
        config.dtype = TrainingDtype::Bfloat16;
        config.optim_dtype = TrainingDtype::Bfloat16;
    };
    assert_close("both", &losses(both), &exact);
    assert_eq!(losses(both), losses(both), "stochastic rounding follows from the seed");
}

/// On matrices of 4096 numbers, which are large enough.
#[test]
fn losses_with_moments_in_8_bits_stay_within_a_hundredth() {
    let raw = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": true, "initializer_range": 0.1,
    });
    let model = Qwen2Config::from_json(raw.as_object().unwrap().clone(), "test".into()).unwrap();
    let exact = losses_of(&model, |_| {});
    let eight_bit = losses_of(&model, |config| config.optim = OptimizerNames::Adamw8bit);
    assert_ne!(eight_bit, exact);
    assert_close("moments in 8 bits", &eight_bit, &exact);
}

/// Gradients of micro-batches meet in f32: one batch of four rows and four of one differ by the rounding of gradients.
#[test]
fn micro_batches_in_bf16_are_summed() {
    let whole = losses(|config| config.dtype = TrainingDtype::Bfloat16);
    let parts = losses(|config| {
        config.dtype = TrainingDtype::Bfloat16;
        config.per_device_train_batch_size = 1;
        config.gradient_accumulation_steps = 4;
    });
    assert_close("micro-batches", &parts, &whole);
}

/// Every rule takes gradients that were rounded to bf16.
#[test]
fn losses_in_bf16_stay_close_whatever_the_optimizer() {
    for optim in [OptimizerNames::Lion, OptimizerNames::Sgd, OptimizerNames::Muon, OptimizerNames::Adafactor] {
        // Lion steps by signs, and the sign of a small gradient is what rounding changes first.
        let settings = |config: &mut TrainingConfig| {
            config.optim = optim;
            config.learning_rate = if optim == OptimizerNames::Lion { 1e-4 } else { 3e-3 };
        };
        let exact = losses(settings);
        let rounded = losses(|config| {
            settings(config);
            config.dtype = TrainingDtype::Bfloat16;
        });
        assert_close(&format!("{optim:?}"), &rounded, &exact);
    }
}
