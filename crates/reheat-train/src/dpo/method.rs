//! Direct preference optimisation on the shared loop.

use burn::tensor::Tensor;
use reheat_data::{Batch, PreferencePair};
use reheat_kernels::TokenLogprobs;
use reheat_model::{Qwen2, Qwen2Config};
use serde_json::{Map, Value};

use super::reference::{followed_weights, mix, reference_logprobs, with_followed_weights};
use super::{DpoBatch, DpoConfig, DpoLossType, PairLogprobs, PairLossSettings, Reference, pair_losses};
use crate::method::{identity_of, settings_of};
use crate::{Measures, Method, MethodState, Objective, StepContext, TrainError};

/// Direct preference optimisation on tokenised pairs.
#[derive(Debug)]
pub struct Dpo {
    pairs: Vec<PreferencePair>,
    config: DpoConfig,
    reference: Reference,
    /// Step after which the reference last followed the policy.
    synced_at: u64,
}

impl Dpo {
    /// Training on `pairs`, already cut to the length that the model is to see.
    ///
    /// # Errors
    /// If a setting is out of range (all faults in one error), or the reference is of another number of pairs.
    pub fn new(pairs: Vec<PreferencePair>, config: DpoConfig, reference: Reference) -> Result<Self, TrainError> {
        let mut faults = config.faults();
        if let Reference::Precomputed(known) = &reference {
            if known.len() != pairs.len() {
                faults.push(format!("the reference knows {} pairs, expected {}", known.len(), pairs.len()));
            }
            if config.sync_ref_model {
                faults.push("sync_ref_model needs a reference model, not its log-probabilities".into());
            }
        }
        if !faults.is_empty() {
            return Err(TrainError::Config(faults));
        }
        Ok(Self { pairs, config, reference, synced_at: 0 })
    }

    /// Lets the reference follow the policy where it is time.
    fn synchronise(&mut self, context: &StepContext) {
        let due = context.step > 0 && context.step.is_multiple_of(self.config.ref_model_sync_steps);
        if !self.config.sync_ref_model || !due || self.synced_at == context.step {
            return;
        }
        let alpha = self.config.ref_model_mixup_alpha;
        self.replace_reference(|reference| mix(reference, context.model, alpha));
        self.synced_at = context.step;
    }

    /// Puts what `change` makes of the reference model in its place; log-probabilities stay.
    fn replace_reference(&mut self, change: impl FnOnce(Qwen2) -> Qwen2) {
        // Owned for the moment, so that tensors can change in place.
        let reference = std::mem::replace(&mut self.reference, Reference::Precomputed(Vec::new()));
        self.reference = match reference {
            Reference::Model(model) => Reference::Model(Box::new(change(*model))),
            known => known,
        };
    }

    fn settings(&self) -> PairLossSettings {
        let DpoConfig { beta, label_smoothing, discopop_tau, .. } = self.config;
        PairLossSettings { beta, label_smoothing, f_divergence: self.config.f_divergence(), discopop_tau }
    }

    /// Summed log-probabilities of the batch's answers, beside those of the reference.
    fn pair_logprobs(&self, logprobs: Tensor<1>, batch: &DpoBatch) -> PairLogprobs {
        let device = logprobs.device().inner();
        let num_pairs = batch.num_pairs();
        let sums = batch.answer_sums(logprobs, self.config.ld_alpha); // [2 * pairs]
        let (ref_chosen, ref_rejected) = batch.reference_tensors(&device);
        let (chosen_lens, rejected_lens) = batch.answer_lens(&device);
        PairLogprobs {
            chosen: sums.clone().narrow(0, 0, num_pairs),
            rejected: sums.narrow(0, num_pairs, num_pairs),
            ref_chosen,
            ref_rejected,
            chosen_lens,
            rejected_lens,
        }
    }

    /// The batch's part of the step's loss, `[1]`.
    fn loss(&self, logprobs: Tensor<1>, tokens: &TokenLogprobs, batch: &DpoBatch, num_pairs: u64) -> Tensor<1> {
        let pairs = self.pair_logprobs(logprobs.clone(), batch);
        let weights = self.config.use_weighting.then(|| pair_weights(tokens, batch));
        let terms = self.config.weighted_losses().map(|(loss_type, weight)| {
            let (losses, scale) = match loss_type {
                // A mean over tokens, and of all of them alike.
                DpoLossType::Sft => (batch.chosen_nll(logprobs.clone()), batch.pairs_per_chosen_token),
                other => (pair_losses(other, &pairs, &self.settings()), 1.0),
            };
            let losses = match &weights {
                Some(weights) => losses * weights.clone(),
                None => losses,
            };
            losses.sum() * (weight * scale / num_pairs.max(1) as f64)
        });
        terms.reduce(|sum, term| sum + term).expect("there is a loss type")
    }
}

/// Weights that make pairs count as if the policy had written them (Zhou et al. 2024, WPO, arXiv:2406.11827, equation 2),
/// `[pairs]`.
fn pair_weights(tokens: &TokenLogprobs, batch: &DpoBatch) -> Tensor<1> {
    let aligned = tokens.logprobs.clone() - tokens.log_sum_sq_probs.clone(); // [tokens]
    let lens = batch.answers.lens(&aligned.device());
    let means = batch.answers.sums(aligned) / lens; // [2 * pairs]
    let num_pairs = batch.num_pairs();
    (means.clone().narrow(0, 0, num_pairs) + means.narrow(0, num_pairs, num_pairs)).exp()
}

/// Whether pairs can be trained on.
pub(crate) fn check_pairs(pairs: &[PreferencePair], model: &Qwen2Config) -> Result<(), TrainError> {
    if pairs.is_empty() {
        return Err(TrainError::EmptyDataset);
    }
    let vocab_size = model.vocab_size;
    for (index, pair) in pairs.iter().enumerate() {
        if pair.chosen_ids.is_empty() || pair.rejected_ids.is_empty() {
            return Err(TrainError::EmptyAnswer { index });
        }
        let mut ids = pair.prompt_ids.iter().chain(&pair.chosen_ids).chain(&pair.rejected_ids);
        if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
            return Err(TrainError::TokenOutsideVocabulary { index, id, vocab_size });
        }
    }
    Ok(())
}

impl Method for Dpo {
    type Batch = DpoBatch;

    fn num_rows(&self) -> usize {
        self.pairs.len()
    }

    fn identity(&self) -> Map<String, Value> {
        let rows = self.pairs.iter().flat_map(|pair| {
            let parts = [&pair.prompt_ids, &pair.chosen_ids, &pair.rejected_ids];
            parts.into_iter().flat_map(|ids| ids.iter().map(|id| *id as i32).chain([-1]))
        });
        identity_of("dpo", settings_of(&self.config), self.pairs.len(), rows)
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        check_pairs(&self.pairs, model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<DpoBatch>, TrainError> {
        self.synchronise(context);
        let mut batches: Vec<DpoBatch> = Vec::new();
        for chunk in indices.chunks(context.micro_batch_size) {
            let mut batch = DpoBatch::new(chunk.iter().map(|index| &self.pairs[*index]));
            batch.reference = match &self.reference {
                Reference::Precomputed(known) => chunk.iter().map(|index| known[*index]).collect(),
                Reference::Model(model) => reference_logprobs(model, &batch, self.config.ld_alpha),
            };
            batches.push(batch);
        }
        let chosen_tokens: usize = batches.iter().map(DpoBatch::num_chosen_tokens).sum();
        for batch in &mut batches {
            batch.pairs_per_chosen_token = indices.len() as f64 / chosen_tokens.max(1) as f64;
        }
        Ok(batches)
    }

    fn state(&self) -> MethodState {
        let mut state = MethodState::default();
        if let (Reference::Model(reference), true) = (&self.reference, self.config.sync_ref_model) {
            state.values.insert("synced_at".into(), self.synced_at.into());
            state.tensors = followed_weights(reference);
        }
        state
    }

    fn restore(&mut self, state: MethodState) -> Result<(), String> {
        if !self.config.sync_ref_model {
            return Ok(());
        }
        self.synced_at = state.values.get("synced_at").and_then(Value::as_u64).unwrap_or(0);
        let mut taken = Ok(());
        self.replace_reference(|reference| {
            let (reference, outcome) = with_followed_weights(reference, state.tensors);
            taken = outcome;
            reference
        });
        taken
    }

    /// The reference is the one that training has; where it is due to follow at this very step, it does so in both.
    fn follow(&mut self, training: &Self) {
        if let (true, Reference::Model(reference)) = (self.config.sync_ref_model, &training.reference) {
            self.reference = Reference::Model(reference.clone());
            self.synced_at = training.synced_at;
        }
    }

    fn sequences<'a>(&self, batch: &'a DpoBatch) -> &'a Batch {
        &batch.answers.sequences
    }

    fn num_items(&self, batch: &DpoBatch) -> u64 {
        batch.num_pairs() as u64
    }

    fn objective<'a>(&'a self, batch: &'a DpoBatch, num_items_in_batch: u64) -> Objective<'a> {
        Objective::Whole(Box::new(move |tokens| {
            let logprobs = tokens.logprobs.clone().autodiff().require_grad();
            let gradients = self.loss(logprobs.clone(), tokens, batch, num_items_in_batch).backward();
            logprobs.grad(&gradients).unwrap_or_else(|| tokens.logprobs.zeros_like())
        }))
    }

    fn measure(&self, batch: &DpoBatch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        let loss = self.loss(tokens.logprobs.clone(), tokens, batch, num_items_in_batch);
        let pairs = self.pair_logprobs(tokens.logprobs.clone(), batch);
        let (chosen, rejected) =
            (pairs.chosen_logratios() * self.config.beta, pairs.rejected_logratios() * self.config.beta);
        let accuracies = chosen.clone().greater(rejected.clone()).float();
        let [chosen_logits, rejected_logits] = batch.totals(&tokens.mean_logit);
        let [chosen_hits, _rejected_hits] = batch.totals(&tokens.is_top1);
        let sums = [
            loss,
            tokens.entropy.clone().sum(),
            chosen_logits,
            rejected_logits,
            chosen_hits,
            chosen.sum(),
            rejected.sum(),
            accuracies.sum(),
            pairs.chosen.sum(),
            pairs.rejected.sum(),
        ];
        // Read back from the device once.
        let sums = Tensor::cat(sums.to_vec(), 0).into_data().try_to_vec::<f32>().expect("sums are f32");
        let [
            loss,
            entropy,
            chosen_logits,
            rejected_logits,
            hits,
            chosen,
            rejected,
            accuracies,
            chosen_logps,
            rejected_logps,
        ] = std::array::from_fn(|index| f64::from(sums[index]));
        let num_pairs = batch.num_pairs() as f64;
        let (chosen_tokens, rejected_tokens) = (batch.num_chosen_tokens() as f64, batch.num_rejected_tokens() as f64);
        Measures::new(loss)
            .with("entropy", entropy, chosen_tokens + rejected_tokens)
            .with("mean_token_accuracy", hits, chosen_tokens)
            .with("logits/chosen", chosen_logits, chosen_tokens)
            .with("logits/rejected", rejected_logits, rejected_tokens)
            .with("rewards/chosen", chosen, num_pairs)
            .with("rewards/rejected", rejected, num_pairs)
            .with("rewards/accuracies", accuracies, num_pairs)
            .with("rewards/margins", chosen - rejected, num_pairs)
            .with("logps/chosen", chosen_logps, num_pairs)
            .with("logps/rejected", rejected_logps, num_pairs)
    }
}
