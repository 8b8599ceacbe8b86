//! Text in pictures: which characters the bundled font has, and what stands for the others.

use std::borrow::Cow;
use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, GlyphId};

/// Which font shows the text of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lettering {
    /// Those of whoever looks at it: an SVG file holds text.
    Viewer,
    /// The bundled one, as the picture is made.
    Bundled,
}

/// The bundled DejaVu Sans.
static FONT: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(dejavu::sans::regular()).ok());

impl Lettering {
    /// The text, with escapes such as `\x1b` or `\u{4e2d}` for characters that would be empty boxes.
    pub(super) fn of(self, text: &str) -> Cow<'_, str> {
        let has_glyph = |character| FONT.as_ref().is_none_or(|font| font.glyph_id(character) != GlyphId(0));
        if self == Self::Viewer || text.chars().all(has_glyph) {
            return text.into();
        }
        let legible = |character: char| match character {
            character if has_glyph(character) => character.to_string(),
            // Pictures of control characters, which the terminal has.
            '\u{2400}'..='\u{241f}' => format!("\\x{:02x}", character as u32 - 0x2400),
            '\u{2421}' => "\\x7f".into(),
            character => character.escape_unicode().to_string(),
        };
        text.chars().map(legible).collect::<String>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_font_has_not_is_escaped_in_pictures_alone() {
        assert_eq!(Lettering::Bundled.of("␣have↵ ⇥ é"), "␣have↵ ⇥ é");
        assert_eq!(Lettering::Bundled.of("a␛[0m␍␡"), "a\\x1b[0m\\x0d\\x7f");
        assert_eq!(Lettering::Bundled.of("中"), "\\u{4e2d}");
        assert_eq!(Lettering::Viewer.of("中␛"), "中␛");
    }
}
