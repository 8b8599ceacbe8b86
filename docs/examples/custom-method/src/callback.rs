//! A callback: stops when the loss is low enough.

use reheat_train::{Callback, Control, LogRow};

/// Stops a run at the first step whose loss is at most this.
#[derive(Debug)]
pub struct StopAt(pub f64);

impl Callback for StopAt {
    fn on_step(&mut self, row: &LogRow) -> Control {
        if row.loss <= self.0 { Control::Stop } else { Control::Continue }
    }
}
