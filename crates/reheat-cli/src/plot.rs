//! Curves and bars, in the terminal and as SVG.

mod scale; // round numbers for axes
mod terminal; // a curve in braille dots
mod svg;

pub(crate) use self::{
    svg::{Panel, save_svg},
    terminal::curve,
};

/// A named sequence of points, ascending in x.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points }
    }

    /// Points that can be drawn: a loss may become NaN.
    fn finite(&self) -> impl Iterator<Item = (f64, f64)> + Clone {
        self.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
    }
}
