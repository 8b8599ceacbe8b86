//! Horizontal bars with eighths of a character.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

/// One bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    /// The value as it is printed after the bar.
    pub(crate) text: String,
}

/// Draws the bars, the longest value taking all the room in `width` columns. Values below 0 count as 0.
pub(crate) fn bars(bars: &[Bar], width: usize) -> String {
    let widest = |measure: fn(&Bar) -> usize| bars.iter().map(measure).max().unwrap_or(0);
    let label_width = widest(|bar| measure_text_width(&bar.label)).min(width / 3);
    let text_width = widest(|bar| measure_text_width(&bar.text));
    let room = width.saturating_sub(label_width + text_width + 4).clamp(4, 60);
    let most = bars.iter().map(|bar| bar.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let mut lines = String::new();
    for bar in bars {
        let label = truncate_str(&bar.label, label_width, "…");
        let label = pad_str(&label, label_width, Alignment::Right, None);
        let share = if most > 0.0 { (bar.value / most).clamp(0.0, 1.0) } else { 0.0 };
        lines.push_str(&format!("{label} │{} {}\n", ink(share * room as f64), bar.text));
    }
    lines
}

/// A bar of `length` characters; what isn't zero shows at least an eighth.
fn ink(length: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if length.is_nan() {
        return String::new();
    }
    let mut eighths = (length * 8.0).round() as usize;
    if eighths == 0 && length > 0.0 {
        eighths = 1;
    }
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_proportional() {
        let of = |label: &str, value: f64| Bar { label: label.to_owned(), value, text: format!("{value}") };
        let drawn = bars(&[of("a", 1.0), of("bb", 0.5), of("c", 0.0), of("d", 0.01)], 18);
        assert_eq!(drawn, " a │████████ 1\nbb │████ 0.5\n c │ 0\n d │▏ 0.01\n");
    }
}
