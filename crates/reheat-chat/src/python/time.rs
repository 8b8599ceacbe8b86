//! `datetime.strftime`

use jiff::{civil::DateTime, fmt::strtime};

/// `now.strftime(format)` in the C locale.
pub(crate) fn strftime(now: DateTime, format: &str) -> Result<String, String> {
    // Python's `datetime.now()` has no time zone, so these write nothing; the calendar library refuses them instead.
    let mut plain = String::with_capacity(format.len());
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        plain.push(character);
        if character == '%' {
            match characters.next() {
                Some('z' | 'Z') => drop(plain.pop()),
                // In the C locale.
                Some('c') => plain.push_str("a %b %e %H:%M:%S %Y"),
                Some('x') => plain.push_str("m/%d/%y"),
                Some('X') => plain.push_str("H:%M:%S"),
                Some('r') => plain.push_str("I:%M:%S %p"),
                // Microseconds, always six digits.
                Some('f') => plain.push_str("6f"),
                Some(other) => plain.push(other),
                None => plain.push('%'),
            }
        }
    }
    strtime::format(plain, now).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_pythons() {
        let now: DateTime = "2025-01-02T03:04:05.6".parse().unwrap();
        let check = |format: &str, expected: &str| assert_eq!(strftime(now, format).unwrap(), expected, "{format}");
        check("%d %b %Y", "02 Jan 2025");
        check("%Y-%m-%d", "2025-01-02");
        check("%A, %B %-d, %H:%M:%S %p %j", "Thursday, January 2, 03:04:05 AM 002");
        check("%f|%z|%Z|%%|%y|%I|%w|%U", "600000|||%|25|03|4|00");
        check("%c", "Thu Jan  2 03:04:05 2025");
        check("%x %X", "01/02/25 03:04:05");
    }
}
