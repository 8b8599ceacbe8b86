//! Trains a model on conversations with Burn's trainer: `supervised-training [MODEL TRAINING HELD_OUT]`.

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_train::{Interrupter, renderer::default_renderer};
use reheat_model::{Qwen2, SaveOptions};
use supervised_training::{read, train};

fn main() -> Result<(), Box<dyn Error>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../crates/reheat-cli/demo");
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model_dir, training, held_out] = match given.as_slice() {
        [] => ["base", "train.jsonl", "heldout.jsonl"].map(|name| demo.join(name)),
        [model, training, held_out] => [model, training, held_out].map(Clone::clone),
        _ => return Err("expected a model folder and two files of conversations, or nothing".into()),
    };
    let (training, held_out) = (read(&model_dir, &training)?, read(&model_dir, &held_out)?);
    let model = Qwen2::load(&model_dir, &Device::flex())?;
    let dir = Path::new("runs/supervised-training");
    let result = train(model, training, held_out, 6, dir, default_renderer(Interrupter::new(), None));
    if let Some(error) = result.error {
        return Err(error.to_string().into());
    }
    result.model.save(&dir.join("model"), &SaveOptions::default())?;
    println!("the model is in {}", dir.join("model").display());
    Ok(())
}
