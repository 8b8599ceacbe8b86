//! Group relative policy optimisation and REINFORCE leave-one-out against TRL's GRPOTrainer and RLOOTrainer: losses,
//! gradients and metrics on fixed log-probabilities, advantages of fixed rewards, and whole runs on given completions.

use burn::tensor::{Device, Tensor, TensorData};
use reheat_data::Prompt;
use reheat_model::Qwen2;
use reheat_tests::{
    assert_close, assert_probe, assert_trajectory, fixture, floats, for_random_runs, golden, ids, is_of_the_loop,
    training_config,
};
use reheat_tokenizer::Tokenizer;
use reheat_train::{
    Completion, Grpo, GrpoConfig, GrpoTokens, Method, NoCallback, Normalizer, Ratios, Reward, RewardFn, Rloo,
    RlooConfig, RolloutConfig, RolloutSetup, Trainer, TrainingConfig, group_advantages, grpo_loss,
    leave_one_out_advantages,
};
use serde_json::{Map, Value, json};

/// The same formulas in f32 on both sides, relative where a number is above 1.
const FORMULA: f32 = 2e-6;

/// Ours are computed in f64, TRL's in f32, and a deviation near 0 divides both.
const ADVANTAGES: f32 = 2e-5;

fn tensor(values: &Value) -> Tensor<2> {
    let rows = values.as_array().expect("a list of completions");
    let data = TensorData::new(floats(values), [rows.len(), floats(&rows[0]).len()]);
    Tensor::from_data(data, &Device::flex())
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

#[test]
fn losses_and_gradients_on_fixed_tensors() {
    let golden = golden("grpo");
    let fixed = &golden["losses"];
    for case in fixed["cases"].as_array().expect("a list of cases") {
        let table = case["table"].as_str().expect("a name");
        check_loss(&fixed["tables"][table], &fixed["normalizers"][table], case);
    }
}

fn check_loss(table: &Value, normalizer: &Value, case: &Value) {
    let name = format!("{}: {}", case["table"], case["settings"]);
    let mut settings = case["settings"].as_object().expect("settings by name").clone();
    let has_old = settings.remove("old_logprobs").is_none();
    let config: GrpoConfig = serde_json::from_value(json!(settings)).expect("TRL's names are ours");
    let number = |key: &str| normalizer[key].as_f64().expect("a number");
    let normalizer = Normalizer {
        accumulation_steps: number("accumulation_steps"),
        // TRL counts a generation batch.
        num_items_in_batch: number("num_items") * number("accumulation_steps") / number("steps_per_generation"),
        max_completion_length: number("max_completion_length"),
    };
    let rows = floats(&table["advantages"]);
    let tokens = GrpoTokens {
        logprobs: tensor(&table["logprobs"]).autodiff().require_grad(),
        old_logprobs: has_old.then(|| tensor(&table["old_logprobs"])),
        ref_logprobs: Some(tensor(&table["ref_logprobs"])),
        entropy: tensor(&table["entropy"]).autodiff().require_grad(),
        completion_mask: tensor(&table["completion_mask"]),
        advantages: Tensor::from_data(TensorData::new(rows.clone(), [rows.len(), 1]), &Device::flex()),
    };
    let mask = numbers(tokens.completion_mask.clone());
    let loss = grpo_loss(&tokens, &config, config.entropy_coef, &normalizer);
    let close = |what: &str, ours: &[f32], theirs: &[f32]| {
        let scale = theirs.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
        assert_close(&format!("{name}: {what}"), ours, theirs, FORMULA * scale);
    };
    close("loss", &numbers(loss.loss.clone().inner()), &floats(&case["loss"]));
    let gradients = loss.loss.backward();
    let gradient = |of: &Tensor<2>| of.grad(&gradients).map_or(vec![0.0; mask.len()], numbers);
    close("gradient", &gradient(&tokens.logprobs), &floats(&case["gradient"]));
    if !case["entropy_gradient"].is_null() {
        close("gradient of the entropies", &gradient(&tokens.entropy), &floats(&case["entropy_gradient"]));
    }

    let metrics = &case["metrics"];
    let masked_mean = |values: Tensor<2>| {
        let values = if values.is_autodiff() { values.inner() } else { values };
        let values = numbers(values);
        if values.len() == rows.len() {
            return values.iter().sum::<f32>() / rows.len() as f32;
        }
        let sum: f32 = values.iter().zip(&mask).map(|(value, counts)| value * counts).sum();
        sum / mask.iter().sum::<f32>()
    };
    let mut told = vec![("entropy", masked_mean(tokens.entropy.clone()))];
    told.extend(loss.kl.map(|kl| ("kl", masked_mean(kl))));
    if config.has_entropy_bonus() {
        told.push(("policy_loss", numbers(loss.policy_loss.inner())[0]));
    }
    match loss.ratios {
        Ratios::Clipped { low, high } => {
            told.push(("clip_ratio/low_mean", masked_mean(low)));
            told.push(("clip_ratio/high_mean", masked_mean(high)));
        }
        Ratios::Capped(capped) => told.push(("cispo_clip_ratio", masked_mean(capped))),
        Ratios::Weighed(phi) => told.push(("vespo/phi_seq_mean", masked_mean(phi))),
        Ratios::Gated => {}
    }
    for (metric, ours) in told {
        close(metric, &[ours], &[metrics[metric].as_f64().unwrap_or_else(|| panic!("{name}: {metric}")) as f32]);
    }
}

#[test]
fn advantages_of_fixed_rewards() {
    let golden = golden("grpo");
    for case in golden["advantages"].as_array().expect("a list of cases") {
        let name = format!("{} of {}: {}", case["method"], case["rewards"], case["settings"]);
        let names: Vec<&str> = case["rewards"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
        let prompts = golden["prompts"].as_array().expect("prompts").iter().filter_map(Value::as_str);
        let rows: Vec<Vec<Option<f64>>> = prompts
            .flat_map(|prompt| (0..4).map(move |index| (prompt, index)))
            .map(|(prompt, index)| names.iter().map(|name| golden["rewards"][name][prompt][index].as_f64()).collect())
            .collect();
        let mut settings = case["settings"].as_object().expect("settings by name").clone();
        let weights: Vec<f64> =
            floats(&settings.remove("reward_weights").expect("set")).into_iter().map(f64::from).collect();
        for key in ["per_device_train_batch_size", "num_generations", "max_completion_length"] {
            settings.remove(key);
        }
        let advantages = if case["method"] == "grpo" {
            let config: GrpoConfig = serde_json::from_value(json!(settings)).expect("TRL's names are ours");
            group_advantages(&rows, &weights, 4, &config)
        } else {
            let config: RlooConfig = serde_json::from_value(json!(settings)).expect("TRL's names are ours");
            let sums: Vec<Option<f64>> = rows
                .iter()
                .map(|row| {
                    let terms = row.iter().zip(&weights).filter_map(|(reward, weight)| Some((*reward)? * weight));
                    terms.reduce(|sum, term| sum + term)
                })
                .collect();
            leave_one_out_advantages(&sums, &vec![0.0; sums.len()], 4, &config)
        };
        let ours: Vec<f32> = advantages.values.iter().map(|value| *value as f32).collect();
        assert_close(&name, &ours, &floats(&case["advantages"]), ADVANTAGES);
        if case["method"] == "grpo" {
            // RLOO's share of a group without a deviation counts prompts alike; GDPO's is of the batch.
            let share = case["metrics"]["frac_reward_zero_std"].as_f64().expect("a number");
            assert!((advantages.frac_reward_zero_std - share).abs() < 1e-6, "{name}: {share}");
        }
    }
}

/// One test for each run, so that a failure names it.
macro_rules! runs {
    ($check:ident: $($name:ident),* $(,)?) => {
        $(#[test] fn $name() { super::$check(stringify!($name)); })*
    };
}

mod grpo_runs {
    runs!(
        check_grpo: dapo, accumulated, two_iterations, uncorrected_kl, spread, spread_and_repeated, masked_truncated,
        temperature, dr_grpo, batch_scale, several_rewards, gdpo, unjudged, cispo, sapo, vespo, luspo, gspo, two_sided,
        high_entropy, entropy_bonus, adaptive_entropy, off_policy_mask, synced_reference,
    );
}

mod rloo_runs {
    runs!(check_rloo: rloo, two_iterations, normalized, clipped_rewards, unjudged, spread);
}

fn check_grpo(name: &str) {
    let golden = golden("grpo");
    check_grpo_case(name, &golden, &golden["grpo"][name]);
}

fn check_grpo_case(name: &str, golden: &Value, case: &Value) {
    let (own, config, training) = settings::<GrpoConfig>(golden, case);
    let reference = own.beta != 0.0;
    check_run(name, golden, case, &training, |setup| Grpo::new(setup, own, &training), config, reference);
}

fn check_rloo(name: &str) {
    let golden = golden("grpo");
    check_rloo_case(name, &golden, &golden["rloo"][name]);
}

fn check_rloo_case(name: &str, golden: &Value, case: &Value) {
    let (own, config, training) = settings::<RlooConfig>(golden, case);
    let reference = own.beta != 0.0;
    check_run(name, golden, case, &training, |setup| Rloo::new(setup, own, &training), config, reference);
}

/// What `tests/golden/random_runs.py` made, if it is named.
#[test]
fn random_runs() {
    for_random_runs("grpo", check_grpo_case);
    for_random_runs("rloo", check_rloo_case);
}

/// Our settings with TRL's put over them: the names are the same. Each key belongs to one of the three.
fn settings<C>(golden: &Value, case: &Value) -> (C, RolloutConfig, TrainingConfig)
where
    C: Default + serde::Serialize + serde::de::DeserializeOwned,
{
    let (mut own, mut rollout, mut of_loop) = (Map::new(), Map::new(), Map::new());
    let known = json!(C::default());
    for (key, value) in case["settings"].as_object().expect("settings by name") {
        let place = if is_of_the_loop(key) {
            &mut of_loop
        } else if known.get(key).is_some() {
            &mut own
        } else {
            &mut rollout
        };
        place.insert(key.clone(), value.clone());
    }
    (
        serde_json::from_value(json!(own)).expect("TRL's names are ours"),
        serde_json::from_value(json!(rollout)).expect("TRL's names are ours"),
        training_config(&golden["seed"], of_loop),
    )
}

fn check_run<M: Method>(
    name: &str,
    golden: &Value,
    case: &Value,
    training: &TrainingConfig,
    method: impl FnOnce(RolloutSetup) -> Result<M, reheat_train::TrainError>,
    config: RolloutConfig,
    has_reference: bool,
) {
    let model_dir = fixture(golden["model"].as_str().expect("a name"));
    let load = || Qwen2::load(&model_dir, &Device::flex()).expect("the fixture is complete");
    let counts_alike = config.num_iterations == 1 && config.steps_per_generation.is_none();
    let mut setup = setup(golden, case, &Tokenizer::from_dir(&model_dir).expect("the fixture is complete"));
    setup.config = config;
    setup.reference = has_reference.then(|| Box::new(load()));
    let method = method(setup).expect("settings that TRL takes");
    let mut trainer = Trainer::new(load(), method, training.clone()).expect("good rows");
    trainer.train(&mut NoCallback).expect("nothing stops the run");

    // TRL averages these over micro-batches, we over tokens: equal where a step is one micro-batch.
    let mut departures = Vec::new();
    if training.gradient_accumulation_steps > 1 {
        departures.extend(["entropy", "kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"]);
        departures.extend(["cispo_clip_ratio", "vespo/phi_seq_mean"]);
    }
    if !counts_alike {
        // TRL counts a token when it is drawn, we as often as it is trained on.
        departures.push("num_tokens");
    }
    let columns = case["steps"].as_object().expect("a list for each metric");
    let metrics: Vec<&String> = columns.keys().collect();
    let at = |step: usize| -> Vec<&Value> { columns.values().map(|values| &values[step]).collect() };
    let num_steps = columns["loss"].as_array().expect("a number for each step").len();
    let steps: Vec<Value> = (0..num_steps).map(|step| json!(at(step))).collect();
    assert_trajectory(name, trainer.log_history(), &json!(metrics), &json!(steps), &departures);
    assert_probe(name, trainer.model(), &golden["probe_ids"], &case["probe_logits"]);
}

/// Completions and rewards as listed.
fn setup(golden: &Value, case: &Value, tokenizer: &Tokenizer) -> RolloutSetup {
    let texts: Vec<String> =
        golden["prompts"].as_array().expect("prompts").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let encode = |text: &String| tokenizer.encode(text).expect("plain text").ids;
    let known: Vec<(Vec<u32>, Vec<Completion>)> = texts
        .iter()
        .map(|text| {
            let listed = golden["completions"][text].as_array().expect("completions");
            let completion = |listed: &Value| Completion { ids: ids(listed), ..Completion::default() };
            (encode(text), listed.iter().map(completion).collect())
        })
        .collect();
    let rewards = case["rewards"].as_array().expect("names").iter().map(|name| {
        let name = name.as_str().expect("a name").to_owned();
        let (table, completions) = (golden["rewards"][&name].clone(), golden["completions"].clone());
        let judge = RewardFn::new(name, move |input| {
            let prompt = input.prompt.as_str().expect("text");
            let listed = completions[prompt].as_array().expect("completions");
            let index = listed.iter().position(|one| ids::<u32>(one) == input.completion_ids).expect("a listed one");
            table[prompt][index].as_f64()
        });
        Box::new(judge) as Box<dyn Reward>
    });
    let prompts =
        texts.iter().map(|text| Prompt { prompt_ids: encode(text), prompt: json!(text), ..Prompt::default() });
    let mut setup = RolloutSetup::new(prompts.collect(), tokenizer.clone(), rewards.collect());
    setup.rollout_fn = Some(Box::new(move |prompts: &[&[u32]], _num_generations| {
        let group = |ids: &&[u32]| known.iter().find(|(prompt, _)| prompt == ids).expect("a listed one").1.clone();
        Ok(prompts.iter().map(group).collect())
    }));
    setup
}
