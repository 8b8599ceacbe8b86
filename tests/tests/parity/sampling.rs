//! Sampling and batches against transformers.

use std::sync::Arc;

use burn::tensor::Device;
use reheat_generate::{Flow, GenerateConfig, Sampler, rollout};
use reheat_model::Qwen2;
use reheat_tests::{assert_close, fixture, floats, golden, ids};
use serde_json::Value;

use crate::greedy::eos_token_ids;

/// Softmax in f32 there and in f64 here.
const TOLERANCE: f32 = 1e-5;

/// Options under transformers' names.
fn config(case: &Value) -> GenerateConfig {
    let options = &case["options"];
    let number = |key: &str, default: f32| options[key].as_f64().map_or(default, |value| value as f32);
    let count = |key: &str| options[key].as_u64().map_or(0, |value| value as usize);
    let bias = options["sequence_bias"].as_array().into_iter().flatten().map(|pair| {
        let id = pair[0][0].as_u64().and_then(|id| u32::try_from(id).ok()).expect("a token id");
        (id, pair[1].as_f64().expect("a number") as f32)
    });
    GenerateConfig {
        temperature: number("temperature", 1.0),
        top_k: count("top_k"),
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        min_new_tokens: count("min_new_tokens"),
        logit_bias: bias.collect(),
        eos_token_ids: ids(&case["eos_token_ids"]),
        ..GenerateConfig::default()
    }
}

#[test]
fn distributions_are_those_that_transformers_draws_from() {
    let golden = golden("sampling");
    for case in golden["processors"].as_array().expect("a list of cases") {
        let logits = floats(&case["logits"]);
        let mut sampler = Sampler::new(Arc::new(config(case)), &ids::<u32>(&case["prompt_ids"]), 0);
        for id in ids::<u32>(&case["generated_ids"]) {
            sampler.take(id);
        }
        let (kept, probabilities): (Vec<u32>, Vec<f64>) = sampler.distribution(&logits).into_iter().unzip();
        let what = case["options"].to_string();
        assert_eq!(kept, ids::<u32>(&case["ids"]), "{what}");
        let probabilities: Vec<f32> = probabilities.into_iter().map(|probability| probability as f32).collect();
        assert_close(&what, &probabilities, &floats(&case["probabilities"]), TOLERANCE);
    }
}

#[test]
fn greedy_batches_equal_transformers_token_for_token() {
    let golden = golden("sampling");
    for (name, batch) in golden["batches"].as_object().expect("models by name") {
        let model = Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete");
        let rows = batch["rows"].as_array().expect("a list of rows");
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| ids(&row["prompt_ids"])).collect();
        let max_new_tokens: Vec<usize> = ids(&Value::from(vec![batch["max_new_tokens"].clone()]));
        let config = GenerateConfig {
            max_new_tokens: max_new_tokens[0],
            temperature: 0.0,
            eos_token_ids: eos_token_ids(&model),
            ..GenerateConfig::default()
        };
        for max_batch_size in [1, 2, 4] {
            let rollout = rollout(&model, &prompts, &config, max_batch_size, &mut |_, _, _| Flow::Continue)
                .expect("the prompts are short");
            for (row, completions) in rows.iter().zip(&rollout.completions) {
                let expected: Vec<u32> = ids(&row["generated_ids"]);
                assert_eq!(completions[0].ids, expected, "{name}, batches of {max_batch_size}");
            }
        }
    }
}
