//! `'%s' % x` and `'{}'.format(x)`: what is filled in where. How one value is written is [`spec`](super::spec)'s.

use std::slice::Iter;

use minijinja::{Error, State, Value};

use super::{
    arguments::Arguments,
    operators::item,
    spec::{self, Printf},
    text::{ascii_of, repr_of, str_of},
    value::{Type, pairs, type_error},
};

/// Longest padding and precision; more than any line of text.
const MAX_WIDTH: usize = 10_000;

/// `template % values`, where `mapping` is what the right side was.
pub(super) fn percent(template: &str, values: &[Value], mapping: &Value) -> Result<String, Error> {
    let mut out = String::with_capacity(template.len());
    let mut values = values.iter();
    let mut used_mapping = false;
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if take(&mut rest, '%') {
            out.push('%');
            continue;
        }
        let mut key = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').ok_or_else(|| type_error("incomplete format key"))?;
            key = Some(&inner[..end]);
            rest = &inner[end + 1..];
        }
        let flags_end = rest.find(|c: char| !"#0- +".contains(c)).unwrap_or(rest.len());
        let flags = &rest[..flags_end];
        rest = &rest[flags_end..];
        let width = width_or_star(&mut rest, &mut values)?.unwrap_or(0);
        let precision = match take(&mut rest, '.') {
            true => Some(width_or_star(&mut rest, &mut values)?.unwrap_or(0).max(0).unsigned_abs()),
            false => None,
        };
        // C's sizes of integers mean nothing here.
        let _ = take(&mut rest, 'h') || take(&mut rest, 'l') || take(&mut rest, 'L');
        let conversion = rest.chars().next().ok_or_else(|| type_error("incomplete format"))?;
        rest = &rest[conversion.len_utf8()..];
        let value = match key {
            Some(key) => {
                used_mapping = true;
                if Type::of(mapping) != Type::Dict {
                    return Err(type_error("format requires a mapping"));
                }
                let found = pairs(mapping).into_iter().find(|(name, _)| name.as_str() == Some(key));
                found.map(|(_, value)| value).ok_or_else(|| type_error(format!("no key `{key}` to format")))?
            }
            None => next(&mut values)?,
        };
        let printf = Printf {
            left: flags.contains('-') || width < 0,
            zeros: flags.contains('0'),
            sign: if flags.contains('+') {
                '+'
            } else if flags.contains(' ') {
                ' '
            } else {
                '-'
            },
            alternate: flags.contains('#'),
            width: width.unsigned_abs(),
            precision,
        };
        out.push_str(&printf.write(&value, conversion)?);
    }
    out.push_str(rest);
    // What can be indexed, other than a tuple or a string, is a mapping to `%`, and needn't be used up.
    let is_mapping = matches!(Type::of(mapping), Type::Dict | Type::List | Type::Range | Type::Undefined);
    if values.next().is_some() && !used_mapping && !is_mapping {
        return Err(type_error("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn next(values: &mut Iter<'_, Value>) -> Result<Value, Error> {
    values.next().cloned().ok_or_else(|| type_error("not enough arguments for format string"))
}

/// A number in the format, or, for `*`, the next of the values.
fn width_or_star(rest: &mut &str, values: &mut Iter<'_, Value>) -> Result<Option<isize>, Error> {
    if !take(rest, '*') {
        return Ok(take_number(rest)?.map(usize::cast_signed));
    }
    let value = next(values)?;
    let width = value.as_i64().filter(|_| Type::of(&value) == Type::Int).ok_or_else(|| type_error("* wants int"))?;
    match isize::try_from(width) {
        Ok(width) if width.unsigned_abs() <= MAX_WIDTH => Ok(Some(width)),
        _ => Err(type_error(format!("a width of more than {MAX_WIDTH}"))),
    }
}

/// What the fields of a `str.format` stand for.
struct Fields<'a> {
    positional: &'a [Value],
    named: Vec<(String, Value)>,
    /// The place of the next field without a number.
    next: usize,
    numbered: bool,
}

/// `text.format(*args, **kwargs)`.
pub(super) fn str_format(state: &State<'_, '_>, text: &str, arguments: &Arguments<'_>) -> Result<String, Error> {
    format_with(state, text, arguments.positional(), arguments.named())
}

/// `text.format_map(mapping)`.
pub(super) fn str_format_map(state: &State<'_, '_>, text: &str, mapping: &Value) -> Result<String, Error> {
    let named = pairs(mapping).into_iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
    format_with(state, text, &[], named.collect())
}

fn format_with(
    state: &State<'_, '_>,
    text: &str,
    positional: &[Value],
    named: Vec<(String, Value)>,
) -> Result<String, Error> {
    Fields { positional, named, next: 0, numbered: false }.format(state, text, true)
}

impl Fields<'_> {
    /// Fills in `text`, whose fields' formats may have fields themselves, but no further.
    fn format(&mut self, state: &State<'_, '_>, text: &str, outer: bool) -> Result<String, Error> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let brace = rest.as_bytes()[at];
            let after = &rest[at + 1..];
            if outer && after.as_bytes().first() == Some(&brace) {
                out.push(char::from(brace));
                rest = &after[1..];
                continue;
            }
            if brace == b'}' {
                return Err(type_error("single `}` in a format string"));
            }
            let end = field_end(after).ok_or_else(|| type_error("single `{` in a format string"))?;
            rest = &after[end + 1..];
            let (field, format) = after[..end].split_once(':').unwrap_or((&after[..end], ""));
            let (name, conversion) = match field.split_once('!') {
                Some((name, conversion)) => (name, Some(conversion)),
                None => (field, None),
            };
            let value = self.value(name)?;
            let value = match conversion {
                Some("r") => Value::from(repr_of(&value)?),
                Some("s") => Value::from(str_of(&value)?),
                Some("a") => Value::from(ascii_of(&value)?),
                None => value,
                Some(other) => return Err(type_error(format!("unknown conversion `!{other}`"))),
            };
            let format = match format.contains(['{', '}']) {
                true if outer => self.format(state, format, false)?,
                true => return Err(type_error("formats nest more than 2 deep")),
                false => format.to_owned(),
            };
            let formatted = spec::format(&value, &format)?;
            state.consume_fuel(formatted.len() as u64 / 64)?;
            out.push_str(&formatted);
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of `name`, `0`, or of none, and what a path like `.a[0]` reaches from there.
    fn value(&mut self, name: &str) -> Result<Value, Error> {
        let (first, path) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
        let value = if first.is_empty() {
            if self.numbered {
                return Err(mixed());
            }
            self.next += 1;
            self.positional.get(self.next - 1).cloned()
        } else if let Ok(index) = first.parse::<usize>() {
            if self.next > 0 {
                return Err(mixed());
            }
            self.numbered = true;
            self.positional.get(index).cloned()
        } else {
            self.named.iter().find(|(name, _)| name == first).map(|(_, value)| value.clone())
        };
        let mut value = value.ok_or_else(|| type_error(format!("no argument for `{{{name}}}`")))?;
        for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
            let part = part.trim_end_matches(']');
            let key = part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from);
            value = item(&value, &key)?;
        }
        Ok(value)
    }
}

fn mixed() -> Error {
    type_error("fields with numbers and fields without them in one format string")
}

/// Where the field ends that begins before `text`: at the brace that closes it.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

pub(super) fn take(rest: &mut &str, character: char) -> bool {
    match rest.strip_prefix(character) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

pub(super) fn take_number(rest: &mut &str) -> Result<Option<usize>, Error> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    if digits.is_empty() {
        return Ok(None);
    }
    match digits.parse::<usize>() {
        Ok(number) if number <= MAX_WIDTH => Ok(Some(number)),
        _ => Err(type_error(format!("a width of more than {MAX_WIDTH}"))),
    }
}
