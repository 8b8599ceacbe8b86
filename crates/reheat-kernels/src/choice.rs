//! Which implementation operations take: kernels, or the plain definitions.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Tensor};

/// Implementations of the operations in this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// The plain definitions in Burn operations, on every device: slower, and what kernels are compared with.
    Reference,
    /// Kernels where the device and the type of the tensors have one.
    #[default]
    Fused,
}

static REFERENCE: AtomicBool = AtomicBool::new(false);

/// Chooses the implementation for the whole process, from the next operation on.
///
/// It is no argument of the operations because it never varies within a run: it answers whether a result comes from a
/// kernel. An operation reads it in its forward pass; its backward pass goes the same way.
pub fn use_kernels(kernels: Kernels) {
    REFERENCE.store(kernels == Kernels::Reference, Ordering::Relaxed);
}

/// The implementation that the process has chosen.
pub fn chosen_kernels() -> Kernels {
    if chosen() { Kernels::Fused } else { Kernels::Reference }
}

/// Whether a kernel takes this tensor, where there is one for the CPU and one in CubeCL: f32 on either.
pub(crate) fn runs_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    runs_on_cpu(tensor) || runs_on_cube(tensor)
}

/// Whether a kernel for the CPU takes this tensor: f32.
pub(crate) fn runs_on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && on_cpu(tensor)
}

/// Whether a kernel in CubeCL takes this tensor: f32 on one of its devices.
#[cfg_attr(not(feature = "cube"), expect(unused_variables, reason = "no such device is built in"))]
pub(crate) fn runs_on_cube<const D: usize>(tensor: &Tensor<D>) -> bool {
    #[cfg(feature = "cube")]
    if tensor.dtype() == DType::F32 && matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Cube(_)) {
        return chosen();
    }
    false
}

/// Whether kernels that take every type may run: on the CPU.
pub(crate) fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    chosen() && matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

fn chosen() -> bool {
    !REFERENCE.load(Ordering::Relaxed)
}
