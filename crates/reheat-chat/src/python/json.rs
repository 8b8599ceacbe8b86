//! `json.dumps` with the arguments that transformers' `tojson` passes on.

use std::fmt::Write;

use minijinja::{Error, State, Value};

use super::{
    arguments::Arguments,
    sequences::sort_pairs,
    text::{float_repr, str_of},
    value::{MAX_NESTING, Type, iterate, pairs, to_float, type_error},
};

struct Settings {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub(super) fn tojson(state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::new("tojson", args);
    let value = arguments.required(0, "x")?;
    let indent = match arguments.optional(2, "indent") {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match Type::of(&value) {
            Type::Str => Some(str_of(&value)?),
            Type::Int | Type::Bool => Some(" ".repeat(value.as_usize().unwrap_or(0).min(64))),
            other => return Err(type_error(format!("`indent` of `tojson` can't be {}", other.name()))),
        },
    };
    let (mut item_separator, mut key_separator) =
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = arguments.optional(3, "separators").filter(|value| !value.is_none()) {
        let [item, key] = <[Value; 2]>::try_from(iterate(state, &separators)?)
            .map_err(|_| type_error("`separators` of `tojson` must be two strings"))?;
        (item_separator, key_separator) = (str_of(&item)?, str_of(&key)?);
    }
    let flag = |index, name| arguments.optional(index, name).is_some_and(|value| value.is_true());
    let settings = Settings {
        ensure_ascii: flag(1, "ensure_ascii"),
        indent,
        item_separator,
        key_separator,
        sort_keys: flag(4, "sort_keys"),
    };
    arguments.finish(5)?;
    let mut out = String::new();
    settings.write(&value, &mut out, 0)?;
    // Walking a value costs more than copying the text that comes out.
    state.consume_fuel(out.len() as u64 / 16)?;
    Ok(Value::from(out))
}

impl Settings {
    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(type_error(format!("a value nests more than {MAX_NESTING} deep")));
        }
        match Type::of(value) {
            Type::None => out.push_str("null"),
            Type::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            Type::Int => {
                let _ = write!(out, "{value}");
            }
            Type::Float => out.push_str(&json_float(to_float(value)?)),
            Type::Str => self.write_string(value.as_str().unwrap_or_default(), out),
            Type::List | Type::Tuple => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_container("[", "]", items.len(), out, depth, |index, out| {
                    self.write(&items[index], out, depth + 1)
                })?;
            }
            Type::Dict => {
                let mut entries = Vec::new();
                let mut pairs = pairs(value);
                if self.sort_keys {
                    pairs = sort_pairs(pairs)?;
                }
                for (key, value) in pairs {
                    entries.push((json_key(&key)?, value));
                }
                self.write_container("{", "}", entries.len(), out, depth, |index, out| {
                    let (key, value) = &entries[index];
                    self.write_string(key, out);
                    out.push_str(&self.key_separator);
                    self.write(value, out, depth + 1)
                })?;
            }
            other => {
                return Err(type_error(format!("object of type {} is not JSON serializable", other.name())));
            }
        }
        Ok(())
    }

    fn write_container(
        &self,
        start: &str,
        end: &str,
        length: usize,
        out: &mut String,
        depth: usize,
        write_item: impl Fn(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push_str(start);
        for index in 0..length {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            self.new_line(out, depth + 1);
            write_item(index, out)?;
        }
        if length > 0 {
            self.new_line(out, depth);
        }
        out.push_str(end);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\u{1f}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(character));
                }
                _ if self.ensure_ascii && (character > '~') => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

fn json_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float_repr(value)
    }
}

fn json_key(key: &Value) -> Result<String, Error> {
    match Type::of(key) {
        Type::Str | Type::Int => str_of(key),
        Type::None => Ok("null".to_owned()),
        Type::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        Type::Float => Ok(json_float(to_float(key)?)),
        other => Err(type_error(format!("keys must be str, int, float, bool or None, not {}", other.name()))),
    }
}
