//! Splits and slices in the syntax of `datasets`: `train`, `train[:1000]`, `train[10%:20%]+validation`.

use std::{fmt, ops::Range, str::FromStr};

use crate::DataError;

/// The split that is read where none is named, as in `datasets` and TRL.
pub(crate) const DEFAULT_SPLIT: &str = "train";

/// Slices of splits, read one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitExpr {
    pub(crate) parts: Vec<SplitPart>,
}

/// One split, or a slice of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitPart {
    pub(crate) name: String,
    pub(crate) slice: Slice,
}

/// The rows of a split between two boundaries; negative ones count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Slice {
    from: Option<i64>,
    to: Option<i64>,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Unit {
    #[default]
    Rows,
    /// Each boundary is rounded to the closest row.
    Percent,
    /// Whole hundredths of the split; the rest is never read. `datasets` calls it `pct1_dropremainder`.
    WholePercent,
}

const WHOLE_PERCENT: &str = "pct1_dropremainder";

impl Slice {
    /// Whether the number of rows has to be known to say where the slice lies.
    pub(crate) fn needs_count(self) -> bool {
        let relative = |boundary: Option<i64>| boundary.is_some_and(|boundary| boundary < 0);
        match self.unit {
            Unit::Rows => relative(self.from) || relative(self.to),
            Unit::Percent | Unit::WholePercent => self.from.is_some() || self.to.is_some(),
        }
    }

    /// The rows of a split of `num_rows`; boundaries past the end are the end.
    ///
    /// `u64::MAX` rows stand for a split that nobody has counted, which suits a slice that needs no count.
    pub(crate) fn resolve(self, num_rows: u64) -> Range<u64> {
        let boundary = |boundary: i64| {
            let rows = match self.unit {
                Unit::Rows => i128::from(boundary),
                // Rust's and Python's ties go to the even neighbour.
                #[expect(clippy::cast_possible_truncation, reason = "at most the number of rows")]
                Unit::Percent => (boundary as f64 * num_rows as f64 / 100.0).round_ties_even() as i128,
                Unit::WholePercent => i128::from(boundary) * i128::from(num_rows / 100),
            };
            let rows = if rows < 0 { (i128::from(num_rows) + rows).max(0) } else { rows };
            u64::try_from(rows).unwrap_or(u64::MAX).min(num_rows)
        };
        let from = self.from.map_or(0, boundary);
        from..self.to.map_or(num_rows, boundary).max(from)
    }

    /// `[10%:20%]`
    fn parse(text: &str) -> Result<Self, String> {
        let inside = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .ok_or_else(|| format!("`{text}` is no slice, expected one such as `[:1000]` or `[10%:20%]`"))?;
        let (from, to) = inside
            .split_once(':')
            .ok_or_else(|| format!("`{text}` lacks the `:` of a slice, expected one such as `[:1000]`"))?;
        let percent = from.ends_with('%') || to.ends_with('%');
        let boundary = |text: &str| {
            let digits = text.strip_suffix('%').unwrap_or(text).replace('_', "");
            match digits.as_str() {
                "" if text.is_empty() => Ok(None),
                digits => {
                    digits.parse().map(Some).map_err(|_| format!("`{text}` is no number of rows and no percentage"))
                }
            }
        };
        let (from, to): (Option<i64>, Option<i64>) = (boundary(from)?, boundary(to)?);
        if percent && let Some(wrong) = from.into_iter().chain(to).find(|boundary| boundary.unsigned_abs() > 100) {
            return Err(format!("{wrong}% is outside of -100% to 100%"));
        }
        Ok(Self { from, to, unit: if percent { Unit::Percent } else { Unit::Rows } })
    }
}

impl SplitPart {
    fn parse(text: &str) -> Result<Self, String> {
        let (text, whole_percent) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((text, WHOLE_PERCENT)) => (text, true),
            Some((text, "closest")) => (text, false),
            Some((_, rounding)) => {
                return Err(format!("rounding `{rounding}` is unknown, expected closest or {WHOLE_PERCENT}"));
            }
            None => (text, false),
        };
        let (name, slice) = match text.find('[') {
            Some(bracket) => (&text[..bracket], Slice::parse(&text[bracket..])?),
            None => (text, Slice::default()),
        };
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !is_name(name) {
            return Err(format!("`{name}` is no name of a split"));
        }
        let unit = match slice.unit {
            Unit::Percent if whole_percent => Unit::WholePercent,
            Unit::Rows if whole_percent => return Err(format!("{WHOLE_PERCENT} goes with percentages alone")),
            unit => unit,
        };
        Ok(Self { name: name.to_owned(), slice: Slice { unit, ..slice } })
    }
}

impl FromStr for SplitExpr {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let parts = text.split('+').map(|part| SplitPart::parse(part.trim())).collect::<Result<_, _>>();
        parts.map(|parts| Self { parts }).map_err(|reason| DataError::Setting {
            setting: "split",
            value: text.to_owned(),
            reason,
        })
    }
}

impl fmt::Display for SplitExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, SplitPart { name, slice }) in self.parts.iter().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "+" })?;
            let unit = if slice.unit == Unit::Rows { "" } else { "%" };
            let shown = |boundary: Option<i64>| boundary.map(|rows| format!("{rows}{unit}")).unwrap_or_default();
            if slice.from.is_some() || slice.to.is_some() {
                write!(f, "[{}:{}]", shown(slice.from), shown(slice.to))?;
            }
            if slice.unit == Unit::WholePercent {
                write!(f, "({WHOLE_PERCENT})")?;
            }
        }
        Ok(())
    }
}

/// Why a text in brackets is no slice; `None` where it is one.
pub(crate) fn slice_fault(text: &str) -> Option<String> {
    Slice::parse(text).err()
}

/// Cuts `path:train[:1000]` and `path[:1000]` into the path and its split; `None` where nothing can be cut off.
///
/// Only what reads as a split is cut off, and the caller has made sure that no file has the whole name. `path[:1000]`
/// is a slice of the default split.
pub(crate) fn cut_suffix(text: &str) -> Option<(&str, String)> {
    let (before, slice) = match text.rfind('[') {
        Some(bracket) if Slice::parse(&text[bracket..]).is_ok() => (&text[..bracket], &text[bracket..]),
        _ => (text, ""),
    };
    // The first colon with a split behind it: a later one may belong to a slice of `train[:10]+test[:10]`.
    let named = text.match_indices(':').find_map(|(colon, _)| {
        let (path, split) = (&text[..colon], &text[colon + 1..]);
        let is_path = !path.is_empty() && !path.ends_with('[');
        (is_path && split.parse::<SplitExpr>().is_ok()).then(|| (path, split.to_owned()))
    });
    named.or_else(|| (!slice.is_empty() && !before.is_empty()).then(|| (before, format!("{DEFAULT_SPLIT}{slice}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(split: &str, num_rows: u64) -> Range<u64> {
        let split: SplitExpr = split.parse().unwrap();
        split.parts[0].slice.resolve(num_rows)
    }

    /// The values are those of `datasets` 5.2 (`_rel_to_abs_instr`).
    #[test]
    fn slices_are_those_of_datasets() {
        assert_eq!(range("train", 10), 0..10);
        assert_eq!(range("train[:1_000]", 10), 0..10);
        assert_eq!(range("train[2:5]", 10), 2..5);
        assert_eq!(range("train[-3:]", 10), 7..10);
        assert_eq!(range("train[:-3]", 10), 0..7);
        assert_eq!(range("train[-30:4]", 10), 0..4);
        assert_eq!(range("train[:33%]", 10), 0..3);
        assert_eq!(range("train[-5%:]", 1000), 950..1000);
        // Half a row goes to the even one.
        assert_eq!((range("train[:50%]", 5), range("train[:50%]", 7)), (0..2, 0..4));
        assert_eq!(range("train[:10%](pct1_dropremainder)", 999), 0..90);
        assert_eq!(range("train[7:3]", 10), 7..7);
    }

    #[test]
    fn a_sum_of_slices_is_printed_as_it_was_written() {
        for text in ["train", "train[:10]+test", "train[10%:20%]+validation[-5:]", "train[:1%](pct1_dropremainder)"] {
            assert_eq!(text.parse::<SplitExpr>().unwrap().to_string(), text);
        }
        assert_eq!("train + test".parse::<SplitExpr>().unwrap().to_string(), "train+test");
    }

    #[test]
    fn the_error_says_what_a_slice_is() {
        let reason = |text: &str| text.parse::<SplitExpr>().unwrap_err().to_string();
        assert_eq!(
            reason("train[5]"),
            "split `train[5]`: `[5]` lacks the `:` of a slice, expected one such as `[:1000]`"
        );
        assert_eq!(reason("train[:5x]"), "split `train[:5x]`: `5x` is no number of rows and no percentage");
        assert_eq!(reason("train[:101%]"), "split `train[:101%]`: 101% is outside of -100% to 100%");
        assert_eq!(
            reason("train[:5"),
            "split `train[:5`: `[:5` is no slice, expected one such as `[:1000]` or `[10%:20%]`"
        );
        assert_eq!(reason("+"), "split `+`: `` is no name of a split");
    }

    #[test]
    fn suffixes_are_cut_where_they_read_as_splits() {
        let cut = |text| cut_suffix(text).map(|(path, split)| format!("{path} | {split}"));
        assert_eq!(cut("owner/name").as_deref(), None);
        assert_eq!(cut("data[:1000]").as_deref(), Some("data | train[:1000]"));
        assert_eq!(cut("a/b.jsonl:test").as_deref(), Some("a/b.jsonl | test"));
        assert_eq!(cut("dir:train[:10%]+test[5:]").as_deref(), Some("dir | train[:10%]+test[5:]"));
        // A drive and a character class are none.
        assert_eq!(cut("C:\\data\\a.jsonl").as_deref(), None);
        assert_eq!(cut("part-[0-9].jsonl").as_deref(), None);
        assert_eq!(cut("part-[ab]").as_deref(), None);
        assert_eq!(cut("[:10]").as_deref(), None);
    }

    proptest::proptest! {
        #[test]
        fn a_slice_lies_in_its_split(from in -200i64..200, to in -200i64..200, rows in 0u64..150, percent: bool) {
            let (unit, from, to) = if percent { ("%", from / 2, to / 2) } else { ("", from, to) };
            let range = range(&format!("train[{from}{unit}:{to}{unit}]"), rows);
            proptest::prop_assert!(range.start <= range.end && range.end <= rows);
        }
    }
}
