//! How many values fall where: bars in the terminal and in files, with a limit beyond which they are another colour.

use console::style;
use plotters::{
    backend::DrawingBackend,
    chart::ChartBuilder,
    coord::Shift,
    drawing::DrawingArea,
    element::{PathElement, Rectangle},
    style::{BLACK, Color, IntoFont, WHITE},
};

use super::{
    COLOURS, Figure,
    figure::{Drawing, Drawn},
    lettering::Lettering,
    scale::Scale,
    terminal::bar,
};

/// Rows of a histogram in the terminal.
const TERMINAL_ROWS: usize = 16;
const SIZE: (u32, u32) = (840, 420);

/// Counts of whole numbers in bins of one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Ascending, without gaps.
    pub(crate) bins: Vec<Bin>,
    /// What lies above stands out.
    pub(crate) limit: u64,
    values: Vec<u32>,
}

/// The values from `from` on and below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bin {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: u64,
}

impl Bin {
    /// Whether it is above the limit; of a bin on both sides, whether most of it is.
    fn is_cut(&self, limit: u64) -> bool {
        self.from + (self.to - self.from) / 2 > limit
    }
}

impl Histogram {
    /// At most `num_bins` bins from the smallest value to the largest.
    pub(crate) fn of(values: &[u32], num_bins: usize, limit: u64) -> Self {
        let mut histogram = Self { bins: Vec::new(), limit, values: values.to_vec() };
        histogram.bins = histogram.bins_of(num_bins);
        histogram
    }

    fn bins_of(&self, num_bins: usize) -> Vec<Bin> {
        let (Some(&min), Some(&max)) = (self.values.iter().min(), self.values.iter().max()) else { return Vec::new() };
        let (min, max) = (u64::from(min), u64::from(max));
        let width = (max - min + 1).div_ceil(num_bins.max(1) as u64);
        let count = (max - min + 1).div_ceil(width);
        let mut bins: Vec<Bin> = (0..count)
            .map(|index| Bin { from: min + index * width, to: min + (index + 1) * width, count: 0 })
            .collect();
        for &value in &self.values {
            bins[((u64::from(value) - min) / width) as usize].count += 1;
        }
        bins
    }
}

/// One line for each of a few bins, at most `width` columns wide.
pub(crate) fn histogram(histogram: &Histogram, width: usize) -> String {
    let bins = histogram.bins_of(TERMINAL_ROWS);
    let labels: Vec<String> = bins.iter().map(|bin| format!("{}–{}", bin.from, bin.to - 1)).collect();
    let label_width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    let count_width = most.to_string().len();
    let columns = width.saturating_sub(label_width + count_width + 4).clamp(8, 80);
    let mut lines = String::new();
    for (bin, label) in bins.iter().zip(labels) {
        let drawn = bar(bin.count as f64 / most as f64, columns);
        let drawn = if bin.is_cut(histogram.limit) { style(drawn).red() } else { style(drawn).cyan() };
        lines.push_str(&format!("{label:>label_width$}  {:>count_width$}  {drawn}\n", bin.count));
    }
    lines
}

/// Draws the histogram into a file.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn save_histogram(
    figure: &Figure,
    histogram: &Histogram,
    title: &str,
    x_label: &str,
    y_label: &str,
) -> anyhow::Result<()> {
    figure.save(&Labelled { histogram, title, x_label, y_label })
}

struct Labelled<'a> {
    histogram: &'a Histogram,
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
}

impl Drawing for Labelled<'_> {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B> {
        let bins = &self.histogram.bins;
        let limit = self.histogram.limit as f64;
        let ends = [bins.first().map_or(0, |bin| bin.from) as f64, bins.last().map_or(1, |bin| bin.to) as f64];
        let x = Scale::exact(ends.into_iter(), 8);
        let most = bins.iter().map(|bin| bin.count).max().unwrap_or(1) as f64;
        let y = Scale::around([0.0, most].into_iter(), 5);
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .caption(console::truncate_str(&lettering.of(self.title), 72, "…"), ("sans-serif", 20).into_font())
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x.low..x.high, y.low..y.high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(8)
            .y_labels(y.ticks().len())
            .x_label_formatter(&|value| x.label(*value))
            .y_label_formatter(&|value| y.label(*value))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .axis_desc_style(("sans-serif", 15))
            .label_style(("sans-serif", 13))
            .draw()?;
        for bin in bins.iter().filter(|bin| bin.count > 0) {
            let colour = COLOURS[usize::from(bin.is_cut(self.histogram.limit))];
            let corners = [(bin.from as f64, 0.0), (bin.to as f64, bin.count as f64)];
            chart.draw_series([Rectangle::new(corners, colour.mix(0.85).filled())])?;
        }
        if (x.low..x.high).contains(&limit) {
            let line = PathElement::new([(limit, y.low), (limit, y.high)], BLACK.stroke_width(2));
            chart.draw_series([line])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bin() {
        let found = Histogram::of(&[3, 3, 10, 12, 22], 4, 11);
        let bins: Vec<_> = found.bins.iter().map(|bin| (bin.from, bin.to, bin.count)).collect();
        assert_eq!(bins, [(3, 8, 2), (8, 13, 2), (13, 18, 0), (18, 23, 1)]);
        assert!(Histogram::of(&[], 4, 1).bins.is_empty());
        assert_eq!(Histogram::of(&[7], 50, 1).bins, [Bin { from: 7, to: 8, count: 1 }]);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let values: Vec<u32> = (0..1000).map(|value| value * value % 977).collect();
        let drawn = histogram(&Histogram::of(&values, 50, 500), 40);
        assert!(drawn.lines().all(|line| console::measure_text_width(line) <= 40), "{drawn}");
        assert!(drawn.lines().count() <= TERMINAL_ROWS);
    }

    #[test]
    fn files_have_titles_and_bars() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lengths.svg");
        let values = Histogram::of(&[1, 2, 2, 9], 3, 5);
        save_histogram(&Figure::svg(&path), &values, "Lengths", "tokens", "sequences").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for label in ["Lengths", "tokens", "sequences", "<rect"] {
            assert!(text.contains(label), "{label} is missing");
        }
    }
}
