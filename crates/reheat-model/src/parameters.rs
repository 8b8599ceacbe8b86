//! Visiting the parameters of a module by the names they have in checkpoints.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::lora::{ADAPTER_FIELD, PEFT_PREFIX, TOKENS_FIELD, TOKENS_PARENT, is_adapters};

/// Calls `f` with the path of every parameter, `prefix` before it, and with its values as `[elements]`.
///
/// For plain modules: under autodiff the reshape would be one more operation to track.
pub fn for_each_parameter(module: &impl Module, prefix: &str, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    struct Visit<F> {
        path: ParameterPath,
        f: F,
    }
    impl<F: FnMut(&str, &[usize], Tensor<1>)> ModuleVisitor for Visit<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let shape = value.dims();
            (self.f)(&self.path.name(), &shape, value.reshape([shape.iter().product::<usize>()]));
        }
    }
    module.visit(&mut Visit { path: ParameterPath::new(prefix), f });
}

/// Replaces the values of every parameter by what `f` makes of them; shape and identity stay.
///
/// `f` owns the values: where nothing else holds them it can work in place.
pub fn map_parameters<M: Module>(module: M, prefix: &str, f: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Map<F> {
        path: ParameterPath,
        f: F,
    }
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Map<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.enter(name);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            let f = &mut self.f;
            param.map(|value| {
                let shape = value.dims();
                // A weight that is held elsewhere; besides, 0 is no size to `reshape`.
                if shape.contains(&0) {
                    return value;
                }
                f(&name, value.reshape([shape.iter().product::<usize>()])).reshape(shape)
            })
        }
    }
    module.map(&mut Map { path: ParameterPath::new(prefix), f })
}

/// The parameter that a tensor of a file holds: PEFT puts its prefix before the names of modules that are saved whole too.
pub fn parameter_name(name_in_file: &str) -> &str {
    if is_adapters(name_in_file) {
        name_in_file
    } else {
        name_in_file.strip_prefix(PEFT_PREFIX).unwrap_or(name_in_file)
    }
}

/// Where a visitor of a module is, for visitors that need the names of parameters and more than their values.
#[derive(Debug, Clone)]
pub struct ParameterPath(Vec<String>);

impl ParameterPath {
    /// At a module to which `prefix` leads; empty for the whole model.
    pub fn new(prefix: &str) -> Self {
        Self(if prefix.is_empty() { Vec::new() } else { vec![prefix.into()] })
    }

    /// Into a field.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    /// Out of it.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The checkpoint name: the body of the model is under `model.`, its heads beside it.
    ///
    /// An adapter's parameters have the names of PEFT's files.
    pub fn name(&self) -> String {
        let parts: Vec<&str> = self.0.iter().map(String::as_str).filter(|part| *part != ADAPTER_FIELD).collect();
        let path = parts.join(".");
        if parts.first() == Some(&TOKENS_FIELD) {
            return format!("{PEFT_PREFIX}{TOKENS_PARENT}.{path}");
        }
        let beside = ["lm_head.", "score.", "model."].iter().any(|start| path.starts_with(start));
        let name = if beside { path } else { format!("model.{path}") };
        if parts.len() < self.0.len() { format!("{PEFT_PREFIX}{name}") } else { name }
    }
}
