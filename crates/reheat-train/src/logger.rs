//! Where logged rows go.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{LogRow, TrainError};

/// Keeps the rows of a run: a file, a plot, a service.
///
/// A callback watches and may stop a run; a logger stores what is logged, and can go back to an earlier step when the
/// run does.
pub trait Logger {
    /// Stores a row.
    ///
    /// # Errors
    /// An error stops the run.
    fn log(&mut self, row: &LogRow) -> Result<(), TrainError>;
}

/// `metrics.jsonl`: one JSON object per row.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Starts the file anew.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path);
        match file {
            Ok(file) => Ok(Self { path: path.into(), file }),
            Err(source) => Err(TrainError::Write { path: path.into(), source }),
        }
    }
}

impl Logger for JsonLines {
    fn log(&mut self, row: &LogRow) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(row).expect("a row is numbers by name");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}
