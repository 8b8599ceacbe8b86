//! Texts that end a completion.

/// Watches text that arrives in pieces for the first of several strings.
///
/// ```
/// use reheat_generate::StopStrings;
///
/// let mut stop = StopStrings::new(["\n\n".into()]);
/// assert_eq!(stop.push("one\n").text, "one"); // the line break may be the first of two
/// assert_eq!(stop.push("two").text, "\ntwo");
/// let last = stop.push(".\n\nthree");
/// assert_eq!((last.text.as_str(), last.is_hit), (".", true));
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that may be the start of a stop string.
    held: String,
}

/// What a piece of text turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Text that is certain not to be part of a stop string.
    pub text: String,
    /// Whether a stop string follows it.
    pub is_hit: bool,
}

impl StopStrings {
    /// Watches for `strings`; empty ones are ignored.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        Self { strings: strings.into_iter().filter(|string| !string.is_empty()).collect(), held: String::new() }
    }

    /// Takes the next piece. After a hit, the rest is dropped.
    pub fn push(&mut self, piece: &str) -> Watched {
        self.held.push_str(piece);
        let hit = self.strings.iter().filter_map(|string| self.held.find(string.as_str())).min();
        if let Some(start) = hit {
            let text = self.held[..start].to_owned();
            self.held.clear();
            return Watched { text, is_hit: true };
        }
        let certain = self.held.len() - self.longest_start();
        let rest = self.held.split_off(certain);
        Watched { text: std::mem::replace(&mut self.held, rest), is_hit: false }
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the text that are the start of a stop string.
    fn longest_start(&self) -> usize {
        let start_of = |string: &String| {
            let ends = string.char_indices().map(|(at, _)| at).rev();
            ends.into_iter().find(|end| *end > 0 && self.held.ends_with(&string[..*end])).unwrap_or(0)
        };
        self.strings.iter().map(start_of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\n]{0,30}", stops in prop::collection::vec("[ab\n]{1,4}", 0..3), cut in 1usize..5) {
            let mut watcher = StopStrings::new(stops.clone());
            let mut seen = String::new();
            let mut is_hit = false;
            for piece in text.as_bytes().chunks(cut) {
                let watched = watcher.push(std::str::from_utf8(piece).unwrap());
                seen.push_str(&watched.text);
                is_hit = watched.is_hit;
                if is_hit { break; }
            }
            if !is_hit { seen.push_str(&watcher.finish()); }
            // The string that is complete first ends the text.
            let ends = (0..=text.len()).find(|end| stops.iter().any(|stop| text[..*end].ends_with(stop.as_str())));
            prop_assert_eq!(is_hit, ends.is_some());
            match ends {
                None => prop_assert_eq!(seen, text),
                Some(end) => prop_assert!(text[..end].starts_with(&seen)),
            }
        }
    }

    #[test]
    fn a_false_start_comes_out_and_characters_stay_whole() {
        let mut stop = StopStrings::new(["é!".into()]);
        assert_eq!(stop.push("caf").text, "caf");
        assert_eq!(stop.push("é").text, "");
        assert_eq!(stop.push("s").text, "és");
        assert_eq!(stop.push("é").text, "");
        assert_eq!(stop.finish(), "é");
    }
}
