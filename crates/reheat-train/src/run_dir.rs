//! The output directory of a run.

use std::fs;
use std::path::{Path, PathBuf};

use reheat_model::{Qwen2, SaveOptions};
use serde::{Deserialize, Serialize};

use crate::{LogRow, TrainError};

/// Name under which a checkpoint is written before it is complete.
const UNFINISHED: &str = "checkpoint.unfinished";

/// The state that transformers' tools read (`trainer_state.json`, 5.23).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer steps taken.
    pub global_step: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Passes over the dataset.
    pub epoch: f64,
    /// Passes that the whole run makes.
    pub num_train_epochs: f64,
    /// Steps between rows.
    pub logging_steps: u64,
    /// Sequences per forward pass.
    pub train_batch_size: usize,
    /// Every row so far.
    pub log_history: Vec<LogRow>,
}

/// Writes the models of a run: `checkpoint-N/`, and the final one at the top.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Files to put beside the weights: tokenizer, template, generation config.
    companions: Vec<PathBuf>,
}

impl RunDir {
    /// Makes the directory.
    ///
    /// `companions` are copied beside every model that is saved.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn create(path: &Path, companions: Vec<PathBuf>) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(|source| TrainError::Write { path: path.into(), source })?;
        Ok(Self { path: path.into(), companions })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `checkpoint-N/`, complete or not at all, and removes the oldest beyond `limit`.
    ///
    /// # Errors
    /// If a file cannot be written; checkpoints that were complete stay.
    pub fn save_checkpoint(
        &self,
        model: &Qwen2,
        state: &TrainerState,
        options: &SaveOptions,
        limit: Option<usize>,
    ) -> Result<PathBuf, TrainError> {
        let unfinished = self.path.join(UNFINISHED);
        let target = self.path.join(format!("checkpoint-{}", state.global_step));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Write { path, source }
        };
        for old in [&unfinished, &target] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(io(old))?;
            }
        }
        let written = self.write_model(&unfinished, model, state, options);
        if let Err(error) = written {
            // What is half written is of no use; the first error is the one to report.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        fs::rename(&unfinished, &target).map_err(io(&target))?;
        self.prune(limit)?;
        Ok(target)
    }

    /// Writes the final model at the top of the directory.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_final(&self, model: &Qwen2, state: &TrainerState, options: &SaveOptions) -> Result<(), TrainError> {
        self.write_model(&self.path, model, state, options)
    }

    fn write_model(
        &self,
        dir: &Path,
        model: &Qwen2,
        state: &TrainerState,
        options: &SaveOptions,
    ) -> Result<(), TrainError> {
        model.save(dir, options)?;
        for companion in &self.companions {
            let name = companion.file_name().expect("companions are files");
            let target = dir.join(name);
            // The final model may lie where its companions already are.
            if *companion != target {
                fs::copy(companion, &target).map_err(|source| TrainError::Write { path: target.clone(), source })?;
            }
        }
        let path = dir.join("trainer_state.json");
        let text = serde_json::to_string_pretty(state).expect("the state is numbers by name");
        fs::write(&path, text + "\n").map_err(|source| TrainError::Write { path, source })
    }

    fn prune(&self, limit: Option<usize>) -> Result<(), TrainError> {
        let Some(limit) = limit else { return Ok(()) };
        let io = |source| TrainError::Write { path: self.path.clone(), source };
        let mut checkpoints: Vec<(u64, PathBuf)> = fs::read_dir(&self.path)
            .map_err(io)?
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let step = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
                Some((step, entry.path()))
            })
            .collect();
        checkpoints.sort();
        let surplus = checkpoints.len().saturating_sub(limit);
        for (_, path) in &checkpoints[..surplus] {
            fs::remove_dir_all(path).map_err(|source| TrainError::Write { path: path.clone(), source })?;
        }
        Ok(())
    }
}
