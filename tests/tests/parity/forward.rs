//! The forward pass against transformers.

use burn::tensor::{Device, Tensor};
use reheat_model::Qwen2;
use reheat_tests::{assert_close, fixture, floats, golden, ids};

/// f32 against f32 with sums in another order; logits are of size 10.
const TOLERANCE: f32 = 1e-4;

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("a float tensor")
}

#[test]
fn logits_equal_transformers_for_every_shape_of_qwen2() {
    let golden = golden("forward");
    for (name, cases) in golden["models"].as_object().expect("models by name") {
        let model = Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete");
        for case in cases.as_array().expect("a list of cases") {
            let input_ids: Vec<i32> = ids(&case["input_ids"]);
            let what = |key: &str| format!("{name}, {} tokens, {key}", input_ids.len());
            let logits = model.logits(&input_ids); // [tokens, vocab]

            let expected = floats(&case["logits"]);
            let rows = expected.len() / logits.dims()[1];
            let last_rows = logits.clone().narrow(0, input_ids.len() - rows, rows);
            assert_close(&what("logits"), &values(last_rows), &expected, TOLERANCE);

            let logsumexp = values(logits.clone().exp().sum_dim(1).log());
            assert_close(&what("logsumexp"), &logsumexp, &floats(&case["logsumexp"]), TOLERANCE);

            let argmax: Vec<i32> = values(logits.argmax(1).float()).iter().map(|id| *id as i32).collect();
            assert_eq!(argmax, ids::<i32>(&case["argmax"]), "{}", what("argmax"));
        }
    }
}

#[test]
fn sequences_laid_end_to_end_have_the_logits_they_have_alone() {
    let golden = golden("forward");
    for (name, cases) in golden["models"].as_object().expect("models by name") {
        let model = Qwen2::load(&fixture(name), &Device::flex()).expect("the fixture is complete");
        let cases = cases.as_array().expect("a list of cases");
        let sequences: Vec<Vec<i32>> = cases.iter().map(|case| ids(&case["input_ids"])).collect();
        let seq_lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let hidden_states = model.hidden_states(&sequences.concat(), &seq_lens); // [tokens, hidden]
        let logits = hidden_states.matmul(model.head().transpose()); // [tokens, vocab]
        let mut end = 0;
        for (case, len) in cases.iter().zip(seq_lens) {
            end += len;
            let last = values(logits.clone().narrow(0, end - 1, 1));
            let expected = floats(&case["logits"]);
            let expected_last = &expected[expected.len() - last.len()..];
            assert_close(&format!("{name}, last of {len} tokens"), &last, expected_last, TOLERANCE);
        }
    }
}
