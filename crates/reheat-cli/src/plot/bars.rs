//! Horizontal bars as small multiples: panels of one scale side by side.

use plotters::{
    backend::DrawingBackend,
    chart::ChartBuilder,
    coord::Shift,
    drawing::DrawingArea,
    element::{Rectangle, Text},
    prelude::{IntoSegmentedCoord, SegmentValue},
    style::{
        BLACK, Color, IntoFont, IntoTextStyle, RGBColor, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    COLOURS, Figure,
    figure::{Drawing, Drawn},
    lettering::Lettering,
    scale::Scale,
};

/// Panels that share their axes.
#[derive(Debug, Clone)]
pub(crate) struct BarChart {
    /// What the bars' lengths are.
    pub(crate) x_label: String,
    /// What the bars stand for.
    pub(crate) y_label: String,
    /// Whose bars they are, in the order of [`Bar::values`]; shown where there are several.
    pub(crate) legend: Vec<String>,
    pub(crate) panels: Vec<BarPanel>,
}

/// One diagram.
#[derive(Debug, Clone)]
pub(crate) struct BarPanel {
    pub(crate) title: String,
    /// From the top down.
    pub(crate) bars: Vec<Bar>,
}

/// One row of a diagram.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// One for each name of the legend.
    pub(crate) values: Vec<f64>,
}

/// Panels side by side, unless there are fewer.
const COLUMNS: usize = 3;
const PANEL_WIDTH: usize = 420;
const BAR_HEIGHT: usize = 16;
/// Between the bars of two rows.
const GAP: usize = 6;
/// Title, axis and margins of a panel.
const FRAME_HEIGHT: usize = 104;
const LEGEND_HEIGHT: usize = 32;
/// Room for the labels of the rows, and characters that fit into it.
const LABELS: (u32, usize) = (140, 13);
/// Characters that fit over a panel.
const TITLE: usize = 42;

/// Draws the chart into a file.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn save_bars(figure: &Figure, chart: &BarChart) -> anyhow::Result<()> {
    figure.save(chart)
}

impl BarChart {
    fn columns(&self) -> usize {
        COLUMNS.min(self.panels.len()).max(1)
    }

    fn rows(&self) -> usize {
        self.panels.len().div_ceil(self.columns()).max(1)
    }

    /// Bars of one row of a panel.
    fn num_series(&self) -> usize {
        self.legend.len().max(1)
    }

    fn legend_height(&self) -> usize {
        if self.num_series() > 1 { LEGEND_HEIGHT } else { 0 }
    }

    fn draw_legend<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B> {
        let mut x = 20;
        for (index, name) in self.legend.iter().enumerate() {
            area.draw(&Rectangle::new([(x, 10), (x + 14, 24)], colour(index).filled()))?;
            let style = ("sans-serif", 15).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
            let name = lettering.of(name);
            area.draw(&Text::new(name.clone(), (x + 20, 17), style))?;
            x += 48 + 9 * name.chars().count() as i32;
        }
        Ok(())
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        panel: &BarPanel,
        scale: &Scale,
        area: &DrawingArea<B, Shift>,
        lettering: Lettering,
    ) -> Drawn<B> {
        let count = panel.bars.len();
        // The axis grows upwards and the first bar is the top one.
        let row = |index: i32| count.checked_sub(1 + index as usize).map(|index| &panel.bars[index]);
        let mut builder = ChartBuilder::on(area);
        builder
            .margin(10)
            .margin_right(24)
            .caption(end_of(&lettering.of(&panel.title), TITLE), ("sans-serif", 17).into_font())
            .x_label_area_size(42)
            .y_label_area_size(LABELS.0);
        let rows = (0..count.max(1) as i32 - 1).into_segmented();
        let mut drawing = builder.build_cartesian_2d(scale.low..scale.high, rows)?;
        drawing
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .x_labels(scale.ticks().len())
            .y_labels(count)
            .x_label_formatter(&|value| scale.label(*value))
            .y_label_formatter(&|value| match value {
                SegmentValue::CenterOf(index) => {
                    let label = row(*index).map(|bar| lettering.of(&bar.label)).unwrap_or_default();
                    console::truncate_str(&label, LABELS.1, "…").into_owned()
                }
                _ => String::new(),
            })
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 13))
            .draw()?;
        let plot = drawing.plotting_area();
        // The plot maps to the whole drawing, and the area draws from its own corner.
        let (base_x, base_y) = area.get_base_pixel();
        let local = |x: f64, index: i32| {
            let (x, y) = plot.map_coordinate(&(x, SegmentValue::CenterOf(index)));
            (x - base_x, y - base_y)
        };
        for index in 0..count as i32 {
            let values = row(index).into_iter().flat_map(|bar| bar.values.iter().enumerate());
            for (place, value) in values {
                let ((left, centre), (right, _)) = (local(0.0, index), local(*value, index));
                let height = BAR_HEIGHT as i32;
                let top = centre - height * self.num_series() as i32 / 2 + height * place as i32;
                let corners = [(left, top), (right.max(left + 1), top + height - 1)];
                area.draw(&Rectangle::new(corners, colour(place).filled()))?;
                draw_value(area, *value, right, left, top + height / 2)?;
            }
        }
        Ok(())
    }
}

impl Drawing for BarChart {
    fn size(&self) -> (u32, u32) {
        let bars = self.panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0).max(1);
        let panel_height = FRAME_HEIGHT + bars * (BAR_HEIGHT * self.num_series() + GAP);
        ((self.columns() * PANEL_WIDTH) as u32, (self.rows() * panel_height + self.legend_height()) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, lettering: Lettering) -> Drawn<B> {
        let values = self.panels.iter().flat_map(|panel| panel.bars.iter().flat_map(|bar| bar.values.iter().copied()));
        let scale = Scale::around(values.chain([0.0]), 4);
        let (legend, body) = area.split_vertically(self.legend_height() as u32);
        if self.legend_height() > 0 {
            self.draw_legend(&legend, lettering)?;
        }
        for (panel, area) in self.panels.iter().zip(body.split_evenly((self.rows(), self.columns()))) {
            self.draw_panel(panel, &scale, &area, lettering)?;
        }
        Ok(())
    }
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// The number of a bar: behind its end, or inside where it would leave the panel.
fn draw_value<B: DrawingBackend>(area: &DrawingArea<B, Shift>, value: f64, end: i32, start: i32, y: i32) -> Drawn<B> {
    let label = if value != 0.0 && value < 0.001 { format!("{value:.0e}") } else { format!("{value:.3}") };
    let fits_behind = end - start < (PANEL_WIDTH as i32 - LABELS.0 as i32) / 2;
    let style = ("sans-serif", 12).into_text_style(area);
    let (x, style) = if fits_behind {
        (end + 4, style.pos(Pos::new(HPos::Left, VPos::Center)))
    } else {
        (end - 4, style.pos(Pos::new(HPos::Right, VPos::Center)).color(&WHITE))
    };
    area.draw(&Text::new(label, (x, y), style))
}

/// The end of a text: prefixes differ there.
fn end_of(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        text.into()
    } else {
        format!("…{}", text.chars().skip(count + 1 - width).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> BarChart {
        let bar = |label: &str, value| Bar { label: label.into(), values: vec![value, value / 2.0] };
        let panel =
            |title: &str| BarPanel { title: title.into(), bars: vec![bar("␣three<", 0.61), bar("␣eight", 0.2)] };
        BarChart {
            x_label: "probability".into(),
            y_label: "next token".into(),
            legend: vec!["base".into(), "tuned".into()],
            panels: vec![panel("Octopuses have"), panel("Octopuses have three")],
        }
    }

    #[test]
    fn every_panel_has_its_title_labels_and_axes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("next/token.svg");
        save_bars(&Figure::svg(&path), &chart()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let labels =
            ["Octopuses have three", "␣three&lt;", "␣eight", "probability", "next token", "base", "0.610", "0.305"];
        for label in labels {
            assert!(text.contains(label), "{label} is missing");
        }
        assert_eq!(text.matches("probability").count(), 2);
    }

    #[test]
    fn a_png_has_the_size_of_the_drawing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.png");
        save_bars(&path.to_string_lossy().parse().unwrap(), &chart()).unwrap();
        let file = std::fs::read(path).unwrap();
        let (width, height) = chart().size();
        assert_eq!(file[16..24], [width.to_be_bytes(), height.to_be_bytes()].concat());
    }

    #[test]
    fn a_long_prefix_keeps_its_end() {
        assert_eq!(end_of("abcdef", 4), "…def");
        assert_eq!(end_of("abcd", 4), "abcd");
    }
}
