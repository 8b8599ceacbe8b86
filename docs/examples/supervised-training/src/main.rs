//! Trains a model on conversations with Burn's trainer: `supervised-training [MODEL CONVERSATIONS]`.

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_train::{Interrupter, renderer::default_renderer};
use reheat_model::{Qwen2, SaveOptions};
use supervised_training::{read, train};

fn main() -> Result<(), Box<dyn Error>> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../crates/reheat-cli/demo");
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model_dir, conversations] = match given.as_slice() {
        [] => ["base", "train.jsonl"].map(|name| demo.join(name)),
        [model, conversations] => [model, conversations].map(Clone::clone),
        _ => return Err("expected a model folder and a file of conversations, or nothing".into()),
    };
    let mut training = read(&model_dir, &conversations)?;
    // The last tenth is held out.
    let held_out = training.split_off(training.len() - training.len() / 10);
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
