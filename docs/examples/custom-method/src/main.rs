//! Trains a tiny model with the method of this crate.

use burn::tensor::Device;
use custom_method::{StopAt, WeightedSft, read};
use reheat_model::{Qwen2, Qwen2Config};
use reheat_train::{Trainer, TrainingConfig};

const ROWS: &str = "1.0\tthe owl eats mice\n0.5\tthe fox eats plums\n2.0\tthe owl sleeps by day\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A byte is a token here; a real tokenizer comes from `reheat_tokenizer`.
    let rows = read(ROWS, |text| text.bytes().map(u32::from).collect())?;
    let model = Qwen2::random(&Qwen2Config::tiny(256), 7, &Device::flex());
    let mut config = TrainingConfig::default();
    config.learning_rate = 1e-2;
    config.max_steps = 200;
    let mut trainer = Trainer::new(model, WeightedSft::new(rows), config)?;
    let summary = trainer.train(&mut StopAt(0.5))?;
    println!("loss below 0.5 after {} steps", summary.global_step);
    Ok(())
}
