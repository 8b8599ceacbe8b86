//! Schedules and optimizers against transformers, PyTorch and lion-pytorch.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use reheat_model::{Qwen2, for_each_parameter};
use reheat_tests::{assert_close, fixture, floats, golden};
use reheat_train::{
    Gradients, LrSchedule, LrSchedulerKwargs, LrSchedulerType, Optimizer, OptimizerConfig, OptimizerNames, SgdArgs,
};
use serde_json::Value;

/// Both sides compute in f64.
const RATE: f64 = 1e-12;

/// A few updates in f32 of numbers around 0.1.
const UPDATE: f32 = 2e-6;

/// Five iterations of products of matrices, whose sums are added in another order.
const MUON: f32 = 2e-4;

#[test]
fn schedules_are_those_of_transformers() {
    let golden = golden("schedules");
    let learning_rate = golden["learning_rate"].as_f64().expect("a number");
    for (name, case) in golden["cases"].as_object().expect("cases by name") {
        let parse = |key: &str| case[key].as_u64().expect("a whole number");
        let kind: LrSchedulerType = serde_json::from_value(case["lr_scheduler_type"].clone()).expect("a schedule");
        let kwargs: LrSchedulerKwargs =
            serde_json::from_value(case["lr_scheduler_kwargs"].clone()).expect("its settings");
        let schedule = LrSchedule {
            kind,
            learning_rate,
            warmup_steps: parse("warmup_steps"),
            total_steps: parse("total_steps"),
            kwargs,
        };
        for (step, expected) in case["rates"].as_array().expect("a list").iter().enumerate() {
            let (ours, expected) = (schedule.at(step as u64), expected.as_f64().expect("a number"));
            assert!((ours - expected).abs() <= RATE * learning_rate.max(1.0), "{name}, step {step}: {ours} {expected}");
        }
    }
}

/// The gradients of the script: sin(0.7 i + step) / (1 + i mod 5).
fn gradients(model: &Qwen2, step: usize) -> Gradients {
    let mut gradients = Gradients::default();
    for_each_parameter(model, "", |name, shape, _| {
        let len = shape.iter().product::<usize>();
        let values = (0..len).map(|i| ((0.7 * i as f64 + step as f64).sin() / (1 + i % 5) as f64) as f32);
        let values: Vec<f32> = values.collect();
        gradients.accumulate(name, Tensor::from_data(values.as_slice(), &Device::flex()));
    });
    gradients
}

fn check(name: &str, tolerance: f32) {
    let kind: OptimizerNames = serde_json::from_value(Value::from(name)).expect("an optimizer");
    check_with(kind, SgdArgs::default(), name, tolerance);
}

fn check_with(kind: OptimizerNames, sgd: SgdArgs, name: &str, tolerance: f32) {
    let golden = golden("optimizers");
    let number = |key: &str| golden[key].as_f64().expect("a number");
    let mut model = Qwen2::load(&fixture(golden["model"].as_str().expect("a name")), &Device::flex()).expect("loads");
    let config = OptimizerConfig {
        name: kind,
        weight_decay: number("weight_decay"),
        momentum: (kind == OptimizerNames::Sgd).then(|| number("sgd_momentum")),
        sgd,
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(config, &model);
    for step in 0..golden["steps"].as_u64().expect("a count") as usize {
        let gradients = gradients(&model, step);
        model = optimizer.step(model, gradients, (number("learning_rate"), 1.0), 1.0);
    }
    let mut ours = BTreeMap::new();
    for_each_parameter(&model, "", |name, _, values| {
        ours.insert(name.to_owned(), values.into_data().try_to_vec::<f32>().expect("f32"));
    });
    for (parameter, expected) in golden["cases"][name].as_object().expect("parameters by name") {
        let expected = floats(expected);
        assert_close(&format!("{name}, {parameter}"), &ours[parameter][..expected.len()], &expected, tolerance);
    }
}

#[test]
fn adamw_is_pytorchs() {
    check("adamw_torch_fused", UPDATE);
}

#[test]
fn sgd_is_pytorchs() {
    check("sgd", UPDATE);
}

/// Through what transformers calls `optim_args`.
#[test]
fn sgd_with_dampening_or_nesterov_momentum_is_pytorchs() {
    for (name, args) in
        [("sgd_dampened", "momentum=0.8, dampening=0.3"), ("sgd_nesterov", "momentum=0.9, nesterov=true")]
    {
        check_with(OptimizerNames::Sgd, args.parse().expect("transformers takes it"), name, UPDATE);
    }
}

#[test]
fn lion_is_lion_pytorchs() {
    check("lion_32bit", UPDATE);
}

#[test]
fn adafactor_is_that_of_transformers() {
    check("adafactor", UPDATE);
}

#[test]
fn muon_is_pytorchs_with_adamw_for_the_rest() {
    check("muon", MUON);
}
