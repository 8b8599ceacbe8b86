//! Adapters into weights.

use burn::module::Module;

use crate::Qwen2;

impl Qwen2 {
    /// A plain model that computes what the adapted one computes: `W + s·B·A` in place of `W`, in f32.
    ///
    /// Without adapters, the model itself.
    pub fn merged(mut self) -> Self {
        if self.adapter.take().is_none() {
            return self;
        }
        // The embedding holds them already.
        self.token_adapter = None;
        for (_, layer) in self.dense_layers_mut() {
            if let Some(adapter) = layer.adapter.take() {
                layer.set_weight(adapter.merged(layer));
            }
        }
        self.set_require_grad(true)
    }
}
