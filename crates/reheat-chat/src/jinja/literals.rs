//! Numbers and strings as Python writes them.

use super::lexer::Token;

/// A number literal at the start of `rest`.
pub(super) fn number(rest: &str, previous: Option<&Token>) -> Option<(Token, usize)> {
    let bytes = rest.as_bytes();
    if !bytes.first()?.is_ascii_digit() {
        return None;
    }
    // After a dot a number is an index, which has no fraction: `a.0.1`.
    if previous != Some(&Token::Op("."))
        && let Some(length) = float_length(bytes)
    {
        let value = rest[..length].replace('_', "").parse().ok()?;
        return Some((Token::Float(value), length));
    }
    for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        if rest.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            let length = digits(&bytes[2..], true, |byte| char::from(byte).is_digit(radix));
            if length > 0 {
                let value = u128::from_str_radix(&rest[2..2 + length].replace('_', ""), radix).ok()?;
                return Some((Token::Int(value.to_string()), 2 + length));
            }
        }
    }
    let length = match bytes[0] {
        b'0' => 1 + digits(&bytes[1..], true, |byte| byte == b'0'),
        _ => digits(bytes, false, |byte| byte.is_ascii_digit()),
    };
    let text = rest[..length].replace('_', "");
    let text = text.trim_start_matches('0');
    Some((Token::Int(if text.is_empty() { "0" } else { text }.to_owned()), length))
}

/// Length of a run of digits in which single underscores may separate.
fn digits(bytes: &[u8], leading_underscore: bool, is_digit: impl Fn(u8) -> bool) -> usize {
    let mut length = 0;
    loop {
        let skip = usize::from(bytes.get(length) == Some(&b'_') && (length > 0 || leading_underscore));
        match bytes.get(length + skip) {
            Some(&byte) if is_digit(byte) => length += skip + 1,
            _ => return length,
        }
    }
}

fn float_length(bytes: &[u8]) -> Option<usize> {
    let decimal = |from: usize| digits(&bytes[from..], false, |byte| byte.is_ascii_digit());
    let whole = decimal(0);
    let mut length = whole;
    if bytes.get(length) == Some(&b'.') {
        let fraction = decimal(length + 1);
        if fraction > 0 {
            length += 1 + fraction;
        }
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        if length + 1 + sign < bytes.len() {
            let exponent = decimal(length + 1 + sign);
            if exponent > 0 {
                length += 1 + sign + exponent;
            }
        }
    }
    (length > whole).then_some(length)
}

/// A string literal's text, by Python's `unicode-escape` codec.
pub(super) fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        let Some(escape) = characters.next() else {
            return Err("a string ends with a backslash".to_owned());
        };
        let hex = |characters: &mut std::iter::Peekable<std::str::Chars<'_>>, length: usize| {
            let mut value = 0;
            for _ in 0..length {
                let digit = characters.next().and_then(|digit| digit.to_digit(16));
                value = value * 16 + digit.ok_or_else(|| format!("`\\{escape}` needs {length} hexadecimal digits"))?;
            }
            // A lone surrogate is a string in Python that no text file can hold.
            char::from_u32(value).ok_or_else(|| format!("`\\{escape}{value:0length$x}` is not a character"))
        };
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => plain.push(escape),
            'a' => plain.push('\u{7}'),
            'b' => plain.push('\u{8}'),
            'f' => plain.push('\u{c}'),
            'n' => plain.push('\n'),
            'r' => plain.push('\r'),
            't' => plain.push('\t'),
            'v' => plain.push('\u{b}'),
            'x' => plain.push(hex(&mut characters, 2)?),
            'u' => plain.push(hex(&mut characters, 4)?),
            'U' => plain.push(hex(&mut characters, 8)?),
            'N' => return Err("`\\N{…}` in a string is not supported".to_owned()),
            '0'..='7' => {
                let mut value = escape.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    if let Some(digit) = characters.peek().and_then(|digit| digit.to_digit(8)) {
                        value = value * 8 + digit;
                        characters.next();
                    }
                }
                plain.push(char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // Python keeps an escape that it doesn't know, backslash and all.
            other => {
                plain.push('\\');
                plain.push(other);
            }
        }
    }
    Ok(plain)
}
