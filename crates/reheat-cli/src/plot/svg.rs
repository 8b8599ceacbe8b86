//! Curves as SVG files, drawn by plotters.

use std::{fs, path::Path};

use plotters::{
    chart::ChartBuilder,
    drawing::{DrawingAreaErrorKind, IntoDrawingArea},
    prelude::{LineSeries, SVGBackend},
    series::DashedLineSeries,
    style::{BLACK, Color, IntoFont, RGBColor, WHITE},
};

use super::{Series, scale::Scale};

/// One diagram.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
}

/// Colours that stay apart for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

const PANEL: (u32, u32) = (720, 360);

/// Writes `panels` one under the other. Directories are made where they are missing.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn save_svg(path: &Path, panels: &[Panel]) -> anyhow::Result<()> {
    let mut text = String::new();
    let height = PANEL.1 * panels.len().max(1) as u32;
    {
        let area = SVGBackend::with_string(&mut text, (PANEL.0, height)).into_drawing_area();
        area.fill(&WHITE).map_err(plain)?;
        for (panel, area) in panels.iter().zip(area.split_evenly((panels.len().max(1), 1))) {
            draw(panel, &area).map_err(plain)?;
        }
        area.present().map_err(plain)?;
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, text)?)
}

/// The backend's error can't leave the function: it may borrow.
fn plain<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow::anyhow!("cannot draw a plot: {error}")
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as plotters::backend::DrawingBackend>::ErrorType>;

fn draw<'a>(panel: &Panel, area: &Area<'a>) -> Result<(), DrawError<'a>> {
    let points = || panel.series.iter().flat_map(Series::finite);
    let x = Scale::exact(points().map(|point| point.0), 8);
    let y = Scale::around(points().map(|point| point.1), 5);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(&panel.title, ("sans-serif", 20).into_font())
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
        if index == 0 {
            chart.draw_series(LineSeries::new(series.finite(), style))?;
        } else {
            // Apart without colour as well.
            chart.draw_series(DashedLineSeries::new(series.finite(), 8, 4, style))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        save_svg(&path, &[panel]).unwrap();
        let text = fs::read_to_string(path).unwrap();
        for label in ["Training loss", "step", "loss (nats per token)", "<polyline"] {
            assert!(text.contains(label), "{label} is missing");
        }
        assert!(!text.contains("NaN"));
    }
}
