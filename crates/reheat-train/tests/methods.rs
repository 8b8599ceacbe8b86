//! What the loop promises to any method.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

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

/// Supervised fine-tuning with a micro-batch for each row, whatever the loop asks for.
struct RowByRow(Sft);

/// What both leave to [`Sft`].
macro_rules! as_sft {
    () => {
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

        fn sequences<'a>(&self, batch: &'a Batch) -> &'a Batch {
            batch
        }

        fn num_items(&self, batch: &Batch) -> u64 {
            self.0.num_items(batch)
        }
    };
}

impl Method for AtOnce {
    as_sft!();

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<Batch>, TrainError> {
        self.0.batches(indices, context)
    }

    fn objective<'a>(&'a self, _batch: &'a Batch, num_items_in_batch: u64) -> Objective<'a> {
        let scale = -1.0 / num_items_in_batch as f64;
        Objective::Whole(Box::new(move |tokens| tokens.logprobs.ones_like() * scale))
    }

    fn measure(&self, batch: &Batch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        self.0.measure(batch, tokens, num_items_in_batch).with("rows", batch.seq_lens.len() as f64, 1.0)
    }
}

impl Method for RowByRow {
    as_sft!();

    fn batches(&mut self, indices: &[usize], context: &StepContext) -> Result<Vec<Batch>, TrainError> {
        self.0.batches(indices, &StepContext::new(context.model, 1, context.step, context.seed))
    }

    fn objective<'a>(&'a self, batch: &'a Batch, num_items_in_batch: u64) -> Objective<'a> {
        self.0.objective(batch, num_items_in_batch)
    }

    fn measure(&self, batch: &Batch, tokens: &TokenLogprobs, num_items_in_batch: u64) -> Measures {
        self.0.measure(batch, tokens, num_items_in_batch)
    }
}

fn rows() -> Sft {
    let rows = (0..6u32).map(|row| Sequence::new((0..3 + row).map(|i| (row * 7 + i * 5) % 64).collect()));
    Sft::new(rows.collect(), SftConfig::default())
}

fn config() -> TrainingConfig {
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.num_train_epochs = 2.0;
    config.per_device_train_batch_size = 2;
    config.gradient_accumulation_steps = 2;
    config.logging_steps = 1;
    config.save_strategy = SaveStrategy::No;
    config
}

fn train<M: Method>(method: M, config: TrainingConfig) -> (Trainer<M>, Vec<f32>) {
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
    let (_, by_token) = train(rows(), config());
    let (trainer, at_once) = train(AtOnce(rows()), config());
    assert_eq!(by_token, at_once);
    // Two micro-batches of two rows in the first step of an epoch, one in the second.
    let counts: Vec<_> = trainer.log_history().iter().map(|row| row.metric("rows").unwrap()).collect();
    assert_eq!(counts, [2.0, 2.0, 2.0, 2.0]);
}

/// Everything that is logged while `work` runs.
fn logged(work: impl FnOnce()) -> String {
    let text = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&text);
    let subscriber = tracing_subscriber::fmt().with_writer(move || Log(Arc::clone(&writer))).finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = text.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A method may make several micro-batches of a step, and then the update waits for all of them.
#[test]
fn an_update_in_the_backward_pass_that_cannot_be_is_told_once() {
    let mut fused = config();
    fused.gradient_accumulation_steps = 1;
    let mut plain = fused.clone();
    plain.optimizer_in_backward = false;
    fused.optimizer_in_backward = true;

    let expected = train(RowByRow(rows()), plain).1;
    let text = logged(|| {
        let (trainer, weights) = train(RowByRow(rows()), fused);
        assert_eq!(trainer.log_history().len(), 6);
        assert_eq!(weights, expected);
    });
    assert_eq!(text.matches("the method makes 2 micro-batches of a step").count(), 1, "{text}");
}
