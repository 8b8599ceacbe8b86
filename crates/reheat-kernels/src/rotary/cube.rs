//! The kernel in CubeCL: one unit per pair of elements that are rotated into each other.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{Direction, Rotary};
use crate::cube::{elementwise, owned, size, sizes};
use crate::kernel::Kernel;

impl Kernel<CubeBackend, 3> for Rotary {
    type Saved = [CubeTensor; 2];

    fn forward(&self, [x, cos, sin]: [CubeTensor; 3]) -> (CubeTensor, Self::Saved) {
        let (cos, sin) = (into_contiguous(cos), into_contiguous(sin));
        (rotate(x, &cos, &sin, Direction::Forward), [cos, sin])
    }

    fn backward(&self, [cos, sin]: Self::Saved, grad: CubeTensor) -> [Option<CubeTensor>; 3] {
        [Some(rotate(grad, &cos, &sin, Direction::Back)), None, None]
    }
}

/// In place where nothing else holds `x`.
fn rotate(x: CubeTensor, cos: &CubeTensor, sin: &CubeTensor, direction: Direction) -> CubeTensor {
    let ([tokens, width], [table_tokens, half]) = (sizes(&x), sizes(cos));
    assert_eq!(table_tokens, tokens, "rotary: the table was made for another number of tokens");
    assert_eq!(width % (2 * half), 0, "rotary: the width is not a multiple of the head size");
    let x = owned(x);
    let pairs = tokens * width / 2;
    if pairs > 0 {
        let (count, dim) = elementwise(&x.client, pairs);
        rotate_pairs::launch(
            &x.client,
            count,
            dim,
            x.clone().into_buffer_arg(),
            cos.clone().into_buffer_arg(),
            sin.clone().into_buffer_arg(),
            size(pairs),
            size(width / 2),
            size(half),
            direction.sign(),
        );
    }
    x
}

/// Reads and writes each element of `x` once.
#[cube(launch)]
fn rotate_pairs(x: &mut [f32], cos: &[f32], sin: &[f32], pairs: u32, pairs_per_token: u32, half: u32, sign: f32) {
    let pair = ABSOLUTE_POS;
    if pair < pairs as usize {
        let half = half as usize;
        let token = pair / pairs_per_token as usize;
        let column = pair % half;
        let first = pair / half * half * 2 + column;
        let c = cos[token * half + column];
        let s = sin[token * half + column] * sign;
        let x1 = x[first];
        let x2 = x[first + half];
        x[first] = x1 * c - x2 * s;
        x[first + half] = x2 * c + x1 * s;
    }
}
