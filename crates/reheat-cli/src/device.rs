//! `--device`: which of the devices in this binary computes.

use std::{fmt, str::FromStr};

use burn::tensor::Device;
use reheat_kernels::bf16_instructions;
use reheat_train::TrainingDtype;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

const CPU: &str = "cpu";

/// What `--device` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DeviceChoice {
    /// An accelerator that really starts, else the CPU.
    #[default]
    Auto,
    Cpu,
    Accelerator {
        kind: Accelerator,
        index: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Cuda,
    Rocm,
    Metal,
    Vulkan,
    Wgpu,
}

impl Accelerator {
    /// In the order in which `auto` tries them.
    const ALL: [Self; 5] = [Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Wgpu];

    /// Also the name of the cargo feature.
    fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// The device, not started yet; `None` where the binary was built without it.
    fn open(self, index: usize) -> Option<Device> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(Device::cuda(index)),
            #[cfg(feature = "rocm")]
            Self::Rocm => Some(Device::rocm(index)),
            #[cfg(feature = "metal")]
            Self::Metal => Some(Device::metal(graphics(index))),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(Device::vulkan(graphics(index))),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(Device::wgpu(graphics(index))),
            // Unreachable where every feature is on.
            #[cfg(not(all(
                feature = "cuda",
                feature = "rocm",
                feature = "metal",
                feature = "vulkan",
                feature = "wgpu"
            )))]
            _ => {
                let _ = index; // used by the devices that are compiled in
                None
            }
        }
    }
}

/// Index 0 is what the graphics system thinks best, which on a laptop may be an integrated GPU.
#[cfg(any(feature = "metal", feature = "vulkan", feature = "wgpu"))]
fn graphics(index: usize) -> burn::tensor::DeviceKind {
    match index {
        0 => burn::tensor::DeviceKind::DefaultDevice,
        _ => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}

/// A device that started, and why it is this one.
pub(crate) struct ChosenDevice {
    pub(crate) device: Device,
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl DeviceChoice {
    /// Starts the device.
    pub(crate) fn resolve(self) -> Result<ChosenDevice, Fault> {
        match self {
            Self::Cpu => Ok(cpu("asked for")),
            Self::Accelerator { kind, index } => {
                let Some(device) = kind.open(index) else {
                    return Err(Fault::input(format!("this binary was built without `{}` devices", kind.name()))
                        .hint(format!("build it with `--features {}`, or use --device cpu", kind.name())));
                };
                start(&device).map_err(|reason| {
                    Fault::failed(format!("device `{self}` does not start: {reason}")).hint(
                        "is its driver installed? --device auto picks a device that starts, --device cpu always works",
                    )
                })?;
                Ok(ChosenDevice { device, name: self.to_string(), reason: "asked for".to_owned() })
            }
            Self::Auto => {
                let mut tried = Vec::new();
                for kind in Accelerator::ALL {
                    let Some(device) = kind.open(0) else { continue };
                    let name = format!("{}:0", kind.name());
                    match start(&device) {
                        Ok(()) => {
                            return Ok(ChosenDevice {
                                device,
                                name,
                                reason: "the first accelerator that started".into(),
                            });
                        }
                        Err(reason) => {
                            tracing::info!("{name} does not start: {reason}");
                            tried.push(name);
                        }
                    }
                }
                Ok(match tried.as_slice() {
                    [] => cpu("this binary has no accelerators"),
                    tried => cpu(&format!("{} did not start", tried.join(", "))),
                })
            }
        }
    }
}

impl ChosenDevice {
    /// The type in which products are fastest here, and why.
    pub(crate) fn training_dtype(&self) -> (TrainingDtype, &'static str) {
        if self.name != CPU {
            (TrainingDtype::Float32, "products in bfloat16 are written for CPUs so far")
        } else if bf16_instructions() {
            (TrainingDtype::Bfloat16, "this CPU multiplies bfloat16 numbers with instructions of their own")
        } else {
            (TrainingDtype::Float32, "this CPU has no instructions for bfloat16 products")
        }
    }
}

fn cpu(reason: &str) -> ChosenDevice {
    ChosenDevice { device: Device::flex(), name: CPU.to_owned(), reason: reason.to_owned() }
}

/// A device without driver or hardware panics at its first use, so it is used once here.
fn start(device: &Device) -> Result<(), String> {
    crate::fault::expecting_panics(|| device.sync().map_err(|error| error.to_string()))?
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            CPU => return Ok(Self::Cpu),
            _ => {}
        }
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => {
                let index = index.parse().map_err(|_| format!("`{index}` is not the number of a device"))?;
                (name, index)
            }
            None => (text, 0),
        };
        let kind = Accelerator::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| "expected auto, cpu, cuda:0, rocm:0, metal:0, vulkan:0 or wgpu:0".to_owned())?;
        Ok(Self::Accelerator { kind, index })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str(CPU),
            Self::Accelerator { kind, index } => write!(f, "{}:{index}", kind.name()),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for DeviceChoice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DeviceChoice".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "wgpu:1", "metal:0"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap().to_string(), "cuda:0");
    }

    #[test]
    fn unknown_devices_are_answered_with_the_known_ones() {
        assert!("tpu".parse::<DeviceChoice>().unwrap_err().contains("cuda:0"));
        assert!("cuda:x".parse::<DeviceChoice>().unwrap_err().contains("`x`"));
        assert!("cpu:0".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn auto_always_gives_a_device() {
        assert!(!DeviceChoice::Auto.resolve().unwrap().reason.is_empty());
    }
}
