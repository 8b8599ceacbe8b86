//! The output folder, and an earlier run in it.

use std::fs;
use std::path::{Path, PathBuf};

use reheat_train::{Checkpoint, Method, Trainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes;
use crate::{fault::Fault, settings::Table};

/// Where results go, and whether an earlier run is continued.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OutputSettings {
    /// Folder for the model, checkpoints, metrics and plots.
    pub(super) output_dir: Option<String>,
    /// Go on with an earlier run: a checkpoint's folder, or `true` for the newest intact one of the output folder.
    #[schemars(extend("x-bare" = "true"))]
    pub(super) resume_from_checkpoint: Option<String>,
    /// Remove the checkpoints that an earlier run left in the output folder.
    pub(super) overwrite_output_dir: bool,
    /// Show live curves on the whole terminal instead of a bar: `q` asks how to stop, arrows choose what is drawn.
    pub(super) tui: bool,
    /// Prompts that the model answers at each evaluation; shown, and kept in `samples.jsonl`.
    pub(crate) sample_prompts: Vec<String>,
    /// Longest of those answers in tokens.
    pub(super) sample_max_new_tokens: usize,
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self {
            output_dir: None,
            resume_from_checkpoint: None,
            overwrite_output_dir: false,
            tui: false,
            sample_prompts: Vec::new(),
            sample_max_new_tokens: 64,
        }
    }
}

impl OutputSettings {
    /// The folder; `runs/METHOD` where none is given.
    pub(super) fn dir(&self, method: &str) -> PathBuf {
        self.output_dir.as_ref().map_or_else(|| Path::new("runs").join(method), PathBuf::from)
    }

    fn resumes(&self) -> Option<&str> {
        self.resume_from_checkpoint.as_deref().filter(|choice| !matches!(*choice, "false" | "False"))
    }

    /// A new run must not be mixed up with an old one when it is resumed.
    pub(super) fn check_dir(&self, dir: &Path) -> anyhow::Result<()> {
        match Checkpoint::dirs(dir)?.last() {
            Some(newest) if self.resumes().is_none() && !self.overwrite_output_dir => {
                Err(Fault::input(format!("`{}` is of an earlier run", newest.display()))
                    .hint("--resume-from-checkpoint goes on with it, --overwrite-output-dir removes it, or choose another --output-dir")
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Goes on with an earlier run, or clears its remains away.
    pub(super) fn resume_or_clear<M: Method>(
        &self,
        trainer: &mut Trainer<M>,
        dir: &Path,
        table: &Table,
    ) -> anyhow::Result<()> {
        let Some(choice) = self.resumes() else { return remove_checkpoints(dir) };
        let checkpoint = match choice {
            "true" | "True" => {
                let (checkpoint, damaged) = Checkpoint::newest(dir)?;
                for error in damaged {
                    eprintln!("warning: {error}; falling back to `{}`", checkpoint.dir().display());
                }
                checkpoint
            }
            dir => Checkpoint::open(Path::new(dir))?,
        };
        for change in trainer.resume(&checkpoint)? {
            eprintln!("note: {change}: {}", changes::effect(&change, table));
        }
        eprintln!("resuming from `{}`", checkpoint.dir().display());
        Ok(())
    }
}

fn remove_checkpoints(dir: &Path) -> anyhow::Result<()> {
    for old in Checkpoint::dirs(dir)? {
        fs::remove_dir_all(&old)
            .map_err(|error| Fault::failed(format!("cannot remove `{}`", old.display())).because(error))?;
    }
    Ok(())
}
