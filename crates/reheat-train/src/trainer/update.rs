//! A step's gradients and what the optimizer makes of them: after the backward pass, or on the way through it.
//!
//! On the way, a gradient lives from its block's backward pass to its block's update, as in LOMO (Lv et al. 2023,
//! arXiv:2306.09782) and torchtune's `optimizer_in_bwd`. A limit on the norm of the whole gradient has to be known before
//! the first update: the gradients are then taken twice, as LOMO does, and the results are those of the other way bit for
//! bit.

use reheat_model::Qwen2;

use super::Trainer;
use crate::gradients::GradientNorm;
use crate::{Checkpointing, EmbeddingNoise, Gradients, Measures, Method, ModelPass, TrainingConfig};

/// What a step came to.
pub(super) struct Updated {
    pub(super) measures: Measures,
    /// Before clipping.
    pub(super) grad_norm: f64,
}

/// A number that stopped being finite.
pub(super) struct NotFinite {
    pub(super) what: &'static str,
    pub(super) value: f64,
}

/// Added to the norm when the gradient is scaled down (`torch.nn.utils.clip_grad_norm_`).
const CLIP_EPSILON: f64 = 1e-6;

impl<M: Method> Trainer<M> {
    /// Gathers the gradients of all micro-batches and updates the model.
    pub(super) fn update_after_backward(
        &mut self,
        batches: &[M::Batch],
        num_items_in_batch: u64,
        rates: (f64, f64),
    ) -> Result<Updated, NotFinite> {
        let config = &self.config;
        let model = self.model.as_ref().expect("the model is absent only inside a step");
        let mut gradients = Gradients::default();
        let mut measures = Measures::default();
        for (micro_step, batch) in (self.progress.micro_steps..).zip(batches) {
            let seed = pass_seed(config.seed, micro_step);
            let model = model.with_dropout(seed);
            let pass = model_pass(&model, config, seed, self.method.temperature());
            let objective = self.method.objective(batch, num_items_in_batch);
            let tokens = pass.forward_backward(self.method.sequences(batch), &objective, &mut gradients);
            measures.add(&self.method.measure(batch, &tokens, num_items_in_batch));
        }
        let grad_norm = gradients.norm();
        let updated = Updated { measures, grad_norm }.checked()?;
        let scale = clip_scale(grad_norm, config.max_grad_norm);
        let model = self.model.take().expect("present, as it was above");
        self.model = Some(self.optimizer.step(model, gradients, rates, scale).with_token_rows_written());
        Ok(updated)
    }

    /// Updates each block as soon as its gradient is there, with the results of [`Self::update_after_backward`].
    pub(super) fn update_in_backward(
        &mut self,
        batch: &M::Batch,
        num_items_in_batch: u64,
        rates: (f64, f64),
    ) -> Result<Updated, NotFinite> {
        let mut scale = 1.0;
        if self.config.max_grad_norm > 0.0 {
            let grad_norm = self.descend(batch, num_items_in_batch, None)?.grad_norm;
            scale = clip_scale(grad_norm, self.config.max_grad_norm);
        }
        self.optimizer.begin_step();
        self.descend(batch, num_items_in_batch, Some((rates, scale)))
    }

    /// One pass in which gradients live no longer than a stage; with rates and a scale, the optimizer gets each of them.
    fn descend(
        &mut self,
        batch: &M::Batch,
        num_items_in_batch: u64,
        update: Option<((f64, f64), f64)>,
    ) -> Result<Updated, NotFinite> {
        let mut model = self.model.take().expect("the model is absent only inside a step");
        let mut gradients = Gradients::default();
        let seed = pass_seed(self.config.seed, self.progress.micro_steps);
        let pass = model_pass(&model, &self.config, seed, self.method.temperature());
        let objective = self.method.objective(batch, num_items_in_batch);
        let (tokens, mut backward) = pass.begin(self.method.sequences(batch), &objective, &mut gradients);
        let measures = self.method.measure(batch, &tokens, num_items_in_batch);
        let mut norm = GradientNorm::default();
        if measures.loss.is_finite() {
            let mut take = |model, gradients: Gradients| {
                norm.add(&gradients);
                match update {
                    Some((rates, scale)) => self.optimizer.update(model, gradients, rates, scale),
                    None => model,
                }
            };
            loop {
                model = take(model, gradients.take_whole());
                if !backward.descend(&model, &mut gradients) {
                    break;
                }
            }
            model = take(model, gradients).with_token_rows_written();
        }
        self.model = Some(model);
        Updated { measures, grad_norm: norm.value() }.checked()
    }
}

impl Updated {
    /// Itself, if its numbers are finite.
    fn checked(self) -> Result<Self, NotFinite> {
        let numbers = [("loss", self.measures.loss), ("grad_norm", self.grad_norm)];
        match numbers.into_iter().find(|(_, value)| !value.is_finite()) {
            Some((what, value)) => Err(NotFinite { what, value }),
            None => Ok(self),
        }
    }
}

/// The seed in the high half, so that no pass of a run with another seed leaves out the same inputs.
fn pass_seed(seed: u64, micro_step: u64) -> u64 {
    seed.rotate_left(32) ^ micro_step
}

fn model_pass<'a>(model: &'a Qwen2, config: &TrainingConfig, seed: u64, temperature: f64) -> ModelPass<'a> {
    let checkpointing = if config.gradient_checkpointing { Checkpointing::Recompute } else { Checkpointing::Keep };
    let noise = config.neftune_noise_alpha.map(|alpha| EmbeddingNoise { alpha, seed });
    ModelPass::new(model, checkpointing).with_noise(noise).at_temperature(temperature)
}

/// The factor that brings a gradient of this norm down to `max_norm`; 0 means no limit.
fn clip_scale(grad_norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (grad_norm + CLIP_EPSILON)).min(1.0) } else { 1.0 }
}
