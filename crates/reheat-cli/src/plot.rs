//! Curves and bars, in the terminal and as files.

mod scale; // round numbers for axes
mod terminal; // a curve in braille dots, a bar in blocks
mod curves;
mod bars; // bars as small multiples
mod histogram;
mod lettering; // text that the font has
mod figure; // SVG and PNG files

pub(crate) use self::{
    bars::{Bar, BarChart, BarPanel, save_bars},
    curves::{Panel, save_panels},
    figure::Figure,
    histogram::{Histogram, histogram, save_histogram},
    terminal::{bar, curve},
};

use plotters::style::RGBColor;

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

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
