//! Greedy generation against transformers.

use burn::tensor::Device;
use reheat_generate::{FinishReason, Flow, GenerateConfig, generate};
use reheat_model::Qwen2;
use reheat_tests::{fixture, golden, ids};
use serde_json::Value;

#[test]
fn greedy_generation_equals_transformers_token_for_token() {
    let golden = golden("greedy");
    let max_new_tokens: Vec<usize> = ids(&Value::from(vec![golden["max_new_tokens"].clone()]));
    for (name, cases) in golden["models"].as_object().expect("models by name") {
        let model = Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete");
        let config = GenerateConfig {
            max_new_tokens: max_new_tokens[0],
            temperature: 0.0,
            eos_token_ids: eos_token_ids(&model),
            ..GenerateConfig::default()
        };
        for case in cases.as_array().expect("a list of cases") {
            let prompt: Vec<u32> = ids(&case["prompt_ids"]);
            let (generation, _) =
                generate(&model, &prompt, &config, &mut |_| Flow::Continue).expect("the prompt is short");
            let what = format!("{name}, prompt of {} tokens", prompt.len());
            assert_eq!(generation.ids, ids::<u32>(&case["generated_ids"]), "{what}");
            let expected = if case["finish_reason"] == "eos" { FinishReason::Stop } else { FinishReason::Length };
            assert_eq!(generation.finish_reason, expected, "{what}");
        }
    }
}

/// The end tokens of `config.json`, one or a list.
pub(crate) fn eos_token_ids(model: &Qwen2) -> Vec<u32> {
    match model.config().get("eos_token_id") {
        Some(list @ Value::Array(_)) => ids(list),
        Some(single) => ids(&Value::from(vec![single.clone()])),
        None => Vec::new(),
    }
}
