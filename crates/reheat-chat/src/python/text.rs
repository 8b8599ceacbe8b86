//! `str(x)` and `repr(x)`.

use std::fmt::Write;

use minijinja::{Error, Value};

use super::{
    range::Range,
    value::{MAX_NESTING, Type, View, ViewKind, is_loop, pairs, to_float, type_error},
};

/// `str(value)`.
pub(crate) fn str_of(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let mut text = String::new();
            write_str(value, &mut text)?;
            Ok(text)
        }
    }
}

/// Appends `str(value)`.
pub(super) fn write_str(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => write_repr(value, out, 0)?,
    }
    Ok(())
}

/// `repr(value)`.
pub(super) fn repr_of(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write_repr(value, &mut text, 0)?;
    Ok(text)
}

/// `ascii(value)`.
pub(super) fn ascii_of(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    for character in repr_of(value)?.chars() {
        if character.is_ascii() { text.push(character) } else { write_escape(character, &mut text) }
    }
    Ok(text)
}

fn write_repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(type_error(format!("a value nests more than {MAX_NESTING} deep")));
    }
    match Type::of(value) {
        Type::Undefined => out.push_str("Undefined"),
        Type::None => out.push_str("None"),
        Type::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        Type::Float => out.push_str(&float_repr(to_float(value)?)),
        Type::Str if value.is_safe() => {
            out.push_str("Markup(");
            write_string_repr(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        Type::Str => write_string_repr(value.as_str().unwrap_or_default(), out),
        Type::List => write_items(value, "[", "]", out, depth)?,
        Type::Tuple => {
            write_items(value, "(", if value.len() == Some(1) { ",)" } else { ")" }, out, depth)?;
        }
        Type::Dict => write_pairs(value, "{", ": ", "}", out, depth)?,
        Type::Namespace => {
            out.push_str("<Namespace ");
            write_pairs(value, "{", ": ", "}", out, depth)?;
            out.push('>');
        }
        Type::View => {
            let name = match value.downcast_object_ref::<View>().map(|view| view.kind) {
                Some(ViewKind::Keys) => "dict_keys([",
                Some(ViewKind::Values) => "dict_values([",
                _ => "dict_items([",
            };
            write_items(value, name, "])", out, depth)?;
        }
        Type::Iterator => out.push_str("<generator object>"),
        Type::Range => {
            if let Some(Range { start, stop, step }) = value.downcast_object_ref() {
                let _ = match step {
                    1 => write!(out, "range({start}, {stop})"),
                    _ => write!(out, "range({start}, {stop}, {step})"),
                };
            }
        }
        Type::Object if is_loop(value) => {
            let _ = write!(out, "<LoopContext {}/{}>", value.get_attr("index")?, value.get_attr("length")?);
        }
        Type::Int | Type::Object => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

fn write_items(value: &Value, start: &str, end: &str, out: &mut String, depth: usize) -> Result<(), Error> {
    out.push_str(start);
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(&item, out, depth + 1)?;
    }
    out.push_str(end);
    Ok(())
}

fn write_pairs(
    value: &Value,
    start: &str,
    between: &str,
    end: &str,
    out: &mut String,
    depth: usize,
) -> Result<(), Error> {
    out.push_str(start);
    for (index, (key, value)) in pairs(value).into_iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(&key, out, depth + 1)?;
        out.push_str(between);
        write_repr(&value, out, depth + 1)?;
    }
    out.push_str(end);
    Ok(())
}

fn write_string_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => {
                out.push('\\');
                out.push(quote);
            }
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => write_escape(character, out),
        }
    }
    out.push(quote);
}

fn write_escape(character: char, out: &mut String) {
    let code = u32::from(character);
    let _ = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// `str.isprintable` of one character.
///
/// Rust and Python leave the same categories unprinted (control, format, surrogate, private, unassigned, separators).
/// Rust escapes combining marks too, but only where they start a string.
pub(super) fn is_printable(character: char) -> bool {
    character.is_ascii_graphic() || character == ' ' || {
        let mut text = String::from("a");
        text.push(character);
        !text.escape_debug().any(|escaped| escaped == '\\')
    }
}

/// `repr(float)`: the shortest digits that read back as the same number, with an exponent outside of 1e-4 to 1e16.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let exponent: i32 = scientific.rsplit('e').next().and_then(|digits| digits.parse().ok()).unwrap_or_default();
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let digits = scientific.split('e').next().unwrap_or_default();
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    format!("{value:?}")
}
