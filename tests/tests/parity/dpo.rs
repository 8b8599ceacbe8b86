//! Direct preference optimisation against TRL's DPOTrainer: losses, gradients and metrics on fixed log-probabilities,
//! and whole runs.

use burn::tensor::{Device, Tensor};
use reheat_data::PreferencePair;
use reheat_kernels::TokenLogprobs;
use reheat_model::{Qwen2, Qwen2Config};
use reheat_tests::{
    assert_close, assert_probe, assert_trajectory, fixture, floats, for_random_runs, golden, ids, is_of_the_loop,
    training_config,
};
use reheat_train::{
    Dpo, DpoConfig, Method, NoCallback, Objective, Reference, ReferenceLogprobs, StepContext, Trainer,
    precompute_reference,
};
use serde_json::{Map, Value, json};

/// The same formulas in f32 on both sides, relative where a number is above 1: IPO squares numbers near 10.
const FORMULA: f64 = 2e-6;

#[test]
fn losses_gradients_and_metrics_on_fixed_tensors() {
    let golden = golden("dpo");
    let fixed = &golden["losses"];
    for case in fixed["cases"].as_array().expect("a list of cases") {
        check_loss(fixed, &golden["loss_metrics"], case);
    }
}

/// Puts the fixed log-probabilities where the model's would be.
fn check_loss(fixed: &Value, metrics: &Value, case: &Value) {
    let name = case["settings"].to_string();
    let device = Device::flex();
    let (chosen, rejected) = (floats(&fixed["ref_chosen"]), floats(&fixed["ref_rejected"]));
    let reference =
        chosen.iter().zip(rejected).map(|(chosen, rejected)| ReferenceLogprobs { chosen: *chosen, rejected });
    let pairs = fixed["lengths"].as_array().expect("a list").iter().map(|lengths| {
        let [prompt, chosen, rejected] = ids::<usize>(lengths)[..] else { panic!("three lengths of each pair") };
        PreferencePair { prompt_ids: vec![1; prompt], chosen_ids: vec![2; chosen], rejected_ids: vec![3; rejected] }
    });
    let pairs: Vec<_> = pairs.collect();
    let num_pairs = pairs.len();
    let reference = Reference::Precomputed(reference.collect());
    let mut dpo = Dpo::new(pairs, config(&case["settings"]), reference).expect("settings that TRL takes");
    let model = Qwen2::random(&Qwen2Config::tiny(8), 0, &device);
    let indices: Vec<usize> = (0..num_pairs).collect();
    let batches = dpo.batches(&indices, &StepContext::new(&model, num_pairs, 0, 0)).expect("no model is run");
    let [batch] = &batches[..] else { panic!("one micro-batch") };

    let labels = &dpo.sequences(batch).labels;
    let scored: Vec<usize> = (0..labels.len()).filter(|position| labels[*position] >= 0).collect();
    let tensor = |name: &str| {
        let mut values = vec![0.0f32; labels.len()];
        for (position, value) in scored.iter().zip(floats(&fixed[name])) {
            values[*position] = value;
        }
        Tensor::<1>::from_data(values.as_slice(), &device)
    };
    let tokens = TokenLogprobs {
        logprobs: tensor("logprobs"),
        entropy: tensor("entropy"),
        is_top1: tensor("is_top1"),
        mean_logit: tensor("mean_logit"),
        // No loss of DPO looks at it.
        mean_logprob: tensor("mean_logit"),
        log_sum_sq_probs: tensor("log_sum_sq_probs"),
    };
    let num_items = dpo.num_items(batch);
    let Objective::Whole(objective) = dpo.objective(batch, num_items) else { panic!("a loss of whole answers") };
    let gradient = objective(&tokens).into_data().try_to_vec::<f32>().expect("f32");
    let ours: Vec<f32> = scored.iter().map(|position| gradient[*position]).collect();
    let theirs = floats(&case["gradient"]);
    let scale = theirs.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    assert_close(&format!("{name}: gradient"), &ours, &theirs, FORMULA as f32 * scale);

    let measures = dpo.measure(batch, &tokens, num_items);
    let close = |what: &str, ours: f64, theirs: &Value| {
        let theirs = theirs.as_f64().expect("a number");
        assert!((ours - theirs).abs() <= FORMULA * theirs.abs().max(1.0), "{name}: {what} {ours} instead of {theirs}");
    };
    close("loss", measures.loss, &case["loss"]);
    let ours = measures.metrics();
    for (metric, expected) in
        metrics.as_array().expect("names").iter().zip(case["metrics"].as_array().expect("numbers"))
    {
        let metric = metric.as_str().expect("a name");
        // The loop counts tokens.
        if metric != "num_tokens" {
            close(metric, ours[metric], expected);
        }
    }
}

#[test]
fn sigmoid() {
    check_run("sigmoid");
}

#[test]
fn conversations() {
    check_run("conversations");
}

#[test]
fn truncated_answers() {
    check_run("truncated");
}

#[test]
fn accumulated_pairs() {
    check_run("accumulated");
}

#[test]
fn ipo_with_a_precomputed_reference() {
    check_run("precomputed");
}

#[test]
fn mixed_preference_optimisation() {
    check_run("mpo");
}

#[test]
fn pairs_weighted_by_the_policy() {
    check_run("weighted");
}

#[test]
fn longer_answers_desensitised() {
    check_run("length_desensitised");
}

#[test]
fn sorted_margins() {
    check_run("aot");
}

#[test]
fn a_reference_that_follows() {
    check_run("synced_reference");
}

/// Runs a case with both kinds of reference and compares it with TRL step by step.
fn check_run(name: &str) {
    let golden = golden("dpo");
    check_case(name, &golden, &golden["metrics"], &golden["runs"][name]);
}

/// What `tests/golden/random_runs.py` made, if it is named.
#[test]
fn random_runs() {
    for_random_runs("dpo", |name, golden, case| {
        let settings = &case["settings"];
        let has_sft = settings["loss_type"].as_array().is_some_and(|types| types.contains(&json!("sft")));
        // Its mean is over all tokens of a step, where TRL takes that of means over micro-batches.
        if !(has_sft && settings["gradient_accumulation_steps"].as_u64().is_some_and(|steps| steps > 1)) {
            check_case(name, golden, &golden["metrics"]["dpo"], case);
        }
    });
}

fn check_case(name: &str, golden: &Value, metrics: &Value, case: &Value) {
    let settings = &case["settings"];
    let method = config(settings);
    let model = fixture(golden["model"].as_str().expect("a name"));
    let load = || Qwen2::load(&model, &Device::flex()).expect("the fixture is complete");
    let pairs = pairs(case);

    let mut references = vec![Reference::Model(Box::new(load()))];
    if !method.sync_ref_model {
        let known =
            precompute_reference(&load(), &pairs, method.ld_alpha, 2, None, &mut |_| {}).expect("nothing is written");
        references.push(Reference::Precomputed(known));
    }
    for reference in references {
        let dpo = Dpo::new(pairs.clone(), method.clone(), reference).expect("settings that TRL takes");
        let of_loop: Map<String, Value> = settings.as_object().expect("settings by name").clone();
        let of_loop = of_loop.into_iter().filter(|(key, _)| is_of_the_loop(key)).collect();
        let mut trainer = Trainer::new(load(), dpo, training_config(&golden["seed"], of_loop)).expect("good rows");
        trainer.train(&mut NoCallback).expect("nothing stops the run");

        // TRL averages these over micro-batches, we over tokens: equal where a step is one micro-batch.
        let departures = ["entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected"];
        let accumulates = settings["gradient_accumulation_steps"].as_u64().is_some_and(|steps| steps > 1);
        let departures = if accumulates { &departures[..] } else { &[] };
        assert_trajectory(name, trainer.log_history(), metrics, &case["steps"], departures);
        assert_probe(name, trainer.model(), &golden["probe_ids"], &case["probe_logits"]);
    }
}

/// The rows as TRL tokenised them, cut as its collator does.
fn pairs(case: &Value) -> Vec<PreferencePair> {
    let max_length = case["settings"]["max_length"].as_u64().expect("set in every case") as usize;
    let rows = case["pairs"].as_array().expect("a list of pairs").iter();
    let pairs = rows.map(|row| {
        let prompt_ids: Vec<u32> = ids(&row[0]);
        let cut = |answer: &Value| -> Vec<u32> {
            let answer: Vec<u32> = ids(answer);
            answer.into_iter().take(max_length - prompt_ids.len()).collect()
        };
        PreferencePair { chosen_ids: cut(&row[1]), rejected_ids: cut(&row[2]), prompt_ids }
    });
    pairs.collect()
}

/// Our settings with TRL's put over them: the names are the same.
fn config(settings: &Value) -> DpoConfig {
    let settings = settings.as_object().expect("settings by name").iter();
    let own = settings.filter(|(key, _)| !is_of_the_loop(key) && *key != "max_length");
    let own: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(json!(own)).expect("TRL's names are ours")
}
