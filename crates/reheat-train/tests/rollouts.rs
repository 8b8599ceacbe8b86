//! Learning from the model's own completions: drawn by the engine, judged, trained on, and resumed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use reheat_data::Prompt;
use reheat_model::{LoraConfig, Qwen2};
use reheat_tokenizer::Tokenizer;
use reheat_train::{
    Checkpoint, Completion, CompletionRecord, Grpo, GrpoConfig, IntervalStrategy, JsonLines, Method, NoCallback,
    Reward, RewardError, RewardFn, RewardInput, Rloo, RlooConfig, RolloutConfig, RolloutSetup, RunDir, TrainError,
    Trainer, TrainingConfig, evaluate,
};
use serde_json::json;

use self::shared::{StopAfter, weights};

/// What a sampler's log-probability may differ by from that of the training forward pass at a temperature: there logits
/// are divided, here hidden states, and each is rounded. Without one, both have the same bits.
const TEMPERED_TOLERANCE: f64 = 1e-5;

/// A tiny model of bytes.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tied-grouped")
}

fn model() -> Qwen2 {
    Qwen2::load(&fixture(), &Device::flex()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(fixture()).unwrap()
}

fn prompts(texts: &[&str]) -> Vec<Prompt> {
    let tokenizer = tokenizer();
    let prompt = |text: &&str| Prompt {
        prompt_ids: tokenizer.encode(text).unwrap().ids,
        prompt: json!(text),
        ..Prompt::default()
    };
    texts.iter().map(prompt).collect()
}

/// Share of the bytes that are upper-case letters.
fn upper_case() -> Box<dyn Reward> {
    Box::new(RewardFn::new("upper_case", |input: &RewardInput<'_>| {
        let upper = input.completion_ids.iter().filter(|id| (65..91).contains(*id)).count();
        Some(upper as f64 / input.completion_ids.len() as f64)
    }))
}

fn setup(texts: &[&str]) -> RolloutSetup {
    let mut setup = RolloutSetup::new(prompts(texts), tokenizer(), vec![upper_case()]);
    setup.config = rollout_config(4, 6);
    setup
}

fn rollout_config(num_generations: usize, max_completion_length: usize) -> RolloutConfig {
    let mut config = RolloutConfig::default();
    config.num_generations = num_generations;
    config.max_completion_length = max_completion_length;
    config
}

fn training(max_steps: i64, batch_size: usize) -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = max_steps;
    config.per_device_train_batch_size = batch_size;
    config.logging_steps = 1;
    config
}

/// Bytes of every kind at first, letters in the end.
#[test]
fn the_reward_rises() {
    let mut setup = setup(&["ab", "hello", "xyz", "q"]);
    setup.config = rollout_config(8, 8);
    let training = training(40, 32);
    let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
    let mut trainer = Trainer::new(model(), grpo, training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let rewards: Vec<f64> = trainer.log_history().iter().map(|row| row.metric("reward").unwrap()).collect();
    let mean = |rows: &[f64]| rows.iter().sum::<f64>() / rows.len() as f64;
    let (first, last) = (mean(&rewards[..5]), mean(&rewards[35..]));
    assert!(first < 0.3 && last > first + 0.3, "{first} {last}: {rewards:?}");
}

#[test]
fn the_sampler_sees_what_training_sees() {
    for (temperature, tolerance) in [(1.0, 0.0), (0.6, TEMPERED_TOLERANCE)] {
        let mut setup = setup(&["ab", "a longer prompt than the others", "q", ""]);
        setup.prompts[3] = Prompt { prompt_ids: vec![258], ..Prompt::default() };
        setup.config = rollout_config(4, 12);
        setup.config.temperature = temperature;
        let mut training = training(3, 8);
        training.gradient_accumulation_steps = 2;
        let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
        let mut trainer = Trainer::new(model(), grpo, training).unwrap();
        trainer.train(&mut NoCallback).unwrap();
        for row in trainer.log_history() {
            let largest = row.metric("sampling/sampling_logp_difference/max").unwrap();
            assert!(largest <= tolerance, "temperature {temperature}: {largest}");
            let ratio = row.metric("sampling/importance_sampling_ratio/mean").unwrap();
            assert!((ratio - 1.0).abs() <= 12.0 * tolerance, "temperature {temperature}: {ratio}");
        }
    }
}

/// The adapters of the reference are those that training began with, which change nothing.
#[test]
fn the_base_is_the_reference_of_its_adapters() {
    let model = model().with_lora(LoraConfig::default(), "base", 7).unwrap();
    let mut setup = setup(&["ab", "q"]);
    setup.reference = Some(Box::new(model.clone()));
    let mut config = GrpoConfig::default();
    config.beta = 0.1;
    let training = training(4, 8);
    let mut trainer = Trainer::new(model, Grpo::new(setup, config, &training).unwrap(), training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let kls: Vec<f64> = trainer.log_history().iter().map(|row| row.metric("kl").unwrap()).collect();
    assert!(kls[0].abs() < 1e-9 && kls[3] > 1e-6, "{kls:?}");
}

#[test]
fn equal_rewards_teach_nothing_and_are_counted() {
    let mut setup = setup(&["ab", "q"]);
    setup.rewards = vec![Box::new(RewardFn::new("one", |_: &RewardInput<'_>| Some(1.0)))];
    let training = training(2, 8);
    let mut trainer =
        Trainer::new(model(), Grpo::new(setup, GrpoConfig::default(), &training).unwrap(), training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    for row in trainer.log_history() {
        assert_eq!((row.loss, row.grad_norm, row.metric("frac_reward_zero_std")), (0.0, 0.0, Some(1.0)));
    }
}

/// Nothing ends on its own where no byte is an end token: every completion is cut, counted and left out.
#[test]
fn completions_that_never_end_are_counted_and_can_be_left_out() {
    let mut setup = setup(&["ab", "q"]);
    let never = |prompts: &[&[u32]], count: usize| {
        Ok(vec![vec![Completion { ids: vec![65, 66, 67], ..Completion::default() }; count]; prompts.len()])
    };
    setup.rollout_fn = Some(Box::new(never));
    setup.config.mask_truncated_completions = true;
    let training = training(1, 8);
    let mut trainer =
        Trainer::new(model(), Grpo::new(setup, GrpoConfig::default(), &training).unwrap(), training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let row = &trainer.log_history()[0];
    assert_eq!((row.loss, row.grad_norm), (0.0, 0.0));
    assert_eq!(row.metric("completions/clipped_ratio"), Some(1.0));
    assert_eq!(row.metric("completions/mean_terminated_length"), Some(0.0));
}

#[test]
fn completions_are_told_with_rewards_and_advantages() {
    let seen = Arc::new(Mutex::new(Vec::<CompletionRecord>::new()));
    let mut setup = setup(&["ab", "q"]);
    let told = Arc::clone(&seen);
    setup.completions_fn = Some(Box::new(move |records: &[CompletionRecord]| {
        told.lock().unwrap().extend_from_slice(records);
        Ok(())
    }));
    let training = training(2, 8);
    let mut trainer =
        Trainer::new(model(), Grpo::new(setup, GrpoConfig::default(), &training).unwrap(), training).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|record| record.step).collect::<Vec<_>>(), [[1; 8], [2; 8]].concat());
    for group in seen.chunks(4) {
        assert!(group.iter().all(|record| record.prompt == group[0].prompt));
        assert!(group.iter().map(|record| record.advantage).sum::<f64>().abs() < 1e-9);
        assert!(group.iter().all(|record| record.rewards["upper_case"].is_number()));
    }
}

/// Rows without what has a clock in it.
fn metrics(dir: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        row.retain(|name, _| name != "tokens_per_second" && name != "step_time" && !name.starts_with("time/"));
        serde_json::Value::Object(row)
    };
    text.lines().map(row).collect()
}

/// Stops after every step in turn, most of which are in the middle of a generation batch, and goes on with another
/// model, which the checkpoint has to replace.
fn resumes<M: Method>(make: impl Fn(&TrainingConfig) -> M) {
    const STEPS: u64 = 7;
    let folder = tempfile::tempdir().unwrap();
    let config = training(STEPS as i64, 4);
    let trainer = |dir: &Path, model: Qwen2| {
        Trainer::new(model, make(&config), config.clone())
            .unwrap()
            .with_run_dir(RunDir::create(dir, Vec::new()).unwrap())
            .with_logger(JsonLines::new(dir.join("metrics.jsonl")))
    };
    let whole_dir = folder.path().join("whole");
    let mut whole = trainer(&whole_dir, model());
    whole.train(&mut NoCallback).unwrap();
    for stop in 1..STEPS {
        let dir = folder.path().join(format!("stopped-{stop}"));
        assert!(trainer(&dir, model()).train(&mut StopAfter(stop)).unwrap().interrupted);
        let mut resumed = trainer(&dir, Qwen2::random(model().config(), 9, &Device::flex()));
        assert_eq!(resumed.resume(&Checkpoint::newest(&dir).unwrap().0).unwrap(), []);
        resumed.train(&mut NoCallback).unwrap();
        assert_eq!(weights(resumed.model()), weights(whole.model()), "stopped at {stop}");
        assert_eq!(metrics(&dir), metrics(&whole_dir), "stopped at {stop}");
    }
}

#[test]
fn grpo_is_resumed_in_the_middle_of_a_generation_batch() {
    resumes(|training| {
        let mut setup = setup(&["ab", "hello", "xyz", "q"]);
        setup.config.steps_per_generation = Some(2);
        setup.config.num_iterations = 2;
        setup.config.sync_ref_model = true;
        setup.config.ref_model_sync_steps = 3;
        setup.reference = Some(Box::new(model()));
        let mut config = GrpoConfig::default();
        config.beta = 0.05;
        config.use_adaptive_entropy = true;
        config.entropy_coef = 0.01;
        config.entropy_target = 5.0;
        Grpo::new(setup, config, training).unwrap()
    });
}

#[test]
fn rloo_is_resumed_in_the_middle_of_a_generation_batch() {
    resumes(|training| {
        let mut setup = setup(&["ab", "hello", "xyz", "q"]);
        setup.config.steps_per_generation = Some(3);
        setup.config.num_generations = 3;
        setup.reference = Some(Box::new(model()));
        Rloo::new(setup, RlooConfig::default(), training).unwrap()
    });
}

#[test]
fn a_step_that_is_not_finite_names_the_prompts() {
    let mut training = training(9, 8);
    training.learning_rate = 1e9;
    let grpo = Grpo::new(setup(&["ab", "hello", "xyz", "q"]), GrpoConfig::default(), &training).unwrap();
    let error = Trainer::new(model(), grpo, training).unwrap().train(&mut NoCallback).unwrap_err();
    match error {
        TrainError::NotFinite { rows, .. } => assert!(rows.len() == 2 && rows.iter().all(|row| *row < 4), "{rows:?}"),
        // Weights so far from any may also leave nothing to draw from.
        other => assert!(matches!(other, TrainError::Generate(_)), "{other}"),
    }
}

/// Judges so many batches, then fails.
struct Failing(usize);

impl Reward for Failing {
    fn name(&self) -> &str {
        "failing"
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        if self.0 == 0 {
            return Err(RewardError::Failed { reward: "failing".into(), reason: "out of ideas".into() });
        }
        self.0 -= 1;
        Ok((0..completions.len()).map(|index| Some(index as f64)).collect())
    }
}

#[test]
fn a_run_whose_reward_fails_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let training = training(5, 8);
    let trainer = |batches| {
        let mut setup = setup(&["ab", "q"]);
        setup.rewards = vec![Box::new(Failing(batches))];
        let grpo = Grpo::new(setup, GrpoConfig::default(), &training).unwrap();
        Trainer::new(model(), grpo, training.clone())
            .unwrap()
            .with_run_dir(RunDir::create(folder.path(), Vec::new()).unwrap())
    };
    let error = trainer(3).train(&mut NoCallback).unwrap_err();
    assert_eq!(error.to_string(), "reward `failing` failed: out of ideas");
    let (checkpoint, _) = Checkpoint::newest(folder.path()).unwrap();
    assert!(checkpoint.dir().ends_with("checkpoint-3"));
    let mut resumed = trainer(usize::MAX);
    resumed.resume(&checkpoint).unwrap();
    assert_eq!(resumed.train(&mut NoCallback).unwrap().global_step, 5);
}

/// Every evaluation draws with the same random numbers, and leaves no trace in what is trained.
#[test]
fn held_out_prompts_are_completed_and_judged() {
    let run = |evaluates: bool| {
        let mut training = training(4, 8);
        if evaluates {
            training.eval_strategy = IntervalStrategy::Steps;
            training.eval_steps = Some(2);
            training.eval_on_start = true;
            training.per_device_eval_batch_size = 4;
            training.metric_for_best_model = Some("reward".into());
        }
        let grpo = Grpo::new(setup(&["ab", "q"]), GrpoConfig::default(), &training).unwrap();
        let mut trainer = Trainer::new(model(), grpo, training.clone()).unwrap();
        if evaluates {
            let mut held_out = setup(&["xyz", "hello", "w"]);
            held_out.config.num_generations_eval = Some(2);
            let evaluation = Grpo::for_evaluation(held_out, GrpoConfig::default(), &training).unwrap();
            trainer = trainer.with_evaluation(evaluation).unwrap();
        }
        trainer.train(&mut NoCallback).unwrap();
        trainer
    };
    let mut trainer = run(true);
    assert_eq!(weights(trainer.model()), weights(run(false).model()));
    let rows = trainer.evaluations().to_vec();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [0, 2, 4]);
    for metric in ["reward", "rewards/upper_case/mean", "completions/mean_length", "frac_reward_zero_std", "entropy"] {
        assert!(rows[0].metric(metric).is_some(), "{metric}: {:?}", rows[0].metrics);
    }
    assert_ne!(rows[0].metric("reward"), rows[2].metric("reward"));
    let again = trainer.evaluate().unwrap().unwrap();
    assert_eq!((again.metric("reward"), again.loss), (rows[2].metric("reward"), rows[2].loss));
}

/// The mean over all completions, however they are cut into passes.
#[test]
fn the_size_of_a_pass_does_not_change_an_evaluation() {
    let evaluated = |batch_size| {
        let mut config = RlooConfig::default();
        config.beta = 0.0;
        let mut held_out = setup(&["xyz", "hello", "w"]);
        held_out.config.num_generations_eval = Some(3);
        let mut rloo = Rloo::for_evaluation(held_out, config, &training(1, 8)).unwrap();
        evaluate(&model(), &mut rloo, batch_size).unwrap()
    };
    let (whole, cut) = (evaluated(9), evaluated(2));
    assert!((whole.loss - cut.loss).abs() < 1e-6, "{} {}", whole.loss, cut.loss);
    for (name, value) in whole.metrics.iter().filter(|(name, _)| !name.starts_with("time/")) {
        assert!((value - cut.metrics[name]).abs() < 1e-6, "{name}: {value} {}", cut.metrics[name]);
    }
}

/// What the sampler saw is what a forward pass gives, to the bit: both ways to the divergence from a reference lead to the
/// same weights.
#[test]
fn the_sampler_tells_how_far_the_policy_is_from_the_reference() {
    let drawn = Arc::new(Mutex::new(Vec::<Vec<u32>>::new()));
    let run = |setup: &dyn Fn(&mut RolloutSetup)| {
        let mut rollouts = self::setup(&["ab", "hello", "xyz", "q"]);
        rollouts.reference = Some(Box::new(Qwen2::random(model().config(), 9, &Device::flex())));
        setup(&mut rollouts);
        let training = training(1, 16);
        let rloo = Rloo::new(rollouts, RlooConfig::default(), &training).unwrap();
        let mut trainer = Trainer::new(model(), rloo, training).unwrap();
        trainer.train(&mut NoCallback).unwrap();
        let row = trainer.log_history()[0].clone();
        (weights(trainer.model()), row.loss, row.metric("kl"))
    };
    let sampled = run(&|setup| {
        let drawn = Arc::clone(&drawn);
        setup.rewards.push(Box::new(RewardFn::new("noted", move |input: &RewardInput<'_>| {
            drawn.lock().unwrap().push(input.completion_ids.to_vec());
            Some(0.0)
        })));
    });
    // The same completions, of which nobody says how likely they were.
    let computed = run(&|setup| {
        let drawn = drawn.lock().unwrap().clone();
        setup.rewards.push(Box::new(RewardFn::new("noted", |_: &RewardInput<'_>| Some(0.0))));
        setup.rollout_fn = Some(Box::new(move |_: &[&[u32]], count| {
            let completion = |ids: &Vec<u32>| Completion { ids: ids.clone(), ..Completion::default() };
            Ok(drawn.chunks(count).map(|group| group.iter().map(completion).collect()).collect())
        }));
    });
    assert!(sampled.2.is_some_and(|kl| kl.abs() > 1e-3), "{:?}", sampled.2);
    assert_eq!((sampled.1, sampled.2), (computed.1, computed.2));
    assert!(sampled.0 == computed.0, "other weights");
}

/// A reference that becomes the policy after every second step is as far from it as nothing in the evaluation there.
#[test]
fn an_evaluation_has_the_reference_of_the_training_under_way() {
    let mut training = training(4, 8);
    training.eval_strategy = IntervalStrategy::Steps;
    training.eval_steps = Some(1);
    training.per_device_eval_batch_size = 8;
    let setup = || {
        let mut setup = setup(&["ab", "q"]);
        setup.reference = Some(Box::new(model()));
        (setup.config.sync_ref_model, setup.config.ref_model_sync_steps, setup.config.ref_model_mixup_alpha) =
            (true, 2, 1.0);
        setup
    };
    let mut config = GrpoConfig::default();
    config.beta = 0.1;
    let grpo = Grpo::new(setup(), config.clone(), &training).unwrap();
    let evaluation = Grpo::for_evaluation(setup(), config, &training).unwrap();
    let mut trainer = Trainer::new(model(), grpo, training).unwrap().with_evaluation(evaluation).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let kls: Vec<f64> = trainer.evaluations().iter().map(|row| row.metric("kl").unwrap()).collect();
    assert!(kls[0] > 1e-6 && kls[2] > 1e-6, "{kls:?}");
    assert_eq!((kls[1], kls[3]), (0.0, 0.0));
}

fn fault(change: impl FnOnce(&mut RolloutSetup, &mut TrainingConfig)) -> String {
    let mut setup = setup(&["ab", "q"]);
    let mut training = training(2, 8);
    change(&mut setup, &mut training);
    let grpo = Grpo::new(setup, GrpoConfig::default(), &training);
    let trained = grpo
        .and_then(|grpo| Trainer::new(model(), grpo, training))
        .and_then(|mut trainer| trainer.train(&mut NoCallback));
    trained.unwrap_err().to_string()
}

#[test]
fn bad_input_is_told_before_anything_is_drawn() {
    assert_eq!(
        fault(|setup, _| setup.config.num_generations = 1),
        "num_generations is 1, expected 2 or more: completions of a prompt are compared"
    );
    assert_eq!(fault(|setup, _| setup.prompts.clear()), "the dataset holds no sequence with a token to learn");
    assert_eq!(fault(|setup, _| setup.rewards.clear()), "there is no reward");
    assert_eq!(
        fault(|setup, _| setup.prompts[1].prompt_ids = vec![65; 5000]),
        format!(
            "prompt 1 of the dataset has 5000 tokens, and the model's context holds {}",
            model().config().max_position_embeddings
        )
    );
    assert_eq!(fault(|setup, _| setup.prompts[0].prompt_ids.clear()), "prompt 0 of the dataset has no token");
    assert_eq!(
        fault(|_, training| training.per_device_train_batch_size = 6),
        "6 completions are drawn at a time (per_device_train_batch_size 6 times steps_per_generation 1), expected a \
         multiple of num_generations, 4"
    );
    assert_eq!(
        fault(|setup, _| setup.rewards = vec![Box::new(RewardFn::new("nan", |_: &RewardInput<'_>| Some(f64::NAN)))]),
        "reward `nan` is NaN for completion 0 of its batch, to the prompt `ab`, expected a finite number"
    );
    assert_eq!(
        fault(|setup, _| setup.rollout_fn = Some(Box::new(|_: &[&[u32]], _| Ok(Vec::new())))),
        "cannot draw completions: 0 groups of completions for 2 prompts"
    );
}

#[test]
fn a_method_needs_the_reference_that_its_settings_speak_of() {
    let mut config = GrpoConfig::default();
    config.beta = 0.1;
    let error = Grpo::new(setup(&["ab", "q"]), config, &training(1, 8)).err().unwrap();
    assert_eq!(error.to_string(), "beta is 0.1, which needs a reference");
}
