//! Jinja2's filters for HTML, and strings that count as escaped (`Markup` in Python).
//!
//! Nothing is escaped in a chat unless a template asks for it. A string that is marked as safe prints as it is, but
//! `+` escapes what is added to it, and `escape` leaves it alone.

use std::fmt::Write;

use minijinja::{Error, State, Value};

use super::{
    arguments::Arguments,
    text::str_of,
    value::{Type, iterate, pairs, type_error},
};
use crate::jinja::lexer::is_space;

type Filtered = Result<Value, Error>;

/// `text`, marked as safe where `value` was.
pub(super) fn like(value: &Value, text: String) -> Value {
    if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) }
}

/// `a + b`, where one of the strings is marked as safe.
pub(super) fn add(a: &Value, b: &Value) -> Value {
    let escaped = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        if value.is_safe() { text.to_owned() } else { escaped(text) }
    };
    Value::from_safe_string(escaped(a) + &escaped(b))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

pub(super) fn safe(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    Ok(Value::from_safe_string(str_of(&value)?))
}

pub(super) fn escape(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    match arguments.required(0, "s")? {
        value if value.is_safe() => Ok(value),
        _ => forceescape(state, arguments),
    }
}

pub(super) fn forceescape(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "s")?;
    arguments.finish(1)?;
    Ok(Value::from_safe_string(escaped(&str_of(&value)?)))
}

pub(super) fn striptags(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = str_of(&arguments.required(0, "value")?)?;
    arguments.finish(1)?;
    let mut plain = String::new();
    let mut rest = value.as_str();
    while let Some(start) = rest.find('<') {
        let comment = rest[start..].starts_with("<!--");
        let Some(end) = rest[start..].find(if comment { "-->" } else { ">" }) else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[start + end + if comment { 3 } else { 1 }..];
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split(is_space).filter(|word| !word.is_empty()).collect();
    unescaped(&words.join(" ")).map(Value::from)
}

/// `html.unescape`, as far as there is no need of HTML's two thousand names.
fn unescaped(text: &str) -> Result<String, Error> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let body = &rest[1..];
        let length = body.find(|c: char| !(c == '#' || c.is_ascii_alphanumeric())).unwrap_or(body.len());
        let (name, after) = body.split_at(length);
        let known = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            _ => match name.strip_prefix('#') {
                // Python has other characters for those that HTML forbids.
                Some(number) => match number.strip_prefix(['x', 'X']) {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                }
                .ok()
                .filter(|code| *code >= 0xa0 || (0x20..0x7f).contains(code))
                .and_then(char::from_u32),
                None => None,
            },
        };
        match (known, after.strip_prefix(';')) {
            (Some(character), Some(after)) => {
                plain.push(character);
                rest = after;
            }
            (None, None) if name.is_empty() => {
                plain.push('&');
                rest = body;
            }
            _ => return Err(type_error(format!("`striptags` doesn't know the character `&{name}`"))),
        }
    }
    plain.push_str(rest);
    Ok(plain)
}

pub(super) fn urlencode(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    let parts = match Type::of(&value) {
        Type::Dict => pairs(&value),
        Type::List | Type::Tuple | Type::Range | Type::View | Type::Iterator => {
            let pair = |item: Value| match <[Value; 2]>::try_from(iterate(state, &item)?) {
                Ok([name, value]) => Ok((name, value)),
                Err(_) => Err(type_error("`urlencode` needs a string, a dict or pairs")),
            };
            iterate(state, &value)?.into_iter().map(pair).collect::<Result<_, Error>>()?
        }
        _ => return Ok(Value::from(quoted(&str_of(&value)?, Place::Path))),
    };
    let parts = parts.iter().map(|(name, value)| {
        Ok(format!("{}={}", quoted(&str_of(name)?, Place::Query), quoted(&str_of(value)?, Place::Query)))
    });
    Ok(Value::from(parts.collect::<Result<Vec<String>, Error>>()?.join("&")))
}

#[derive(PartialEq)]
enum Place {
    Path,
    Query,
}

/// `urllib.parse.quote`; in a query a slash is quoted too, and a space is a plus.
fn quoted(text: &str, place: Place) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => encoded.push(char::from(byte)),
            b'/' if place == Place::Path => encoded.push('/'),
            b' ' if place == Place::Query => encoded.push('+'),
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

pub(super) fn xmlattr(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "d")?;
    let space = arguments.optional(1, "autospace").is_none_or(|space| space.is_true());
    arguments.finish(2)?;
    if Type::of(&value) != Type::Dict {
        return Err(type_error(format!("`xmlattr` needs a dict, not {}", Type::of(&value).name())));
    }
    let mut attributes = Vec::new();
    for (name, value) in pairs(&value).into_iter().filter(|(_, value)| !value.is_none() && !value.is_undefined()) {
        let name = name.as_str().ok_or_else(|| type_error("an attribute's name must be a string"))?;
        if name.contains([' ', '\t', '\n', '\u{b}', '\u{c}', '\r', '/', '>', '=']) {
            return Err(type_error(format!("`{name}` can't name an attribute")));
        }
        let value = if value.is_safe() { str_of(&value)? } else { escaped(&str_of(&value)?) };
        attributes.push(format!("{}=\"{value}\"", escaped(name)));
    }
    let text = attributes.join(" ");
    Ok(Value::from(if space && !text.is_empty() { format!(" {text}") } else { text }))
}
