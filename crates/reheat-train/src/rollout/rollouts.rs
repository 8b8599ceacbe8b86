//! The generation batch under way: drawn, judged, and given out by micro-batches.

use std::time::Instant;

use burn::tensor::Device;
use reheat_data::{Prompt, TrainSamplingStrategy, epoch_order};
use reheat_kernels::{Kernels, TokenLogprobs, chosen_kernels};
use reheat_model::{Qwen2, Qwen2Config};
use reheat_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::batch::Place;
use super::sample::{Request, Source};
use super::schedule::{MicroStep, Schedule};
use super::score::{self, Advantages};
use super::tool_calls::Conversations;
use super::{
    Completion, CompletionRecord, CompletionsFn, RolloutBatch, RolloutConfig, RolloutFn, Sample, ToolUse, numbers,
};
use crate::answers::Answers;
use crate::dpo::mix;
use crate::method::{identity_of, settings_of};
use crate::tools::Toolbox;
use crate::{
    Checkpointing, Measures, ModelPass, Reward, StepContext, ToolError, Tools, TrainError, TrainingConfig,
    check_reward_columns,
};

/// What completions are drawn for, and what they are judged by.
#[expect(missing_debug_implementations, reason = "rewards and functions may have nothing to show")]
#[non_exhaustive]
pub struct RolloutSetup {
    /// What is to be completed.
    pub prompts: Vec<Prompt>,
    /// Turns completions into texts for the rewards, and says which tokens end them.
    pub tokenizer: Tokenizer,
    /// What judges completions, each with a name of its own.
    pub rewards: Vec<Box<dyn Reward>>,
    /// How completions are drawn and used.
    pub config: RolloutConfig,
    /// What the policy is kept near; needed where `beta` is not 0. A clone of the model before training shares all
    /// weights that are not trained.
    pub reference: Option<Box<Qwen2>>,
    /// Writes completions in place of the engine.
    pub rollout_fn: Option<Box<RolloutFn>>,
    /// Is told the completions of every generation batch.
    pub completions_fn: Option<Box<CompletionsFn>>,
    /// What the model may call in the course of a completion. Prompts are to be conversations that declare them.
    pub tools: Option<Tools>,
}

impl RolloutSetup {
    /// Prompts whose completions the rewards judge, with every setting at its default.
    pub fn new(prompts: Vec<Prompt>, tokenizer: Tokenizer, rewards: Vec<Box<dyn Reward>>) -> Self {
        Self {
            prompts,
            tokenizer,
            rewards,
            config: RolloutConfig::default(),
            reference: None,
            rollout_fn: None,
            completions_fn: None,
            tools: None,
        }
    }
}

/// What completions are drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Training,
    /// All prompts are completed at a time, with the same random numbers in every evaluation.
    Evaluation,
}

/// The generation batch of an evaluation: no training comes so far.
const EVALUATION: u64 = u32::MAX as u64;

/// What an objective asks of completions.
pub(super) struct Asks {
    pub(super) beta: f64,
    /// Whether its advantages depend on the KL divergences.
    pub(super) judges_divergence: bool,
    /// What is wrong with its own settings.
    pub(super) faults: Vec<String>,
}

/// A generation batch that was judged, in groups.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Judged<'a> {
    /// `[completion][reward]`; `None` where a reward had nothing to say.
    pub rewards: &'a [Vec<Option<f64>>],
    /// Of each reward.
    pub weights: &'a [f64],
    /// Completions in a row that have one prompt.
    pub num_generations: usize,
    /// Estimates of the KL divergence of the policy that wrote from the reference: `log π - log π_ref`, summed over the
    /// tokens of each completion that count, in nats. 0 where the objective did not ask for them, or `beta` is 0.
    pub divergences: &'a [f64],
}

/// What an objective makes of rewards.
pub(super) type Judge<'a> = dyn Fn(&Judged) -> Advantages + 'a;

/// Draws, judges and keeps completions.
pub(crate) struct Rollouts {
    prompts: Vec<Prompt>,
    tokenizer: Tokenizer,
    rewards: Vec<Box<dyn Reward>>,
    names: Vec<String>,
    pub(super) config: RolloutConfig,
    pub(super) schedule: Schedule,
    source: Source,
    toolbox: Option<Toolbox>,
    purpose: Purpose,
    pub(super) reference: Option<Box<Qwen2>>,
    completions_fn: Option<Box<CompletionsFn>>,
    /// Tokens that a completion ends with, unless it was cut.
    ends: Vec<u32>,
    /// Whether log-probabilities under the policy that wrote are computed before training: where it may have changed
    /// since. Elsewhere they are those of the first pass itself.
    keeps_old: bool,
    judges_divergence: bool,
    seed: u64,
    pub(super) buffer: Option<Generation>,
    /// Step after which the reference last followed the policy.
    pub(super) synced_at: u64,
}

/// A generation batch, in the order in which it is trained on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generation {
    pub(super) index: u64,
    pub(super) samples: Vec<Sample>,
}

impl Rollouts {
    /// Checks the settings.
    pub(super) fn new(
        setup: RolloutSetup,
        training: &TrainingConfig,
        purpose: Purpose,
        asks: Asks,
    ) -> Result<Self, TrainError> {
        let Asks { beta, judges_divergence, mut faults } = asks;
        let RolloutSetup { prompts, tokenizer, rewards, config, reference, rollout_fn, completions_fn, tools } = setup;
        if beta != 0.0 && reference.is_none() {
            faults.push(format!("beta is {beta}, which needs a reference"));
        }
        faults.extend(config.faults());
        let names: Vec<String> = rewards.iter().map(|reward| reward.name().to_owned()).collect();
        faults.extend(config.reward_faults(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        if config.sync_ref_model && reference.is_none() {
            faults.push("sync_ref_model needs a reference: beta is 0".into());
        }
        // The schedule divides by what is wrong otherwise.
        let num_generations_eval = config.num_generations_eval.unwrap_or(config.num_generations);
        let schedule = match purpose {
            _ if !faults.is_empty() => Err(Vec::new()),
            Purpose::Training => Schedule::new(&config, training, prompts.len()),
            Purpose::Evaluation => Ok(Schedule::of_evaluation(num_generations_eval, training, prompts.len())),
        };
        let schedule = schedule.map_err(|more| TrainError::Config(faults.into_iter().chain(more).collect()))?;
        let pad = tokenizer.special_tokens().pad().map(|token| token.id);
        Ok(Self {
            ends: tokenizer.eos_ids().iter().copied().chain(pad).collect(),
            keeps_old: !schedule.is_aligned(),
            judges_divergence: judges_divergence && beta != 0.0,
            source: rollout_fn.map_or(Source::Engine, Source::Function),
            toolbox: tools.map(|tools| Toolbox::new(tools, &tokenizer)).transpose()?,
            purpose,
            seed: training.seed,
            prompts,
            tokenizer,
            rewards,
            names,
            config,
            schedule,
            reference,
            completions_fn,
            buffer: None,
            synced_at: 0,
        })
    }

    /// Completions that an epoch trains on, each as often as it is.
    pub(crate) fn num_rows(&self) -> usize {
        if self.prompts.is_empty() { 0 } else { self.schedule.rows_per_epoch() }
    }

    pub(super) fn num_prompts(&self) -> usize {
        self.prompts.len()
    }

    pub(crate) fn temperature(&self) -> f64 {
        self.config.temperature
    }

    /// Settings and prompts, as [`Method::identity`](crate::Method::identity) wants them.
    pub(super) fn identity(&self, method: &str, own: Map<String, Value>) -> Map<String, Value> {
        let rows = self.prompts.iter().flat_map(|prompt| prompt.prompt_ids.iter().map(|id| *id as i32).chain([-1]));
        let mut identity = settings_of(&self.config);
        identity.extend(own);
        // Memory and speed, never a completion.
        identity.remove("rollout_batch_size");
        // No completion that is trained on depends on it.
        identity.remove("num_generations_eval");
        if let Some(toolbox) = &self.toolbox {
            identity.insert("tools".into(), json!(toolbox.schemas()));
        }
        identity.insert("rewards".into(), json!(self.names));
        identity_of(method, identity, self.prompts.len(), rows)
    }

    /// Whether the prompts suit the model and the rewards.
    pub(crate) fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        if self.prompts.is_empty() {
            return Err(TrainError::EmptyDataset);
        }
        let vocab_size = model.vocab_size;
        for (index, Prompt { prompt_ids, .. }) in self.prompts.iter().enumerate() {
            let (tokens, context) = (prompt_ids.len(), model.max_position_embeddings);
            match tokens {
                0 => return Err(TrainError::EmptyPrompt { index }),
                _ if tokens >= context => return Err(TrainError::PromptTooLong { index, tokens, context }),
                _ => {}
            }
            if let Some(&id) = prompt_ids.iter().find(|id| **id as usize >= vocab_size) {
                return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
            }
        }
        if self.toolbox.is_some()
            && let Some(index) = self.prompts.iter().position(|prompt| !prompt.prompt.is_array())
        {
            return Err(ToolError::Text { index }.into());
        }
        for reward in &self.rewards {
            check_reward_columns(reward.as_ref(), self.prompts.iter().map(|prompt| &prompt.columns))?;
        }
        Ok(())
    }

    /// The micro-batches of a step, drawn and judged where they are the first of their generation batch; or those of an
    /// evaluation at `indices`.
    pub(crate) fn batches(
        &mut self,
        indices: &[usize],
        context: &StepContext,
        judge: &Judge,
    ) -> Result<Vec<RolloutBatch>, TrainError> {
        match self.purpose {
            Purpose::Training => self.training_batches(context, judge),
            Purpose::Evaluation => Ok(vec![self.evaluation_batch(indices, context, judge)?]),
        }
    }

    /// The completions at `indices`; all are drawn when the first is asked for.
    fn evaluation_batch(
        &mut self,
        indices: &[usize],
        context: &StepContext,
        judge: &Judge,
    ) -> Result<RolloutBatch, TrainError> {
        let started = Instant::now();
        self.synchronise(context);
        let (Some(first), Some(last)) = (indices.first(), indices.last()) else { unreachable!("a chunk of rows") };
        let of_generation = if *first == 0 { self.draw(EVALUATION, context, judge)? } else { Measures::default() };
        let samples = &self.buffer.as_ref().expect("drawn with the first chunk").samples[*first..=*last];
        let counting = samples.iter().map(Sample::num_counting).sum::<usize>() as f64;
        let place = Place {
            accumulation_steps: 1,
            is_last: false,
            num_items_in_batch: counting.max(1.0),
            iteration: 0,
            step_started: started,
            seconds_before: 0.0,
            num_tokens_in_step: 0,
            max_completion_length: self.config.max_completion_length,
            is_evaluation: true,
        };
        let mut batch = RolloutBatch::new(samples, |prompt| &self.prompts[prompt].prompt_ids, place);
        batch.of_generation = of_generation;
        Ok(batch)
    }

    fn training_batches(&mut self, context: &StepContext, judge: &Judge) -> Result<Vec<RolloutBatch>, TrainError> {
        let step_started = Instant::now();
        self.synchronise(context);
        let micro_steps = self.schedule.micro_steps(context.step);
        let accumulation_steps = micro_steps.len();
        let mut batches = Vec::with_capacity(accumulation_steps);
        for (index, micro_step) in micro_steps.into_iter().enumerate() {
            let mut of_generation = Measures::default();
            if self.buffer.as_ref().is_none_or(|generation| generation.index != micro_step.generation) {
                of_generation = self.draw(micro_step.generation, context, judge)?;
            }
            let place = Place {
                accumulation_steps,
                is_last: index + 1 == accumulation_steps,
                num_items_in_batch: 0.0,
                iteration: micro_step.iteration,
                step_started,
                seconds_before: 0.0,
                num_tokens_in_step: 0,
                max_completion_length: self.config.max_completion_length,
                is_evaluation: false,
            };
            let mut batch = self.batch(micro_step, place);
            batch.of_generation = of_generation;
            batches.push(batch);
        }
        let seconds_before = step_started.elapsed().as_secs_f64();
        let num_tokens_in_step = batches.iter().map(|batch| batch.sequences().num_tokens()).sum();
        for batch in &mut batches {
            batch.place = Place { seconds_before, num_tokens_in_step, ..batch.place };
        }
        Ok(batches)
    }

    /// One part of the generation batch under way.
    fn batch(&self, micro_step: MicroStep, place: Place) -> RolloutBatch {
        let samples = &self.buffer.as_ref().expect("a generation batch was just drawn").samples;
        let counting = samples.iter().map(Sample::num_counting).sum::<usize>();
        // The tokens of the generation batch, scaled to one step, as in TRL.
        let share = place.accumulation_steps as f64 / self.schedule.steps_per_generation as f64;
        let place = Place { num_items_in_batch: counting.max(1) as f64 * share, ..place };
        let size = samples.len() / self.schedule.steps_per_generation;
        let part = &samples[micro_step.slice * size..][..size];
        RolloutBatch::new(part, |prompt| &self.prompts[prompt].prompt_ids, place)
    }

    /// Draws and judges a generation batch, and gives what is told of it.
    fn draw(&mut self, generation: u64, context: &StepContext, judge: &Judge) -> Result<Measures, TrainError> {
        let started = Instant::now();
        let prompts = self.schedule.prompts(generation);
        // The seed in the high half, so that no generation batch of a run with another seed draws the same.
        let seed = self.seed.rotate_left(32) ^ generation;
        let completions = self.complete(&prompts, context.model, seed)?;
        let tool_uses: Vec<ToolUse> = match self.toolbox {
            Some(_) => completions.iter().flatten().map(|completion| completion.tool_use.clone()).collect(),
            None => vec![ToolUse::default(); prompts.len() * self.schedule.num_generations],
        };
        let mut samples = score::samples(&prompts, completions, &self.ends, self.config.mask_truncated_completions);
        let drawing = started.elapsed().as_secs_f64();
        if self.keeps_old || (self.judges_divergence && !self.samples_as_it_trains(context.model, &samples)) {
            self.fill(&mut samples, context.model, context.micro_batch_size, |sample| &mut sample.old_logprobs);
        }
        if let Some(reference) = &self.reference {
            self.fill(&mut samples, reference, context.micro_batch_size, |sample| &mut sample.ref_logprobs);
        }

        let judging = Instant::now();
        let texts = score::texts(&self.tokenizer, &samples)?;
        let rewards = score::score(&mut self.rewards, &self.prompts, &samples, (&texts, &tool_uses), &self.tokenizer)?;
        let weights = self.config.weights(self.names.len());
        let num_generations = self.schedule.num_generations;
        let divergences = self.divergences(&samples);
        let judged = Judged { rewards: &rewards, weights: &weights, num_generations, divergences: &divergences };
        let advantages = judge(&judged);
        for (sample, advantage) in samples.iter_mut().zip(&advantages.values) {
            sample.advantage = *advantage;
        }
        let mut measures = score::measure(&samples, &self.names, &rewards, &weights, advantages.frac_reward_zero_std);
        if self.judges_divergence {
            let num_tokens = samples.iter().map(Sample::num_counting).sum::<usize>();
            measures = measures.with("kl", divergences.iter().sum(), num_tokens as f64);
        }
        if self.toolbox.is_some() {
            measures = score::measure_tools(measures, &tool_uses);
        }
        let drawn: usize = samples.iter().map(Sample::num_own).sum();
        measures = measures
            .with("time/generation", drawing, 1.0)
            .with("time/rewards", judging.elapsed().as_secs_f64(), 1.0)
            .with("time/generated_tokens_per_second", drawn as f64, drawing);
        self.tell(context.step + 1, &samples, (texts, &tool_uses), &rewards)?;

        self.buffer = Some(Generation { index: generation, samples: self.shuffled(samples, generation) });
        Ok(measures)
    }
}

impl Rollouts {
    /// Completions of each of these prompts, with whatever tools say in the course of them.
    fn complete(&mut self, prompts: &[usize], model: &Qwen2, seed: u64) -> Result<Vec<Vec<Completion>>, TrainError> {
        let Self { tokenizer, config, source, toolbox, .. } = self;
        let rounded = if matches!(source, Source::Engine) { model.rounded_for_decoding() } else { None };
        let model = rounded.as_ref().unwrap_or(model);
        let count = self.schedule.num_generations;
        let ids: Vec<&[u32]> = prompts.iter().map(|prompt| &*self.prompts[*prompt].prompt_ids).collect();
        let streams = (0..).step_by(count);
        let budget = config.max_completion_length;
        let requests: Vec<Request<'_>> =
            ids.iter().zip(streams).map(|(ids, stream)| Request { ids, budget, stream }).collect();
        let completions = source.complete(model, &requests, count, config, (tokenizer.eos_ids(), seed))?;
        let Some(toolbox) = toolbox else { return Ok(completions) };
        let conversations = Conversations { model, tokenizer, config, seed };
        conversations.carry_on(source, toolbox, &ids, completions)
    }

    /// Whether the sampler's log-probabilities have the very bits of those of the training forward pass: kernels that add
    /// in one order, and no temperature to divide by. A test holds it, and every step tells the difference.
    fn samples_as_it_trains(&self, model: &Qwen2, samples: &[Sample]) -> bool {
        let all_known = samples.iter().all(|sample| sample.sampler_logprobs.len() == sample.ids.len());
        all_known
            && matches!(self.source, Source::Engine)
            && model.device() == Device::flex()
            && chosen_kernels() == Kernels::Fused
            && self.config.temperature == 1.0
    }

    /// Of each completion how far the policy that wrote it is from the reference: see [`Judged::divergences`].
    fn divergences(&self, samples: &[Sample]) -> Vec<f64> {
        let of = |sample: &Sample| {
            let Sample { old_logprobs, sampler_logprobs, ref_logprobs, .. } = sample;
            let own = if old_logprobs.is_empty() { sampler_logprobs } else { old_logprobs };
            let terms = own.iter().zip(ref_logprobs).zip(sample.counting());
            terms.filter(|(_, counts)| *counts).map(|((own, reference), _)| f64::from(own - reference)).sum()
        };
        if self.judges_divergence { samples.iter().map(of).collect() } else { vec![0.0; samples.len()] }
    }

    /// Log-probabilities of the samples under `model`, by the forward pass that training uses.
    fn fill(
        &self,
        samples: &mut [Sample],
        model: &Qwen2,
        micro_batch_size: usize,
        place: fn(&mut Sample) -> &mut Vec<f32>,
    ) {
        let pass = ModelPass::new(model, Checkpointing::Recompute).at_temperature(self.config.temperature);
        for part in samples.chunks_mut(micro_batch_size) {
            let answers =
                Answers::new(part.iter().map(|sample| (&*self.prompts[sample.prompt].prompt_ids, &*sample.ids)));
            let TokenLogprobs { logprobs, .. } = pass.forward(&answers.sequences);
            let logprobs = numbers(logprobs);
            for (sample, span) in part.iter_mut().zip(answers.spans()) {
                *place(sample) = logprobs[span.clone()].to_vec();
            }
        }
    }

    /// The order in which completions are trained on: groups are spread over the optimizer steps, unless rows are to be
    /// visited in their own order. Within a step, completions of one prompt lie side by side, so that it is computed once
    /// for those of a micro-batch.
    fn shuffled(&self, samples: Vec<Sample>, generation: u64) -> Vec<Sample> {
        if self.schedule.strategy == TrainSamplingStrategy::Sequential || self.schedule.steps_per_generation == 1 {
            return samples;
        }
        let mut samples: Vec<Option<Sample>> = samples.into_iter().map(Some).collect();
        // Another seed than that of the prompts' order.
        let order = epoch_order(samples.len(), self.seed.rotate_left(16), generation, TrainSamplingStrategy::Random);
        let mut shuffled: Vec<Sample> = order.into_iter().filter_map(|index| samples[index].take()).collect();
        for step in shuffled.chunks_mut(self.schedule.completions_per_step()) {
            step.sort_by_key(|sample| sample.prompt);
        }
        shuffled
    }

    /// Lets the reference follow the policy where it is time.
    fn synchronise(&mut self, context: &StepContext) {
        let due = context.step > 0 && context.step.is_multiple_of(self.config.ref_model_sync_steps);
        if !self.config.sync_ref_model || !due || self.synced_at == context.step {
            return;
        }
        let alpha = self.config.ref_model_mixup_alpha;
        self.reference = self.reference.take().map(|reference| Box::new(mix(*reference, context.model, alpha)));
        self.synced_at = context.step;
    }

    /// Takes over the reference of the training under way, where it is one that changes. Where it is due to follow at this
    /// very step, it does so in both.
    pub(super) fn follow(&mut self, training: &Self) {
        if self.config.sync_ref_model {
            self.reference.clone_from(&training.reference);
            self.synced_at = training.synced_at;
        }
    }

    /// Shows the completions to whoever wants to see them.
    fn tell(
        &mut self,
        step: u64,
        samples: &[Sample],
        (texts, tool_uses): (Vec<String>, &[ToolUse]),
        rewards: &[Vec<Option<f64>>],
    ) -> Result<(), TrainError> {
        let Some(tell) = &mut self.completions_fn else { return Ok(()) };
        let records: Vec<CompletionRecord> = samples
            .iter()
            .zip(texts)
            .zip(rewards)
            .zip(tool_uses)
            .map(|(((sample, completion), rewards), tool_use)| CompletionRecord {
                step,
                prompt: self.prompts[sample.prompt].prompt.clone(),
                completion,
                rewards: self.names.iter().cloned().zip(rewards.iter().map(|reward| json!(reward))).collect(),
                advantage: sample.advantage,
                num_tokens: sample.num_own(),
                truncated: sample.truncated,
                tool_calls: tool_use.num_calls,
                tool_failures: tool_use.num_failures,
            })
            .collect();
        tell(&records)
    }
}
