//! Text with what is trained in colour.

use std::ops::Range;

use console::style;

/// `text` for a terminal, with the bytes of `trained` (ascending) on green. Where there is no colour they stand between
/// ⟦ and ⟧. What would move the cursor is made visible, and so are line breaks that are trained.
pub(crate) fn painted(text: &str, trained: &[Range<usize>]) -> String {
    let mut painted = String::with_capacity(text.len() + 16 * trained.len());
    let mut end = 0;
    for span in trained {
        painted.push_str(&harmless(&text[end..span.start]));
        painted.push_str(&on_green(&text[span.clone()]));
        end = span.end;
    }
    painted.push_str(&harmless(&text[end..]));
    painted
}

fn on_green(text: &str) -> String {
    if !console::colors_enabled() {
        return format!("⟦{}⟧", harmless(text));
    }
    // Line by line, or the colour would run on to the terminal's edge.
    let mut painted = String::new();
    for line in text.split_inclusive('\n') {
        let (line, line_break) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let mark = if line_break.is_empty() { "" } else { "↵" };
        painted.push_str(&style(format!("{}{mark}", harmless(line))).black().on_green().to_string());
        painted.push_str(line_break);
    }
    painted
}

/// Control characters as their pictures, but for tabs and line breaks.
pub(crate) fn harmless(text: &str) -> String {
    let picture = |character: char| match character {
        '\n' | '\t' => character,
        '\u{7f}' => '␡',
        c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('�'),
        '\u{80}'..='\u{9f}' => '�',
        c => c,
    };
    text.chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_brackets_show_what_is_trained() {
        console::set_colors_enabled(false);
        assert_eq!(painted("a\u{1b}b\nc", &[1..4, 4..5]), "a⟦␛b\n⟧⟦c⟧");
        assert_eq!(painted("", &[]), "");
    }
}
