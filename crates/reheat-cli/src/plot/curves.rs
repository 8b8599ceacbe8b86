//! Curves, one panel under the other.

use plotters::{
    backend::DrawingBackend,
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::Shift,
    drawing::DrawingArea,
    element::PathElement,
    prelude::LineSeries,
    series::DashedLineSeries,
    style::{BLACK, Color, IntoFont, WHITE},
};

use super::{
    COLOURS, Figure, Series,
    figure::{Drawing, Drawn},
    lettering::Lettering,
    scale::Scale,
};

/// One diagram.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
}

const PANEL: (u32, u32) = (720, 360);

/// Writes `panels` one under the other. Directories are made where they are missing.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn save_panels(figure: &Figure, panels: &[Panel]) -> anyhow::Result<()> {
    figure.save(&Panels(panels))
}

struct Panels<'a>(&'a [Panel]);

impl Drawing for Panels<'_> {
    fn size(&self) -> (u32, u32) {
        (PANEL.0, PANEL.1 * self.0.len().max(1) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B> {
        let areas = area.split_evenly((self.0.len().max(1), 1));
        self.0.iter().zip(&areas).try_for_each(|(panel, area)| draw(panel, area, lettering))
    }
}

fn draw<B: DrawingBackend>(panel: &Panel, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B> {
    let points = || panel.series.iter().flat_map(Series::finite);
    let x = Scale::exact(points().map(|point| point.0), 8);
    let y = Scale::around(points().map(|point| point.1), 5);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(lettering.of(&panel.title), ("sans-serif", 20).into_font())
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x.low..x.high, y.low..y.high)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(8)
        .y_labels(y.ticks().len())
        .x_label_formatter(&|value| x.label(*value))
        .y_label_formatter(&|value| y.label(*value))
        .x_desc(&panel.x_label)
        .y_desc(&panel.y_label)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (index, series) in panel.series.iter().enumerate() {
        let style = COLOURS[index % COLOURS.len()].stroke_width(2);
        let drawn = if index == 0 {
            chart.draw_series(LineSeries::new(series.finite(), style))?
        } else {
            // Apart without colour as well.
            chart.draw_series(DashedLineSeries::new(series.finite(), 8, 4, style))?
        };
        drawn.label(lettering.of(&series.name)).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if panel.series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 13))
            .draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn axes_and_title_are_labelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plots/loss.svg");
        let panel = Panel {
            title: "Training loss".into(),
            x_label: "step".into(),
            y_label: "loss (nats per token)".into(),
            series: vec![Series::new("loss", vec![(1.0, 3.0), (2.0, f64::NAN), (10.0, 0.5)])],
        };
        save_panels(&Figure::svg(&path), &[panel]).unwrap();
        let text = fs::read_to_string(path).unwrap();
        for label in ["Training loss", "step", "loss (nats per token)", "<polyline"] {
            assert!(text.contains(label), "{label} is missing");
        }
        assert!(!text.contains("NaN"));
    }
}
