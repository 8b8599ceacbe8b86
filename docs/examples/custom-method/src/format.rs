//! A dataset format: lines of a weight, a tab, and text.

use std::fmt;

use reheat_data::Sequence;

/// A text that counts more or less than others.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedRow {
    /// Its tokens.
    pub sequence: Sequence,
    /// How much each of its tokens counts.
    pub weight: f64,
}

/// A line that is not a row.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// 1-based.
    line: usize,
    reason: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for BadLine {}

/// Reads lines; `encode` is a tokenizer.
///
/// # Errors
/// The first line without a tab, or whose weight is no positive number.
pub fn read(text: &str, encode: impl Fn(&str) -> Vec<u32>) -> Result<Vec<WeightedRow>, BadLine> {
    let row = |(index, line): (usize, &str)| {
        let fault = |reason| BadLine { line: index + 1, reason };
        let (weight, text) = line.split_once('\t').ok_or(fault("expected a weight, a tab and text"))?;
        let weight: f64 = weight.trim().parse().map_err(|_| fault("the weight is no number"))?;
        if !(weight.is_finite() && weight > 0.0) {
            return Err(fault("the weight is not above 0"));
        }
        Ok(WeightedRow { sequence: Sequence::new(encode(text)), weight })
    };
    text.lines().enumerate().map(row).collect()
}
