//! Integers in JSON that would lose digits.

/// Digits that a run must have before its number can be beyond 64 bits.
const DIGITS: usize = 19;

/// The first integer in a JSON text that 64 bits don't hold.
///
/// Python keeps every digit of such an integer. Here it would become a float, and a template would print another number:
/// whoever parses JSON for a template asks this first and refuses it.
///
/// Costs next to nothing where no long runs of digits are.
///
/// ```
/// use reheat_chat::wide_integer;
///
/// assert_eq!(wide_integer(r#"{"id": 18446744073709551616, "at": "18446744073709551616"}"#), Some("18446744073709551616"));
/// assert_eq!(wide_integer(r#"[18446744073709551615, -9223372036854775808, 1e30, 1234567890123456789.5]"#), None);
/// ```
#[must_use]
pub fn wide_integer(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    // Every run of so many digits has one at a multiple of its length.
    let may_have_one = (DIGITS - 1..bytes.len()).step_by(DIGITS).any(|at| {
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let before = bytes[..at].iter().rev().take_while(is_digit).count();
        bytes[at].is_ascii_digit() && before + bytes[at..].iter().take_while(is_digit).count() >= DIGITS
    });
    if !may_have_one {
        return None;
    }
    numbers(text).find(|number| is_wide(number))
}

fn is_wide(number: &str) -> bool {
    !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// What stands outside of strings and is made of the characters of numbers.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[at..];
            if let Some(inner) = rest.strip_prefix('"') {
                rest = &inner[string_length(inner)..];
                continue;
            }
            let length = rest.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c))).unwrap_or(rest.len());
            let (number, after) = rest.split_at(length);
            rest = after;
            return Some(number);
        }
    })
}

/// Bytes up to and with the quote that closes the string whose inside `text` begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_count_wherever_they_stand() {
        for start in 0..40 {
            let text = format!("[{}18446744073709551616]", " ".repeat(start));
            assert_eq!(wide_integer(&text), Some("18446744073709551616"), "{text}");
        }
        assert_eq!(wide_integer("-9223372036854775809"), Some("-9223372036854775809"));
        assert_eq!(wide_integer(r#"{"a\"": "x", "b": 99999999999999999999}"#), Some("99999999999999999999"));
    }

    #[test]
    fn strings_and_floats_do_not_count() {
        for text in [
            r#""99999999999999999999""#,
            r#""\"99999999999999999999""#,
            "99999999999999999999.0",
            "9223372036854775807",
        ] {
            assert_eq!(wide_integer(text), None, "{text}");
        }
    }
}
