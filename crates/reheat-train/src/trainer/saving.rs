//! Saving a run, and going on with it.

use std::collections::BTreeSet;
use std::path::Path;

use reheat_model::{LoraConfig, NamedTensor, SaveOptions, WeightDtype, WrittenFile, for_each_parameter};
use serde_json::{Map, Value, json};

use super::Trainer;
use crate::changes::{self, Change};
use crate::checkpoint::{self, Checkpoint, TrainingState};
use crate::method::settings_of;
use crate::{Callback, Method, TrainError, TrainerState, disk};

impl<M: Method> Trainer<M> {
    pub(super) fn save_checkpoint(&self, callback: &mut dyn Callback) -> Result<(), TrainError> {
        let Some(run_dir) = &self.run_dir else { return Ok(()) };
        let dir = run_dir.save_checkpoint(self.progress.step, |dir| {
            let mut written = self.write_model(dir)?;
            if !self.config.save_only_model {
                written.extend(self.write_state(dir)?);
            }
            Ok(written)
        })?;
        if let Some(limit) = self.config.save_total_limit {
            run_dir.prune(limit, self.kept())?;
        }
        callback.on_save(&dir);
        Ok(())
    }

    /// The checkpoint that is needed at the end.
    pub(super) fn kept(&self) -> Option<u64> {
        self.progress.best.as_ref().filter(|_| self.config.load_best_model_at_end).map(|best| best.step)
    }

    /// Takes the weights of the best evaluation, if the settings say so and they are not those of the last step. Gives
    /// their step.
    pub(super) fn load_best(&mut self) -> Result<Option<u64>, TrainError> {
        let (Some(step), Some(run_dir)) = (self.kept(), &self.run_dir) else { return Ok(None) };
        if step == self.progress.step {
            return Ok(None);
        }
        let checkpoint = Checkpoint::of_model(&run_dir.checkpoint_dir(step))?;
        let trained = self.optimizer.moments().into_iter().map(|moment| moment.parameter).collect();
        self.load_weights(&checkpoint, &trained)?;
        Ok(Some(step))
    }

    /// The model in Hugging Face format, and the state that transformers' tools read.
    pub(super) fn write_model(&self, dir: &Path) -> Result<Vec<WrittenFile>, TrainError> {
        let options = SaveOptions { dtype: self.config.save_dtype, ..SaveOptions::default() };
        let written = self.model().save(dir, &options)?;
        let text = serde_json::to_string_pretty(&self.trainer_state()).expect("the state is numbers by name");
        disk::write(&dir.join("trainer_state.json"), (text + "\n").as_bytes())?;
        Ok(written)
    }

    /// Everything else that a run needs to go on.
    fn write_state(&self, dir: &Path) -> Result<Vec<WrittenFile>, TrainError> {
        let state = TrainingState {
            progress: self.progress.clone(),
            optimizer_steps: self.optimizer.steps(),
            settings: self.settings(),
            identity: self.method.identity(),
        };
        let moments = self.optimizer.moments();
        let mut master = Vec::new();
        // The model's own files may be rounded, and those of adapters have PEFT's names.
        if self.config.save_dtype != WeightDtype::F32 || self.model().lora_config().is_some() {
            let trained: BTreeSet<&String> = moments.iter().map(|moment| &moment.parameter).collect();
            for_each_parameter(self.model(), "", |name, shape, values| {
                let name = name.to_owned();
                if trained.contains(&name) {
                    let (shape, values) = (shape.to_vec(), values.into());
                    master.push(NamedTensor { name, shape, values, dtype: WeightDtype::F32 });
                }
            });
        }
        let written = checkpoint::write_state(dir, &state, moments, &master)?;
        checkpoint::write_method_state(dir, self.method.state())?;
        Ok(written)
    }

    fn settings(&self) -> Map<String, Value> {
        let mut settings = self.settings.clone();
        settings.extend(settings_of(&self.config));
        settings.extend(self.model().lora_config().into_iter().flat_map(adapter_settings));
        if let Some(rows) = self.evaluation.as_ref().and_then(|method| method.identity().remove("rows_sha256")) {
            settings.insert("eval_rows_sha256".into(), rows);
        }
        settings
    }

    /// Goes on where a checkpoint was saved: weights, moments, counters and the rows still to come are those of a run
    /// that was never stopped. Gives the settings that differ.
    ///
    /// # Errors
    /// If the checkpoint is of another model or cannot be read, or settings differ that decide which rows a step has.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<Vec<Change>, TrainError> {
        let state = checkpoint.state()?;
        let identity = self.method.identity();
        let changes = changes::compare((&state.settings, &self.settings()), (&state.identity, &identity))?;
        let device = self.model().device();
        let moments = checkpoint.moments(&device)?;
        self.load_weights(checkpoint, &moments.iter().map(|moment| moment.parameter.clone()).collect())?;
        let damaged = |reason| TrainError::Damaged { dir: checkpoint.dir().into(), reason };
        self.optimizer.restore(state.optimizer_steps, moments).map_err(damaged)?;
        self.method.restore(checkpoint.method_state(&device)?).map_err(damaged)?;
        self.progress = state.progress;
        Ok(changes)
    }

    /// Puts a checkpoint's weights in place of the model's; those that are `trained` must be there.
    fn load_weights(&mut self, checkpoint: &Checkpoint, trained: &BTreeSet<String>) -> Result<(), TrainError> {
        let weights = checkpoint.weights(&self.model().device())?;
        let model = self.model.take().expect("the model is absent only inside a step");
        let (model, taken) = checkpoint::take_weights(model, weights, trained);
        self.model = Some(model);
        taken.map_err(|reason| TrainError::Damaged { dir: checkpoint.dir().into(), reason })
    }

    fn trainer_state(&self) -> TrainerState {
        let best = self.progress.best.as_ref();
        TrainerState {
            best_global_step: best.map(|best| best.step),
            best_metric: best.map(|best| best.value),
            best_model_checkpoint: best.zip(self.run_dir.as_ref()).map(|(best, run_dir)| {
                // Relative to the output directory: the folder may be moved.
                run_dir.checkpoint_dir(best.step).file_name().unwrap_or_default().to_string_lossy().into_owned()
            }),
            epoch: self.epoch(),
            eval_steps: self.config.resolved_eval_steps(),
            global_step: self.progress.step,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: self.progress.entries(),
            logging_steps: self.config.logging_steps,
            max_steps: self.schedule.total_steps,
            num_input_tokens_seen: self.progress.num_tokens,
            num_train_epochs: self.config.num_train_epochs.ceil() as u64,
            save_steps: self.config.save_steps,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: self.config.per_device_train_batch_size,
            trial_name: None,
            trial_params: None,
        }
    }
}

/// Settings of adapters, under the names that they have in TRL's `ModelConfig`.
fn adapter_settings(config: &LoraConfig) -> Map<String, Value> {
    let mut targets = config.target_modules.to_json();
    if let Value::Array(names) = &mut targets {
        // Their order means nothing.
        names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    let settings = json!({
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "lora_target_modules": targets,
        "lora_modules_to_save": config.modules_to_save,
        "trainable_token_indices": config.trainable_token_indices,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
    });
    let Value::Object(settings) = settings else { unreachable!("an object literal") };
    settings
}
