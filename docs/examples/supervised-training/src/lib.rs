//! Reheat's Qwen2 in `burn-train`'s `SupervisedTraining`. The README goes through it step by step.

mod rows; // conversations to sequences
mod batcher; // sequences to batches

use std::path::Path;

use burn::module::Module;
use burn_core::data::{dataloader::DataLoaderBuilder, dataset::InMemDataset};
use burn_optim::{AdamWConfig, lr_scheduler::constant::ConstantLr};
use burn_train::{
    Learner, LearningResult, SupervisedTraining,
    metric::{LossMetric, PerplexityMetric},
    renderer::MetricsRenderer,
};
use reheat_data::Sequence;
use reheat_model::Qwen2;

pub use self::{batcher::SequenceBatcher, rows::read};

/// Sequences of a batch.
const BATCH_SIZE: usize = 16;

/// Trains `model` for some epochs; metrics and logs go into `dir`.
pub fn train(
    model: Qwen2,
    training: Vec<Sequence>,
    held_out: Vec<Sequence>,
    num_epochs: usize,
    dir: &Path,
    renderer: Box<dyn MetricsRenderer>,
) -> LearningResult<Qwen2> {
    let loader = || DataLoaderBuilder::new(SequenceBatcher).batch_size(BATCH_SIZE);
    let training = loader().shuffle(42).build(InMemDataset::new(training));
    let held_out = loader().build(InMemDataset::new(held_out));
    let optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0).init();
    SupervisedTraining::new(dir, training, held_out)
        .metric_train_numeric(LossMetric::new())
        .metric_valid_numeric(LossMetric::new())
        .metric_train_numeric(PerplexityMetric::new())
        .metric_valid_numeric(PerplexityMetric::new())
        .num_epochs(num_epochs)
        .renderer(renderer)
        .with_application_logger(None)
        // A model that was loaded is not in training mode.
        .launch(Learner::new(model.train(), optimizer, ConstantLr::new(3e-4)))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burn::module::{ModuleVisitor, Param};
    use burn::tensor::{Device, Tensor};
    use burn_core::data::dataloader::batcher::Batcher;
    use burn_optim::GradientsParams;
    use burn_train::{
        InferenceStep, TrainStep,
        metric::{Adaptor, LossInput, Metric, MetricMetadata, Numeric, PerplexityInput},
        renderer::CliMetricsRenderer,
    };
    use reheat_model::LoraConfig;
    use reheat_train::{NoCallback, Sft, SftConfig, Trainer, TrainingConfig};

    use super::*;

    /// Sums of the same f32 numbers in another order.
    const TOLERANCE: f64 = 2e-5;

    fn demo() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../crates/reheat-cli/demo")
    }

    fn sequences() -> Vec<Sequence> {
        read(&demo().join("base"), &demo().join("train.jsonl")).unwrap()
    }

    fn base() -> Qwen2 {
        Qwen2::load(&demo().join("base"), &Device::flex()).unwrap()
    }

    /// L2 norm of all gradients.
    fn norm(model: &Qwen2, gradients: &GradientsParams) -> f64 {
        struct Squares<'a>(&'a GradientsParams, f64);
        impl ModuleVisitor for Squares<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = self.0.get::<D>(param.id) {
                    self.1 += f64::from(gradient.square().sum().into_scalar::<f32>());
                }
            }
        }
        let mut squares = Squares(gradients, 0.0);
        model.visit(&mut squares);
        squares.1.sqrt()
    }

    /// Loss and gradient norm of one step of Reheat's own loop over these sequences.
    fn own_step(model: Qwen2, sequences: Vec<Sequence>) -> (f64, f64) {
        let mut config = TrainingConfig::default();
        config.per_device_train_batch_size = sequences.len();
        config.max_steps = 1;
        config.logging_steps = 1;
        let mut trainer = Trainer::new(model, Sft::new(sequences, SftConfig::default()), config).unwrap();
        trainer.train(&mut NoCallback).unwrap();
        let row = &trainer.log_history()[0];
        (row.loss, row.grad_norm)
    }

    fn metadata() -> MetricMetadata {
        let progress = burn_core::data::dataloader::Progress::new(1, 1, None);
        MetricMetadata { progress, iteration: None, lr: None }
    }

    #[test]
    fn the_first_step_is_that_of_reheats_own_loop() {
        let device = Device::flex().autodiff();
        let sequences: Vec<_> = sequences().into_iter().take(8).collect();
        let adapted = base().with_lora(LoraConfig::default(), "base", 7).unwrap();
        for model in [base(), adapted] {
            let (loss, grad_norm) = own_step(model.clone(), sequences.clone());
            let model = model.train().fork(&device);
            let output = TrainStep::step(&model, SequenceBatcher.batch(sequences.clone(), &device));
            let found = f64::from(output.item.loss().into_scalar::<f32>());
            assert!((found - loss).abs() < TOLERANCE, "{found} and {loss}");
            let found = norm(&model, &output.grads);
            assert!((found / grad_norm - 1.0).abs() < TOLERANCE, "{found} and {grad_norm}");
        }
    }

    #[test]
    fn metrics_are_means_over_labels() {
        let device = Device::flex();
        let sequences: Vec<_> = sequences().into_iter().take(6).collect();
        let (mut loss, mut perplexity) = (LossMetric::new(), PerplexityMetric::new());
        for sequences in sequences.chunks(4) {
            let output = InferenceStep::step(&base(), SequenceBatcher.batch(sequences.to_vec(), &device));
            let (input, other): (LossInput, PerplexityInput) = (output.adapt(), output.adapt());
            loss.update(&input, &metadata()).unwrap();
            perplexity.update(&other, &metadata()).unwrap();
        }
        let expected = own_step(base(), sequences).0;
        let loss = loss.running_value().unwrap().current();
        let perplexity = perplexity.running_value().unwrap().current();
        assert!((loss - expected).abs() < TOLERANCE, "{loss} and {expected}");
        assert!((perplexity.ln() - expected).abs() < TOLERANCE, "{perplexity} and {expected}");
    }

    #[test]
    fn the_tiny_model_learns() {
        let mut training = sequences();
        let held_out = training.split_off(300);
        let loss = |model: &Qwen2| {
            let batch = SequenceBatcher.batch(held_out.clone(), &Device::flex());
            InferenceStep::step(model, batch).loss().into_scalar::<f32>()
        };
        let folder = tempfile::tempdir().unwrap();
        let renderer = Box::new(CliMetricsRenderer::new());
        let result = train(base(), training, held_out.clone(), 1, folder.path(), renderer);
        assert!(result.error.is_none() && result.interrupted.is_none());
        let (before, after) = (loss(&base()), loss(&result.model.valid()));
        assert!(after < before - 1.0, "{before} to {after}");
    }
}
