//! What the tests of interrupted and resumed runs have in common.

use reheat_model::{Qwen2, for_each_parameter};
use reheat_train::{Callback, Control, LogRow};

/// Stops a run after this step.
pub(crate) struct StopAfter(pub(crate) u64);

impl Callback for StopAfter {
    fn on_step(&mut self, row: &LogRow) -> Control {
        if row.step == self.0 { Control::Stop } else { Control::Continue }
    }
}

/// Every bit of the model's parameters.
pub(crate) fn weights(model: &Qwen2) -> Vec<u32> {
    let mut bits = Vec::new();
    for_each_parameter(model, "", |_, _, values| {
        bits.extend(values.into_data().try_to_vec::<f32>().unwrap().into_iter().map(f32::to_bits));
    });
    bits
}
