//! Where logged rows go.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use crate::disk::{self, write_error};
use crate::{LogEntry, TrainError};

/// Keeps the rows of a run: a file, a plot, a service.
///
/// A callback watches and may stop a run; a logger stores what is logged, and can go back to an earlier step when the
/// run does.
pub trait Logger {
    /// Called before the first row. `entries` are those of a run that is continued, up to where it goes on: what was
    /// stored after them, before the run was cut off, is to be forgotten.
    ///
    /// # Errors
    /// An error stops the run.
    fn start(&mut self, entries: &[LogEntry]) -> Result<(), TrainError>;

    /// Stores a row of training or an evaluation.
    ///
    /// # Errors
    /// An error stops the run.
    fn log(&mut self, entry: &LogEntry) -> Result<(), TrainError>;
}

/// `metrics.jsonl`: one JSON object per row.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: Option<File>,
}

impl JsonLines {
    /// Will write to `path`; what is there is replaced when training starts.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }
}

impl Logger for JsonLines {
    fn start(&mut self, entries: &[LogEntry]) -> Result<(), TrainError> {
        disk::replace(&self.path, entries.iter().map(line).collect::<String>().as_bytes())?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = Some(file.map_err(write_error(&self.path))?);
        Ok(())
    }

    fn log(&mut self, entry: &LogEntry) -> Result<(), TrainError> {
        let file = self.file.as_mut().expect("`start` comes first");
        file.write_all(line(entry).as_bytes()).map_err(write_error(&self.path))
    }
}

fn line(entry: &LogEntry) -> String {
    serde_json::to_string(entry).expect("a row is numbers by name") + "\n"
}
