//! Where the tensors of a new model come from: a checkpoint, a random generator, or nowhere (to list what is needed).

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use reheat_kernels::{FourBitWeight, Weight};

use crate::{Qwen2, Qwen2Config};

/// Gives the tensor of a checkpoint name.
pub(crate) trait TensorSource {
    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D>;

    /// The matrix of a dense layer, in the type in which it is to be held.
    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Weight {
        self.tensor(name, shape).into()
    }

    /// The device that will hold the model.
    fn device(&self) -> Device;

    /// The matrix in 4 bits, where it is to be held so.
    fn four_bit(&mut self, _name: &str, _shape: [usize; 2]) -> Option<FourBitWeight> {
        None
    }
}

/// Names and shapes of all tensors, in the order in which they are saved.
pub(crate) fn shapes(config: &Qwen2Config) -> Vec<(String, Vec<usize>)> {
    struct Names(Vec<(String, Vec<usize>)>);
    impl TensorSource for Names {
        fn device(&self) -> Device {
            Device::flex()
        }

        fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
            self.0.push((name.into(), shape.to_vec()));
            Tensor::empty([0; D], &Device::flex())
        }
    }
    let mut names = Names(Vec::new());
    Qwen2::build(config, &mut names);
    names.0
}

/// Weights as transformers draws them: matrices from N(0, `initializer_range`²), biases 0, norms 1.
pub(crate) struct RandomSource {
    rng: ChaCha8Rng,
    normal: Normal<f32>,
    device: Device,
}

impl RandomSource {
    pub(crate) fn new(config: &Qwen2Config, seed: u64, device: &Device) -> Self {
        // A range that is not finite or negative makes no distribution; 0 is what such a file can mean.
        let normal = Normal::new(0.0, config.initializer_range as f32)
            .unwrap_or_else(|_| Normal::new(0.0, 0.0).expect("a deviation of 0 is a distribution"));
        Self { rng: ChaCha8Rng::seed_from_u64(seed), normal, device: device.clone() }
    }
}

impl TensorSource for RandomSource {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let count = shape.iter().product();
        let values: Vec<f32> = if name.ends_with("norm.weight") {
            vec![1.0; count]
        } else if name.ends_with(".bias") {
            vec![0.0; count]
        } else {
            self.normal.sample_iter(&mut self.rng).take(count).collect()
        };
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}
