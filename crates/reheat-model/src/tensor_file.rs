//! Safetensors files of named tensors, in and out.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use reheat_kernels::{MappedFile, TensorBytes, codes_from};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::file_writer::{WrittenFile, write_file};
use crate::{ModelError, WeightDtype};

/// The header's length is a multiple of this, so that numbers lie aligned in a mapped file.
const ALIGNMENT: usize = 8;

/// A tensor on its way to a file.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Numbers,
    /// What numbers become in the file; codes stay bytes.
    pub dtype: WeightDtype,
}

/// What a tensor of a file holds, `[elements]`.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// Floating-point numbers.
    Floats(Tensor<1>),
    /// Bytes that stand for something else (u8), as those of moments in 8 bits.
    Codes(Tensor<1, Int>),
}

impl From<Tensor<1>> for Numbers {
    fn from(values: Tensor<1>) -> Self {
        Self::Floats(values)
    }
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.dims()[0],
            Self::Codes(codes) => codes.dims()[0],
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The floating-point numbers, if it is those.
    pub fn floats(self) -> Option<Tensor<1>> {
        match self {
            Self::Floats(values) => Some(values),
            Self::Codes(_) => None,
        }
    }
}

impl NamedTensor {
    /// Bytes that it takes in the file.
    pub fn num_bytes(&self) -> usize {
        let each = match &self.values {
            Numbers::Floats(_) => self.dtype.bytes(),
            Numbers::Codes(_) => 1,
        };
        self.shape.iter().product::<usize>() * each
    }

    /// The name of its type in the file.
    fn type_name(&self) -> String {
        let dtype = match &self.values {
            Numbers::Floats(_) => self.dtype.safetensors(),
            Numbers::Codes(_) => Dtype::U8,
        };
        format!("{dtype:?}")
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let values = match &self.values {
            Numbers::Floats(values) => values,
            Numbers::Codes(codes) => {
                let codes = codes.clone().into_data();
                return out.write_all(codes.as_bytes());
            }
        };
        if values.dtype() == self.dtype.dtype() {
            return out.write_all(TensorBytes::new(values.clone()).as_slice());
        }
        let bytes = TensorBytes::new(values.clone().cast(DType::F32));
        let values = bytemuck::cast_slice::<u8, f32>(bytes.as_slice());
        match self.dtype {
            WeightDtype::F32 => out.write_all(bytes.as_slice()),
            WeightDtype::F16 => write_halves(out, values, |value| f16::from_f32(value).to_le_bytes()),
            WeightDtype::Bf16 => write_halves(out, values, |value| bf16::from_f32(value).to_le_bytes()),
        }
    }
}

fn write_halves(out: &mut dyn Write, values: &[f32], half: fn(f32) -> [u8; 2]) -> io::Result<()> {
    let halves: Vec<[u8; 2]> = values.par_iter().map(|value| half(*value)).collect();
    out.write_all(halves.as_flattened())
}

/// Writes a safetensors file, complete or not at all: a file that was there is replaced when the new one is whole.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor]) -> Result<WrittenFile, ModelError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.unfinished"));
    let written = write_file(&unfinished, |out| {
        let header = header(tensors);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        tensors.iter().try_for_each(|tensor| tensor.write(out))
    });
    match written.and_then(|written| fs::rename(&unfinished, path).map(|()| written)) {
        Ok((bytes, sha256)) => Ok(WrittenFile { name: name.into_owned(), bytes, sha256 }),
        Err(source) => {
            // What is half written is of no use; the first error is the one to report.
            let _ = fs::remove_file(&unfinished);
            Err(ModelError::Write { path: path.into(), source })
        }
    }
}

/// Names, types, shapes and places, as JSON padded with spaces.
fn header(tensors: &[NamedTensor]) -> String {
    let mut header = Map::new();
    // transformers refuses files whose header does not name the framework.
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.num_bytes();
        let entry = json!({ "dtype": tensor.type_name(), "shape": tensor.shape, "data_offsets": [start, end] });
        header.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(ALIGNMENT) - text.len()));
    text
}

/// A safetensors file, mapped into memory.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: MappedFile,
}

impl TensorFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// If the file cannot be read or is no safetensors file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let map = MappedFile::open(path).map_err(|source| ModelError::Read { path: path.into(), source })?;
        let file = Self { path: path.into(), map };
        file.tensors()?;
        Ok(file)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, ModelError> {
        SafeTensors::deserialize(&self.map)
            .map_err(|source| ModelError::Safetensors { path: self.path.clone(), source })
    }

    /// Calls `take` with the name and the numbers, as `[elements]` in the file's own type, of every tensor.
    ///
    /// # Errors
    /// If a tensor is neither of floating-point numbers nor of bytes.
    pub fn for_each(&self, device: &Device, mut take: impl FnMut(String, Numbers)) -> Result<(), ModelError> {
        for (name, view) in self.tensors()?.tensors() {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::U8 => {
                    take(name, Numbers::Codes(codes_from(view.data().to_vec(), device)));
                    continue;
                }
                other => {
                    let dtype = format!("{other:?}");
                    return Err(ModelError::Dtype { path: self.path.clone(), name, dtype });
                }
            };
            let len = view.shape().iter().product::<usize>();
            let data = TensorData::from_bytes_vec(view.data().to_vec(), [len], dtype);
            take(name, Tensor::from_data(data, (device, dtype)).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_in_its_type() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let tensor = |name: &str, values: [f32; 6], dtype| NamedTensor {
            name: name.into(),
            shape: vec![2, 3],
            values: Tensor::<1>::from_data(values, &device).into(),
            dtype,
        };
        let codes = NamedTensor {
            name: "c".into(),
            shape: vec![3],
            values: Numbers::Codes(codes_from(vec![0, 127, 255], &device)),
            dtype: WeightDtype::F32,
        };
        let values = [1.0, -2.5, 0.1, 3.0, f32::MIN_POSITIVE, 1e30];
        let tensors = [tensor("b", values, WeightDtype::F32), tensor("a", values, WeightDtype::Bf16), codes];
        write_tensors(&path, &tensors).unwrap();

        let (mut read, mut read_codes) = (Vec::new(), Vec::new());
        let file = TensorFile::open(&path).unwrap();
        file.for_each(&device, |name, numbers| match numbers {
            Numbers::Floats(tensor) => read.push((name, tensor.dtype(), tensor.into_data())),
            Numbers::Codes(codes) => read_codes.extend(codes.into_data().try_to_vec::<u8>().unwrap()),
        })
        .unwrap();
        assert_eq!(read_codes, [0, 127, 255]);
        read.sort_by(|a, b| a.0.cmp(&b.0));
        let [(a, DType::BF16, halves), (b, DType::F32, floats)] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
        assert_eq!(floats.as_slice::<f32>().unwrap(), values);
        let expected: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        assert_eq!(halves.as_slice::<bf16>().unwrap(), expected);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
    }
}
