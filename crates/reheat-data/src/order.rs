//! The order in which an epoch visits the examples.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Whether an epoch shuffles, under TRL's name and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainSamplingStrategy {
    /// A new order each epoch, drawn from the seed.
    #[default]
    Random,
    /// The order of the file.
    Sequential,
}

/// Indices of `len` examples in the order of an epoch.
///
/// The order depends on `seed` and `epoch` alone, so that a run can be taken up again anywhere.
///
/// ```
/// use reheat_data::{TrainSamplingStrategy, epoch_order};
///
/// assert_eq!(epoch_order(3, 42, 0, TrainSamplingStrategy::Sequential), [0, 1, 2]);
/// let shuffled = epoch_order(100, 42, 0, TrainSamplingStrategy::Random);
/// assert_eq!(shuffled, epoch_order(100, 42, 0, TrainSamplingStrategy::Random));
/// assert_ne!(shuffled, epoch_order(100, 42, 1, TrainSamplingStrategy::Random));
/// ```
pub fn epoch_order(len: usize, seed: u64, epoch: u64, strategy: TrainSamplingStrategy) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    if strategy == TrainSamplingStrategy::Random {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        order.shuffle(&mut rng);
    }
    order
}
