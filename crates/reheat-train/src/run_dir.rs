//! The output directory of a run.
//!
//! A checkpoint is written under another name, brought to the disk, sealed with sizes and hashes, and renamed: at any
//! moment a directory called `checkpoint-N` is whole, and the one before it is not touched until then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reheat_model::WrittenFile;

use crate::disk::{self, write_error};
use crate::{TrainError, checkpoint, integrity};

/// Name under which a checkpoint is written before it is complete.
const UNFINISHED: &str = "checkpoint.unfinished";
/// Name of a checkpoint that another one of the same step takes the place of.
const REPLACED: &str = "checkpoint.replaced";
/// Name under which the final model is written before it is complete.
const UNFINISHED_MODEL: &str = "model.unfinished";

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
        disk::create_dir(path)?;
        Ok(Self { path: path.into(), companions })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoint of a step lies.
    pub(crate) fn checkpoint_dir(&self, step: u64) -> PathBuf {
        self.path.join(format!("{}{step}", checkpoint::PREFIX))
    }

    /// Writes `checkpoint-N/`, complete or not at all; `fill` writes its files, and tells what it knows of them.
    ///
    /// # Errors
    /// If a file cannot be written; checkpoints that were complete stay.
    pub(crate) fn save_checkpoint(
        &self,
        step: u64,
        fill: impl FnOnce(&Path) -> Result<Vec<WrittenFile>, TrainError>,
    ) -> Result<PathBuf, TrainError> {
        let (unfinished, replaced) = (self.path.join(UNFINISHED), self.path.join(REPLACED));
        let target = self.checkpoint_dir(step);
        disk::remove_dir(&unfinished)?;
        disk::remove_dir(&replaced)?;
        let written = self.fill(&unfinished, fill).and_then(|written| integrity::seal(&unfinished, written));
        if let Err(error) = written {
            // What is half written is of no use; the first error is the one to report.
            let _ = disk::remove_dir(&unfinished);
            return Err(error);
        }
        if target.exists() {
            disk::rename(&target, &replaced)?;
        }
        disk::rename(&unfinished, &target)?;
        disk::sync(&self.path)?;
        disk::remove_dir(&replaced)?;
        Ok(target)
    }

    /// Removes what a run that was cut off left half done: unfinished folders, and checkpoints beyond `limit`.
    ///
    /// # Errors
    /// If a directory cannot be removed.
    pub(crate) fn tidy(&self, limit: Option<usize>, keep: Option<u64>) -> Result<(), TrainError> {
        for name in [UNFINISHED, REPLACED, UNFINISHED_MODEL] {
            disk::remove_dir(&self.path.join(name))?;
        }
        limit.map_or(Ok(()), |limit| self.prune(limit, keep))
    }

    /// Writes the final model at the top of the directory; `fill` writes its files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn save_final(
        &self,
        fill: impl FnOnce(&Path) -> Result<Vec<WrittenFile>, TrainError>,
    ) -> Result<(), TrainError> {
        let unfinished = self.path.join(UNFINISHED_MODEL);
        disk::remove_dir(&unfinished)?;
        self.fill(&unfinished, fill)?;
        let files = fs::read_dir(&unfinished)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
            .map_err(write_error(&unfinished))?;
        for file in &files {
            disk::sync(file)?;
        }
        for file in &files {
            disk::rename(file, &self.path.join(file.file_name().unwrap_or_default()))?;
        }
        disk::remove_dir(&unfinished)?;
        disk::sync(&self.path)
    }

    fn fill(
        &self,
        dir: &Path,
        fill: impl FnOnce(&Path) -> Result<Vec<WrittenFile>, TrainError>,
    ) -> Result<Vec<WrittenFile>, TrainError> {
        disk::create_dir(dir)?;
        for companion in &self.companions {
            disk::copy(companion, &dir.join(companion.file_name().unwrap_or_default()))?;
        }
        fill(dir)
    }

    /// Removes the oldest checkpoints beyond `limit`, but neither the newest nor that of step `keep`.
    ///
    /// # Errors
    /// If a directory cannot be removed.
    pub(crate) fn prune(&self, limit: usize, keep: Option<u64>) -> Result<(), TrainError> {
        let checkpoints = checkpoint::list(&self.path)?;
        let surplus = checkpoints.len().saturating_sub(limit);
        let newest = checkpoints.last().map(|(step, _)| *step);
        let removable = checkpoints.iter().filter(|(step, _)| Some(*step) != keep && Some(*step) != newest);
        for (_, path) in removable.take(surplus) {
            disk::remove_dir(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{crash_after, revive};
    use crate::{Checkpoint, disk};

    fn fill(dir: &Path) -> Result<Vec<WrittenFile>, TrainError> {
        for name in ["model.safetensors", "optimizer.safetensors", "training_state.json"] {
            disk::write(&dir.join(name), b"content")?;
        }
        Ok(Vec::new())
    }

    /// The machine stops after each operation in turn; whatever is left, the newest intact checkpoint can be found, and
    /// the next save works.
    #[test]
    fn a_save_that_is_cut_off_anywhere_leaves_a_checkpoint() {
        let mut operations = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let companion = folder.path().join("tokenizer.json");
            fs::write(&companion, "{}").unwrap();
            let run_dir = RunDir::create(&folder.path().join("run"), vec![companion]).unwrap();
            for step in [1, 2] {
                run_dir.save_checkpoint(step, fill).unwrap();
            }
            crash_after(operations);
            let saved = run_dir.save_checkpoint(3, fill).and_then(|_| run_dir.prune(2, None));
            revive();
            let (newest, damaged) = Checkpoint::newest(run_dir.path()).unwrap();
            assert!(damaged.is_empty(), "after {operations} operations: {damaged:?}");
            let name = newest.dir().file_name().unwrap().to_str().unwrap().to_owned();
            assert!(name == "checkpoint-2" || name == "checkpoint-3", "after {operations} operations: {name}");
            if saved.is_ok() {
                assert!(operations > 10, "{operations} operations");
                assert_eq!(name, "checkpoint-3");
                break;
            }
            run_dir.tidy(Some(2), None).unwrap();
            let left = fs::read_dir(run_dir.path()).unwrap().count();
            assert_eq!(left, checkpoint::list(run_dir.path()).unwrap().len(), "after {operations} operations");
            run_dir.save_checkpoint(3, fill).and_then(|_| run_dir.prune(2, None)).unwrap();
            let steps: Vec<_> = checkpoint::list(run_dir.path()).unwrap().into_iter().map(|(step, _)| step).collect();
            assert_eq!(steps, [2, 3], "after {operations} operations");
            operations += 1;
        }
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(folder.path(), Vec::new()).unwrap();
        let dir = run_dir.save_checkpoint(5, fill).unwrap();
        fs::write(dir.join("model.safetensors"), b"damaged").unwrap();
        let error = Checkpoint::newest(folder.path()).unwrap_err();
        assert!(error.to_string().contains("`model.safetensors` is not what was written"), "{error}");
        run_dir.save_checkpoint(5, fill).unwrap();
        assert_eq!(Checkpoint::newest(folder.path()).unwrap().0.dir(), dir);
    }

    #[test]
    fn the_best_checkpoint_is_not_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(folder.path(), Vec::new()).unwrap();
        for step in [1, 2, 3, 4] {
            run_dir.save_checkpoint(step, fill).unwrap();
            run_dir.prune(2, Some(2)).unwrap();
        }
        let steps: Vec<_> = checkpoint::list(folder.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [2, 4]);
    }
}
