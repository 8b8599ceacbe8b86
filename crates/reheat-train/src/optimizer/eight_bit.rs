//! Which moments are kept in 8 bits, and what they are in a checkpoint: bitsandbytes' names and its choice of parameters.

use reheat_kernels::{EIGHT_BIT_BLOCK, EightBitMoment};
use reheat_model::Numbers;

use crate::pass::EMBEDDING;

/// Parameters with fewer numbers keep their moments in f32 (bitsandbytes, `min_8bit_size`).
const FEWEST: usize = 4096;

/// The kinds that are codes; the others are their scales.
pub(super) const CODES: [&str; 2] = ["state1", "state2"];

/// Whether a parameter has moments in 8 bits. The embedding has not: its gradients are of a few rows at a time, and
/// training with them so is unstable (Dettmers et al. 2022, section 2.3; transformers 5.23, `create_optimizer`).
pub(crate) fn takes(name: &str, shape: &[usize]) -> bool {
    name != EMBEDDING && shape.iter().product::<usize>() >= FEWEST
}

/// What is kept of a parameter of `len` numbers, and how many of each.
pub(super) fn kinds(len: usize) -> Vec<(&'static str, usize)> {
    let blocks = len.div_ceil(EIGHT_BIT_BLOCK);
    vec![("state1", len), ("absmax1", blocks), ("state2", len), ("absmax2", blocks)]
}

/// In the order of [`kinds`].
pub(super) fn numbers(moments: [EightBitMoment; 2]) -> Vec<Numbers> {
    moments.into_iter().flat_map(|moment| [Numbers::Codes(moment.codes()), moment.scales().into()]).collect()
}

/// What [`numbers`] was given.
pub(super) fn moments(numbers: Vec<Numbers>) -> [EightBitMoment; 2] {
    let mut numbers = numbers.into_iter();
    let mut next = || match (numbers.next(), numbers.next().and_then(Numbers::floats)) {
        (Some(Numbers::Codes(codes)), Some(scales)) => EightBitMoment::new(codes, scales),
        _ => unreachable!("codes and scales alternate, as `restore` checks"),
    };
    [next(), next()]
}
