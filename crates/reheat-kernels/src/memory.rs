//! Settings of the allocator, files mapped into memory, and the bytes of tensors.

use std::ffi::{c_int, c_long};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_flex::FlexTensor;
use half::bf16;
use libmimalloc_sys::mi_option_set;

use crate::matrix::{rounded_tensor_of, tensor_of};

/// `mi_option_allow_large_os_pages` of mimalloc 2 and 3 (`mi_option_e` in `mimalloc.h`).
const ALLOW_LARGE_OS_PAGES: c_int = 6;
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: c_int = 15;
/// Never return freed pages.
const NEVER: c_long = -1;

/// Lets mimalloc keep freed pages instead of returning them to the system, and ask for large ones.
///
/// A training step frees and takes the same gigabytes over and over; page faults cost more than the work on them.
/// Has an effect only in a program whose global allocator is mimalloc. Call it first thing in `main`.
pub fn keep_pages() {
    // SAFETY: setting an option is a store into mimalloc's own table, valid at any time and from any thread.
    unsafe {
        mi_option_set(PURGE_DELAY, NEVER);
        mi_option_set(ALLOW_LARGE_OS_PAGES, 1);
    }
}

/// Most memory that this process had resident so far, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Memory of this computer in bytes; `None` where the system does not say.
pub fn total_memory_bytes() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A file mapped for reading.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file.
    ///
    /// A file that another process shortens while it is mapped ends this one with SIGBUS, as with any mapped checkpoint.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only; checkpoints are replaced by rename, never written in place.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// Lets the system take back the memory that holds a part of the file; it is read again when it is needed.
    ///
    /// A checkpoint of gigabytes would otherwise stay in memory beside the tensors that were made of it.
    pub fn release(&self, part: &[u8]) {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
        if offset.checked_add(part.len()).is_some_and(|end| end <= self.0.len()) && !part.is_empty() {
            // SAFETY: the mapping is private, read-only and backed by a file, so that pages given up come back with the
            // same bytes. Advice that the system does not take changes nothing.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Zeros in f32 or bf16.
///
/// [`Tensor::zeros`] fills a buffer on the CPU and copies it into another: for the moments and the gradient of a large
/// embedding, which is as much memory as the embedding once more.
pub fn zeros<const D: usize>(shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    let len = shape.iter().product();
    match (device.as_dispatch(), dtype) {
        (DispatchDevice::Flex(_), DType::F32) => Tensor::from_primitive::<Flex>(tensor_of(vec![0.0; len], shape)),
        (DispatchDevice::Flex(_), DType::BF16) => {
            Tensor::from_primitive::<Flex>(rounded_tensor_of(vec![bf16::ZERO; len], shape))
        }
        _ => Tensor::zeros(shape, (device, dtype)),
    }
}

/// The numbers of a plain tensor as bytes in row-major order, for writing them to a file.
///
/// Nothing is copied where they lie so in the computer's memory already: half of what training holds is written at each
/// checkpoint.
#[derive(Debug)]
pub struct TensorBytes(Holder);

#[derive(Debug)]
enum Holder {
    InPlace(FlexTensor),
    Copied(TensorData),
}

impl TensorBytes {
    /// Takes a handle of the tensor, or a copy of its numbers.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Self {
        if matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_)) {
            let data = tensor.clone();
            if let Ok(flex) = tensor.try_into_primitive::<Flex>()
                && flex.is_contiguous()
                && flex.bytes().len() == flex.layout().num_elements() * flex.dtype().size()
            {
                return Self(Holder::InPlace(flex));
            }
            return Self(Holder::Copied(data.into_data()));
        }
        Self(Holder::Copied(tensor.into_data()))
    }

    /// The bytes, little-endian on every platform that Reheat runs on.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Holder::InPlace(tensor) => tensor.bytes(),
            Holder::Copied(data) => data.as_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_those_of_burn() {
        for dtype in [DType::F32, DType::BF16] {
            let expected = Tensor::<2>::zeros([3, 5], (&Device::flex(), dtype)).into_data();
            zeros([3, 5], &Device::flex(), dtype).into_data().assert_eq(&expected, true);
        }
    }

    #[test]
    fn bytes_are_in_row_major_order_whatever_the_layout() {
        let matrix = Tensor::<2>::from_data([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::flex());
        let bytes = |tensor: Tensor<2>| {
            let bytes = TensorBytes::new(tensor);
            let numbers = bytes.as_slice().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(bytes(matrix.clone()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(bytes(matrix.clone().transpose()), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(bytes(matrix.narrow(0, 1, 1)), [4.0, 5.0, 6.0]);
    }
}
