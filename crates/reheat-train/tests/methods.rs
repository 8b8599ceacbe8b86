//! What the loop promises to any method.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::Device;
use reheat_data::{Batch, Sequence};
use reheat_kernels::TokenLogprobs;
use reheat_model::{Qwen2, Qwen2Config, for_each_parameter};
use reheat_train::{
    Measures, Method, NoCallback, Objective, SaveStrategy, Sft, SftConfig, StepContext, TrainError, Trainer,
    TrainingConfig,
};

/// Supervised fine-tuning whose derivative is taken of the whole micro-batch at once.
struct AtOnce(Sft);

impl Method for AtOnce {
    type Batch = Batch;

    fn num_rows(&self) -> usize {
        self.0.num_rows()
    }

    fn identity(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0.identity()
    }

    fn check(&self, model: &Qwen2Config) -> Result<(), TrainError> {
        self.0.check(model)
    }

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<Batch>, TrainError> {
        self.0.batches(indices, context)
    }

    fn sequences<'a>(&self, batch: &'a Batch) -> &'a Batch {
        batch
    }

    fn num_items(&self, batch: &Batch) -> u64 {
        self.0.num_items(batch)
    }

    fn objective<'a>(&'a self, _batch: &'a Batch, num_items_in_batch: u64) -> Objective<'a> {
        let scale = -1.0 / num_items_in_batch as f64;
        Objective::Whole(Box::new(move |tokens| tokens.logprobs.ones_like() * scale))
    }

    fn measure(&self, batch: &Batch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        self.0.measure(batch, tokens, num_items_in_batch).with("rows", batch.seq_lens.len() as f64, 1.0)
    }
}

fn rows() -> Sft {
    let rows = (0..6u32).map(|row| Sequence::new((0..3 + row).map(|i| (row * 7 + i * 5) % 64).collect()));
    Sft::new(rows.collect(), SftConfig::default())
}

fn train<M: Method>(method: M) -> (Trainer<M>, Vec<f32>) {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.num_train_epochs = 2.0;
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.logging_steps = 1;
    config.save_strategy = SaveStrategy::No;
    let model = Qwen2::random(&Qwen2Config::tiny(64), 5, &Device::flex());
    let mut trainer = Trainer::new(model, method, config).unwrap();
    trainer.train(&mut NoCallback).unwrap();
    let mut weights = Vec::new();
    for_each_parameter(trainer.model(), "", |_, _, values| {
        weights.extend(values.into_data().try_to_vec::<f32>().unwrap());
    });
    (trainer, weights)
}

/// The derivatives of a whole micro-batch and those token by token are the same numbers, so the bits agree.
#[test]
fn a_whole_micro_batch_at_once_is_the_same_as_token_by_token() {
    let (_, by_token) = train(rows());
    let (trainer, at_once) = train(AtOnce(rows()));
    assert_eq!(by_token, at_once);
    // Two micro-batches of two rows in the first step of an epoch, one in the second.
    let counts: Vec<_> = trainer.log_history().iter().map(|row| row.metric("rows").unwrap()).collect();
    assert_eq!(counts, [2.0, 2.0, 2.0, 2.0]);
}
