//! Gradients by parameter name.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{self, Tensor};
use reheat_kernels::{add_gradients, squared_norm};
use reheat_model::{ParameterPath, map_parameters};

use crate::pass::{EMBEDDING, TOKEN_ROWS};

/// Gradients of one optimizer step, flattened to `[elements]`, by the parameter's name in checkpoints.
///
/// Those of matrices are bf16 where products are taken in bf16 and one micro-batch is all; sums of several are f32.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor<1>>);

impl Gradients {
    /// Adds to what a parameter has gathered in earlier micro-batches.
    pub fn accumulate(&mut self, name: &str, gradient: Tensor<1>) {
        let sum = match self.0.remove(name) {
            Some(sum) => add_gradients(sum, gradient),
            None => gradient,
        };
        self.0.insert(name.into(), sum);
    }

    /// Puts a whole gradient in place of what was there.
    pub(crate) fn insert(&mut self, name: &str, gradient: Tensor<1>) {
        self.0.insert(name.into(), gradient);
    }

    /// Takes a gradient out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor<1>> {
        self.0.remove(name)
    }

    /// Moves the gradients of a module, tracked by autodiff, out of Burn's store; `prefix` leads to the module.
    pub(crate) fn take_from(&mut self, module: &impl Module, prefix: &str, store: &mut tensor::Gradients) {
        module.visit(&mut Take { path: ParameterPath::new(prefix), store, into: self });
    }

    /// Takes out all that are whole while a backward pass is under way: those of all parameters but the embedding and
    /// rows of it.
    pub(crate) fn take_whole(&mut self) -> Self {
        let unfinished = [EMBEDDING, TOKEN_ROWS].into_iter().filter_map(|name| self.0.remove_entry(name)).collect();
        Self(std::mem::replace(&mut self.0, unfinished))
    }

    /// L2 norm over all parameters, as `torch.nn.utils.clip_grad_norm_` takes it.
    pub fn norm(&self) -> f64 {
        let mut norm = GradientNorm::default();
        norm.add(self);
        norm.value()
    }
}

/// The norm of a gradient that is seen in parts.
#[derive(Debug, Default)]
pub(crate) struct GradientNorm(BTreeMap<String, Tensor<1>>);

impl GradientNorm {
    /// Adds parameters that were not there before.
    pub(crate) fn add(&mut self, gradients: &Gradients) {
        let square = |(name, gradient): (&String, &Tensor<1>)| (name.clone(), squared_norm(gradient.clone()));
        self.0.extend(gradients.0.iter().map(square));
    }

    /// The norm; its squares are added in the order of the names, whatever the parts were.
    pub(crate) fn value(self) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        f64::from(Tensor::cat(self.0.into_values().collect(), 0).sum().sqrt().into_scalar::<f32>())
    }
}

struct Take<'a> {
    path: ParameterPath,
    store: &'a mut tensor::Gradients,
    into: &'a mut Gradients,
}

impl ModuleVisitor for Take<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.store) {
            let len = gradient.shape().num_elements();
            self.into.accumulate(&self.path.name(), gradient.reshape([len]));
        }
    }
}

/// Replaces every parameter that has a gradient by what `update` makes of both.
pub(crate) fn update_parameters<M: Module>(
    module: M,
    mut gradients: Gradients,
    mut update: impl FnMut(&str, Tensor<1>, Tensor<1>) -> Tensor<1>,
) -> M {
    map_parameters(module, "", |name, value| match gradients.remove(name) {
        Some(gradient) => update(name, value, gradient),
        None => value,
    })
}
