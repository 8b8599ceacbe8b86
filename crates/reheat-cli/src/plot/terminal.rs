//! A curve in braille dots, two by four to a character, and a bar in blocks.

use super::{Series, scale::Scale};

/// Rows of the drawing area.
const HEIGHT: usize = 12;

/// Draws `series` in at most `width` columns, with labelled axes.
pub(crate) fn curve(series: &Series, x_label: &str, width: usize) -> String {
    let points: Vec<_> = series.finite().collect();
    if points.is_empty() {
        return format!("{}: nothing to plot\n", series.name);
    }
    let y = Scale::around(points.iter().map(|point| point.1), 4);
    let margin = y.ticks().iter().map(|tick| y.label(*tick).len()).max().unwrap_or(0);
    let columns = width.saturating_sub(margin + 2).clamp(10, 100);
    let x = Scale::exact(points.iter().map(|point| point.0), (columns / 12).max(1));

    let canvas = draw(&points, &x, &y, columns);
    let mut lines = vec![format!("{:>margin$} {}", "", series.name)];
    for (row, dots) in canvas.rows().enumerate() {
        let tick = y.ticks().into_iter().find(|tick| row_of(&y, *tick) == row);
        let label = tick.map(|tick| y.label(tick)).unwrap_or_default();
        let edge = if tick.is_some() { '┤' } else { '│' };
        lines.push(format!("{label:>margin$} {edge}{dots}").trim_end().to_owned());
    }
    let (axis, labels) = x_axis(&x, columns, x_label);
    lines.push(format!("{:>margin$} └{axis}", ""));
    lines.push(format!("{:>margin$}  {labels}", "").trim_end().to_owned());
    lines.join("\n") + "\n"
}

/// A bar of `share` of `width` columns, to an eighth of a column; at least a hairline for what is above 0.
pub(crate) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8 - 1]);
    }
    bar
}

/// The text row in which `value` lies, from the top.
fn row_of(y: &Scale, value: f64) -> usize {
    (((1.0 - y.position(value)) * (HEIGHT * 4 - 1) as f64).round() as usize) / 4
}

fn draw(points: &[(f64, f64)], x: &Scale, y: &Scale, columns: usize) -> Canvas {
    let mut canvas = Canvas::new(columns, HEIGHT);
    let place = |&(px, py): &(f64, f64)| {
        let column = (x.position(px) * (columns * 2 - 1) as f64).round() as i64;
        let row = ((1.0 - y.position(py)) * (HEIGHT * 4 - 1) as f64).round() as i64;
        (column, row)
    };
    let dots: Vec<_> = points.iter().map(place).collect();
    canvas.set(dots[0]);
    for pair in dots.windows(2) {
        canvas.line(pair[0], pair[1]);
    }
    canvas
}

/// The line under the drawing and the labels under it.
fn x_axis(x: &Scale, columns: usize, x_label: &str) -> (String, String) {
    let mut axis = vec!['─'; columns];
    let mut labels = String::new();
    for tick in x.ticks() {
        let column = (x.position(tick) * (columns - 1) as f64).round() as usize;
        let label = x.label(tick);
        let start = column.saturating_sub(label.len() / 2).min(columns.saturating_sub(label.len()));
        let used = labels.chars().count();
        if used > 0 && start <= used {
            continue; // no room
        }
        axis[column] = '┬';
        labels.push_str(&" ".repeat(start - used));
        labels.push_str(&label);
    }
    let used = labels.chars().count();
    let room = columns.saturating_sub(used);
    if room > x_label.len() + 1 {
        labels.push_str(&format!("{x_label:>room$}"));
    }
    (axis.into_iter().collect(), labels)
}

/// Dots on a grid of characters.
struct Canvas {
    columns: usize,
    cells: Vec<u8>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self { columns, cells: vec![0; columns * rows] }
    }

    fn set(&mut self, (column, row): (i64, i64)) {
        // Unicode numbers the dots 1-2-3-7 down the left and 4-5-6-8 down the right.
        const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let (column, row) = (column.max(0) as usize, row.max(0) as usize);
        if let Some(cell) = self.cells.get_mut(row / 4 * self.columns + column / 2) {
            *cell |= DOTS[row % 4][column % 2];
        }
    }

    fn line(&mut self, from: (i64, i64), to: (i64, i64)) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
        for step in 0..=steps {
            let along = |a: i64, b: i64| a + ((b - a) as f64 * step as f64 / steps as f64).round() as i64;
            self.set((along(from.0, to.0), along(from.1, to.1)));
        }
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        self.cells.chunks(self.columns).map(|row| {
            row.iter()
                .map(|dots| if *dots == 0 { ' ' } else { char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' ') })
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling() -> Series {
        Series::new("loss", (1..=50).map(|step| (f64::from(step), 4.0 * (-0.1 * f64::from(step)).exp())).collect())
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [20, 40, 80, 200] {
            let plot = curve(&falling(), "step", width);
            let widest = plot.lines().map(console::measure_text_width).max().unwrap();
            assert!(widest <= width.max(16), "{widest} > {width}\n{plot}");
        }
    }

    #[test]
    fn a_falling_curve_starts_at_the_top_left_and_ends_at_the_bottom_right() {
        let plot = curve(&falling(), "step", 60);
        let rows: Vec<&str> = plot.lines().skip(1).take(HEIGHT).collect();
        let first_dot = |line: &str| line.chars().position(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
        let inked: Vec<usize> = rows.iter().filter_map(|row| first_dot(row)).collect();
        assert!(inked.len() >= HEIGHT - 1, "{plot}");
        assert!(inked.is_sorted(), "{plot}");
    }

    #[test]
    fn bars_have_the_length_of_their_share() {
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.3, 4), "█▎");
        assert_eq!((bar(1e-9, 4), bar(0.0, 4)), ("▏".to_owned(), String::new()));
        assert_eq!(bar(2.0, 3), "███");
    }

    #[test]
    fn not_a_number_is_left_out() {
        let plot = curve(&Series::new("loss", vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]), "step", 60);
        assert!(plot.contains('┤') && !plot.contains("NaN"), "{plot}");
        assert_eq!(curve(&Series::new("loss", vec![(1.0, f64::NAN)]), "step", 60), "loss: nothing to plot\n");
    }
}
