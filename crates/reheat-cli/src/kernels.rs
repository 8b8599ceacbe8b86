//! `--kernels`: fused kernels, or the definitions that they are compared with.

use reheat_kernels::{Kernels, use_kernels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `--kernels` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KernelChoice {
    /// Kernels where the device has them.
    #[default]
    Fused,
    /// Plain definitions throughout: slow, and what every kernel is compared with.
    Reference,
}

impl KernelChoice {
    /// From here on, for the whole process.
    pub(crate) fn apply(self) {
        use_kernels(match self {
            Self::Fused => Kernels::Fused,
            Self::Reference => Kernels::Reference,
        });
    }
}
