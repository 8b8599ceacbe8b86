//! Completions do not depend on how they were computed: cache, chunks, batches, shared prompts, order of arrival.

use burn::tensor::Device;
use reheat_generate::{
    Engine, EngineConfig, EventKind, FinishReason, Flow, GenerateConfig, GenerateError, Generation, RequestId,
    generate, rollout,
};
use reheat_kernels::{Compute, token_logprobs};
use reheat_model::{Qwen2, Qwen2Config};

fn model() -> Qwen2 {
    Qwen2::random(&Qwen2Config::tiny(64), 11, &Device::flex())
}

fn greedy(max_new_tokens: usize) -> GenerateConfig {
    GenerateConfig { max_new_tokens, temperature: 0.0, ..GenerateConfig::default() }
}

fn complete(model: &Qwen2, prompt: &[u32], config: &GenerateConfig) -> Generation {
    generate(model, prompt, config, &mut |_| Flow::Continue).expect("the prompt suits the model").0
}

/// Prompts of unequal lengths.
fn prompts() -> Vec<Vec<u32>> {
    (0..7).map(|index| (0..1 + index * 5).map(|i| (i * 7 + index * 3 + 1) % 64).collect()).collect()
}

/// Log-probabilities of a completion by a pass without a cache.
fn fresh_logprobs(model: &Qwen2, prompt: &[u32], ids: &[u32]) -> Vec<f32> {
    let all: Vec<i32> = prompt.iter().chain(ids).map(|id| *id as i32).collect();
    let hidden = model.hidden_states(&all, &[all.len()]);
    let first = prompt.len() - 1;
    let scores =
        token_logprobs(hidden.narrow(0, first, ids.len()), model.head_weight(), &all[prompt.len()..], model.compute());
    scores.logprobs.into_data().try_to_vec().expect("scores are f32")
}

/// The same numbers to the bit: a policy gradient divides by what was sampled.
#[test]
fn sampled_logprobs_are_those_of_a_fresh_pass() {
    let in_bf16 = {
        let mut model = model();
        model.set_compute(Compute::Bf16);
        model
    };
    for model in [model(), in_bf16] {
        let config =
            GenerateConfig { max_new_tokens: 30, seed: 3, num_return_sequences: 3, ..GenerateConfig::default() };
        for max_batch_size in [1, 5, 21] {
            let rollout = rollout(&model, &prompts(), &config, max_batch_size, &mut |_, _, _| Flow::Continue).unwrap();
            for (prompt, samples) in prompts().iter().zip(&rollout.completions) {
                for completion in samples {
                    assert_eq!(completion.logprobs, fresh_logprobs(&model, prompt, &completion.ids));
                }
            }
        }
    }
}

#[test]
fn a_batch_gives_what_each_prompt_gets_alone() {
    let model = model();
    for config in [greedy(12), GenerateConfig { max_new_tokens: 12, seed: 9, ..GenerateConfig::default() }] {
        for max_batch_size in [1, 2, 3, 16] {
            let batch = rollout(&model, &prompts(), &config, max_batch_size, &mut |_, _, _| Flow::Continue).unwrap();
            for (index, prompt) in prompts().iter().enumerate() {
                let mut engine = Engine::new(&model, EngineConfig { cache_tokens: 64, ..EngineConfig::default() });
                engine.submit_with_stream(prompt, &config, index as u64).unwrap();
                let alone = drain(&mut engine).remove(0);
                assert_eq!(batch.completions[index][0].ids, alone.2.ids, "prompt {index}, batch {max_batch_size}");
            }
        }
    }
}

/// Runs an engine to its end: request, sample and what was drawn, in order of completion.
fn drain(engine: &mut Engine) -> Vec<(RequestId, usize, Generation)> {
    let mut open: Vec<(RequestId, usize, Generation)> = Vec::new();
    let mut done = Vec::new();
    while !engine.is_idle() {
        for event in engine.step() {
            let place =
                open.iter().position(|(request, sample, _)| (*request, *sample) == (event.request, event.sample));
            let place = place.unwrap_or_else(|| {
                let empty = Generation { ids: vec![], logprobs: vec![], finish_reason: FinishReason::Length };
                open.push((event.request, event.sample, empty));
                open.len() - 1
            });
            match event.kind {
                EventKind::Token(token) => {
                    open[place].2.ids.push(token.id);
                    open[place].2.logprobs.push(token.logprob);
                }
                EventKind::Finished(reason) => {
                    open[place].2.finish_reason = reason;
                    done.push(open.remove(place));
                }
                EventKind::Failed(error) => panic!("{error}"),
            }
        }
    }
    done
}

#[test]
fn samples_of_one_prompt_compute_it_once_and_are_those_drawn_alone() {
    let model = model();
    let prompt = prompts().remove(6);
    let config = GenerateConfig { max_new_tokens: 9, seed: 1, num_return_sequences: 5, ..GenerateConfig::default() };
    // Room for two at a time, so that rows pass from sample to sample; then for one; then for all.
    for (max_batch_size, cache_tokens) in [(4, 2 * 40), (4, 40), (8, 512)] {
        let mut engine = Engine::new(&model, EngineConfig { max_batch_size, cache_tokens, prefill_chunk: 8 });
        engine.submit(&prompt, &config).unwrap();
        let mut done = drain(&mut engine);
        assert_eq!(engine.stats().prompt_tokens, prompt.len());
        done.sort_by_key(|(_, sample, _)| *sample);
        assert_eq!(done.len(), 5);
        for (_, sample, completion) in &done {
            let one = GenerateConfig { num_return_sequences: 1, ..config.clone() };
            let mut engine = Engine::new(&model, EngineConfig::default());
            engine.submit_with_stream(&prompt, &one, *sample as u64).unwrap();
            assert_eq!(drain(&mut engine)[0].2.ids, completion.ids, "sample {sample}, cache of {cache_tokens}");
        }
        assert!(done.windows(2).any(|pair| pair[0].2.ids != pair[1].2.ids), "all samples are equal");
    }
}

#[test]
fn a_place_that_becomes_free_is_taken_at_once() {
    let model = model();
    let mut engine = Engine::new(&model, EngineConfig { max_batch_size: 2, ..EngineConfig::default() });
    for len in [2, 20, 3, 3] {
        engine.submit(&[5, 6], &greedy(len)).unwrap();
    }
    let mut passes = 0;
    while !engine.is_idle() {
        engine.step();
        passes += 1;
        assert!(engine.num_running() <= 2);
    }
    // The long one alone takes 1 + 19 passes; each of the others begins with a pass of its own beside it.
    assert!(passes <= 20 + 3, "{passes} passes");
}

#[test]
fn long_prompts_are_cut_into_chunks_without_effect() {
    let model = model();
    let prompt: Vec<u32> = (0..200).map(|i| i * 5 % 64).collect();
    let whole = complete(&model, &prompt, &greedy(8));
    for prefill_chunk in [1, 7, 64] {
        let mut engine = Engine::new(&model, EngineConfig { prefill_chunk, ..EngineConfig::default() });
        engine.submit(&prompt, &greedy(8)).unwrap();
        assert_eq!(drain(&mut engine)[0].2.ids, whole.ids);
    }
}

#[test]
fn end_tokens_and_callers_stop() {
    let model = model();
    let free = complete(&model, &[1], &greedy(8));
    assert_eq!((free.ids.len(), free.finish_reason), (8, FinishReason::Length));
    let config = GenerateConfig { eos_token_ids: vec![free.ids[0]], ..greedy(8) };
    let ended = complete(&model, &[1], &config);
    assert_eq!((ended.ids.len(), ended.finish_reason), (1, FinishReason::Stop));
    let mut seen = 0;
    let stopped = generate(&model, &[1], &greedy(8), &mut |_| {
        seen += 1;
        if seen == 3 { Flow::Stop } else { Flow::Continue }
    })
    .unwrap()
    .0;
    assert_eq!((&stopped.ids[..], stopped.finish_reason), (&free.ids[..3], FinishReason::Stop));
}

#[test]
fn stopped_and_cancelled_requests_leave_their_rows() {
    let model = model();
    let config = GenerateConfig { num_return_sequences: 4, ..greedy(10) };
    let mut engine = Engine::new(&model, EngineConfig { max_batch_size: 2, cache_tokens: 26, prefill_chunk: 2 });
    for round in 0..6 {
        let request = engine.submit(&[1, 2, 3], &config).unwrap();
        // At every stage: before the prompt is done, after, and with samples that wait.
        for _ in 0..round {
            engine.step();
        }
        if round % 2 == 0 {
            engine.cancel(request)
        } else {
            engine.stop(request, 0)
        }
        while !engine.is_idle() {
            engine.step();
        }
        // The whole cache is free again.
        engine.submit(&[1; 16], &greedy(10)).unwrap();
        assert_eq!(drain(&mut engine)[0].2.ids.len(), 10, "round {round}");
    }
}

#[test]
fn the_context_and_the_cache_are_limits() {
    let model = model();
    let generation = complete(&model, &vec![1; 250], &greedy(100));
    assert_eq!((generation.ids.len(), generation.finish_reason), (6, FinishReason::Length));
    let error = generate(&model, &[1; 256], &greedy(1), &mut |_| Flow::Continue).unwrap_err();
    assert_eq!(error.to_string(), "the prompt has 256 tokens, and the model's context holds 256");
    assert_eq!(generate(&model, &[], &greedy(1), &mut |_| Flow::Continue).unwrap_err(), GenerateError::EmptyPrompt);
    assert!(generate(&model, &[64], &greedy(1), &mut |_| Flow::Continue).is_err());
    let mut engine = Engine::new(&model, EngineConfig { cache_tokens: 10, ..EngineConfig::default() });
    let error = engine.submit(&[1, 2, 3], &greedy(8)).unwrap_err();
    assert_eq!(error.to_string(), "prompt and completion need 11 tokens of cache, and it holds 10");
    let error = rollout(&model, &[vec![1], vec![]], &greedy(1), 2, &mut |_, _, _| Flow::Continue).unwrap_err();
    assert_eq!(error.to_string(), "prompt 2");
    assert!(complete(&model, &[1], &greedy(0)).ids.is_empty());
}
