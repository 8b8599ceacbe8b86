//! The values that codes stand for, as bitsandbytes 0.50 has them.

use std::sync::LazyLock;

/// Which sixteen values 4 bits stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FourBitKind {
    /// Quantiles of the normal distribution (QLoRA, equation 4; the table of its appendix E).
    #[default]
    Nf4,
    /// A float of one sign bit, two exponent bits and one fraction bit.
    Fp4,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// By code: the high bit is the sign.
const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_4,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_4,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

impl FourBitKind {
    fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The codes by ascending value, and the midpoints between neighbours.
    pub(super) fn order_and_bounds(self) -> ([u8; 16], [f32; 15]) {
        let values = self.values();
        let mut order: [u8; 16] = std::array::from_fn(|code| code as u8);
        order.sort_by(|a, b| values[usize::from(*a)].total_cmp(&values[usize::from(*b)]));
        let value = |index: usize| values[usize::from(order[index])];
        (order, std::array::from_fn(|index| (value(index) + value(index + 1)) / 2.0))
    }

    /// Both values of every byte.
    pub(super) fn pairs(self) -> &'static [[f32; 2]; 256] {
        static NF4_PAIRS: LazyLock<[[f32; 2]; 256]> = LazyLock::new(|| pairs(&NF4));
        static FP4_PAIRS: LazyLock<[[f32; 2]; 256]> = LazyLock::new(|| pairs(&FP4));
        match self {
            Self::Nf4 => &NF4_PAIRS,
            Self::Fp4 => &FP4_PAIRS,
        }
    }
}

fn pairs(values: &[f32; 16]) -> [[f32; 2]; 256] {
    std::array::from_fn(|byte| [values[byte >> 4], values[byte & 0xf]])
}

/// Index of the nearest of some ascending values, given the midpoints between them; the lower one on a midpoint.
pub(super) fn nearest(bounds: &[f32], value: f32) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

/// The 256 values of an 8-bit dynamic number, ascending (Dettmers 2015, arXiv:1511.04561; signed, seven exponents).
pub(super) fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
        const EXPONENTS: i32 = 7;
        let mut values = vec![0.0, 1.0];
        for exponent in 0..EXPONENTS {
            let scale = 10f64.powi(exponent - EXPONENTS + 1);
            let count = 1 << exponent;
            for index in 0..count {
                let boundary = |index: i32| 0.1 + 0.9 * f64::from(index) / f64::from(count);
                let mean = (boundary(index) + boundary(index + 1)) / 2.0;
                values.extend([(scale * mean) as f32, (-scale * mean) as f32]);
            }
        }
        values.sort_by(f32::total_cmp);
        values.try_into().expect("2 and twice 1 + 2 + … + 64 are 256")
    });
    &MAP
}
