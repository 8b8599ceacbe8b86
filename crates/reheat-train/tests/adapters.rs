//! Training low-rank adapters: what has a gradient, and what must not depend on how a step is computed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::{Device, Tensor};
use reheat_data::{Batch, Sequence};
use reheat_kernels::TokenDerivatives;
use reheat_model::{LoraConfig, Qwen2, Qwen2Config, TargetModules, for_each_parameter};
use reheat_train::{Checkpointing, Gradients, ModelPass, Objective};

/// Sums of the same numbers in another order.
const TOLERANCE: f32 = 1e-5;

fn model(config: LoraConfig) -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), 3, &Device::flex()).with_lora(config, "base", 5).unwrap()
}

fn sequences() -> Vec<Sequence> {
    [vec![5, 6, 7, 8, 9], vec![1, 2, 3], vec![40, 41, 42, 43]].into_iter().map(Sequence::new).collect()
}

fn gradients(model: &Qwen2, checkpointing: Checkpointing, micro_batch_size: usize) -> Gradients {
    let rows = sequences();
    let mut gradients = Gradients::default();
    for chunk in rows.chunks(micro_batch_size) {
        let batch = Batch::from_sequences(chunk.iter());
        let pass = ModelPass::new(model, checkpointing);
        let objective = Objective::PerToken(Box::new(|_, logprobs: Tensor<1>| logprobs.ones_like() * -0.1));
        pass.forward_backward(&batch, &objective, &mut gradients);
    }
    gradients
}

/// Gradient of every parameter in the order of the model, empty where it has none.
fn by_parameter(model: &Qwen2, mut gradients: Gradients) -> Vec<(String, Vec<f32>)> {
    let mut found = Vec::new();
    for_each_parameter(model, "", |name, _, _| {
        let gradient = gradients.remove(name).map(|values| values.into_data().try_to_vec().unwrap());
        found.push((name.to_owned(), gradient.unwrap_or_default()));
    });
    found
}

#[test]
fn what_is_frozen_has_no_gradient_and_what_is_trained_has_one() {
    let lora = LoraConfig { target_modules: TargetModules::AllLinear, ..LoraConfig::default() };
    // Only the upper block: the backward pass ends there.
    let upper = TargetModules::Pattern(r"model\.layers\.1\..*".into());
    for config in [
        lora.clone(),
        LoraConfig { use_dora: true, lora_dropout: 0.3, ..lora.clone() },
        LoraConfig { target_modules: upper, ..lora.clone() },
        LoraConfig { modules_to_save: vec!["lm_head".into()], ..lora.clone() },
        LoraConfig { trainable_token_indices: vec![6, 41], ..lora.clone() },
        LoraConfig { modules_to_save: vec!["embed_tokens".into(), "input_layernorm".into()], ..lora },
    ] {
        let model = model(config.clone()).with_dropout(1);
        for checkpointing in [Checkpointing::Keep, Checkpointing::Recompute] {
            for (name, gradient) in by_parameter(&model, gradients(&model, checkpointing, 3)) {
                assert_eq!(!gradient.is_empty(), model.trains(&name), "{name} with {config:?}");
            }
        }
    }
}

/// Rows alone have the gradient that they have in one of the whole embedding, which is the tied head too, whatever the
/// objective.
#[test]
fn token_rows_have_the_gradient_of_the_whole_embedding() {
    const IDS: [u32; 4] = [42, 6, 20, 1]; // the third is in no sequence: the head alone moves it
    let whole = Qwen2::random(&Qwen2Config::tiny(64), 3, &Device::flex());
    let rows = model(LoraConfig { trainable_token_indices: IDS.to_vec(), ..LoraConfig::default() });
    let mut sequences = sequences();
    sequences.push(Sequence::with_labels(vec![1, 42, 6, 7], vec![-100, -100, 6, 7]));
    let batch = Batch::from_sequences(sequences.iter());
    let objectives: [fn() -> Objective<'static>; 4] = [
        || Objective::PerToken(Box::new(|_, logprobs| logprobs.exp() * 0.3 - 0.2)),
        || Objective::Smoothed { label_smoothing: 0.3, gradient: Box::new(|_, logprobs| logprobs.exp() * 0.3 - 0.2) },
        || Objective::Whole(Box::new(|tokens| tokens.entropy.clone() * -0.1)),
        || {
            Objective::WithEntropy(Box::new(|tokens| TokenDerivatives {
                logprobs: tokens.logprobs.clone() * 0.1,
                entropy: Some(tokens.entropy.clone() * 0.2 - 0.1),
            }))
        },
    ];
    for (index, objective) in objectives.into_iter().enumerate() {
        let gradient_of = |model: &Qwen2, name: &str| -> Vec<f32> {
            let mut gradients = Gradients::default();
            // Twice, as micro-batches of one step.
            for _ in 0..2 {
                let pass = ModelPass::new(model, Checkpointing::Recompute).at_temperature(0.7);
                pass.forward_backward(&batch, &objective(), &mut gradients);
            }
            gradients.remove(name).unwrap().into_data().try_to_vec().unwrap()
        };
        let expected = gradient_of(&whole, "model.embed_tokens.weight");
        let found = gradient_of(&rows, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta");
        let width = expected.len() / 64;
        for (row, id) in IDS.into_iter().enumerate() {
            let pairs = found[row * width..][..width].iter().zip(&expected[id as usize * width..][..width]);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= TOLERANCE, "objective {index}, token {id}: {worst}");
        }
    }
}

#[test]
fn recomputing_leaves_out_the_same_inputs() {
    let config = LoraConfig { target_modules: TargetModules::AllLinear, lora_dropout: 0.5, ..LoraConfig::default() };
    let model = model(config).with_dropout(9);
    let of = |checkpointing| by_parameter(&model, gradients(&model, checkpointing, 3));
    assert_eq!(of(Checkpointing::Keep), of(Checkpointing::Recompute));
}

#[test]
fn micro_batches_do_not_change_the_gradient() {
    let model = model(LoraConfig { target_modules: TargetModules::AllLinear, ..LoraConfig::default() });
    let of = |size| by_parameter(&model, gradients(&model, Checkpointing::Recompute, size));
    for ((name, whole), (_, cut)) in of(3).into_iter().zip(of(1)) {
        assert!(whole.iter().zip(&cut).all(|(a, b)| (a - b).abs() <= TOLERANCE), "{name}");
    }
}
