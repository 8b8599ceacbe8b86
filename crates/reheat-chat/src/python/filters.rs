//! Jinja2's filters on single values, and the list of all of them.

use minijinja::{Environment, Error, State, Value};

use super::{
    arguments::Arguments,
    format::percent,
    json::tojson,
    methods::bound_method,
    operators::int,
    sequences,
    strings::{capitalize, center_split, replace, split_lines, strip},
    text::{repr_of, str_of},
    value::{Type, to_float, to_int, type_error},
};

type Filter = fn(&mut State<'_, '_>, &Arguments<'_>) -> Result<Value, Error>;

/// Every filter of Jinja2 that a chat template could want. Those for web pages and the random one are left out.
const FILTERS: [(&str, Filter); 48] = [
    ("abs", abs),
    ("attr", attr),
    ("batch", sequences::batch),
    ("capitalize", |_, arguments| text(arguments, capitalize)),
    ("center", center),
    ("count", sequences::length),
    ("d", default),
    ("default", default),
    ("dictsort", sequences::dictsort),
    ("e", escape),
    ("escape", escape),
    ("first", sequences::first),
    ("float", float),
    ("forceescape", escape),
    ("format", format),
    ("groupby", sequences::groupby),
    ("indent", indent),
    ("int", int_filter),
    ("items", sequences::items),
    ("join", sequences::join),
    ("last", sequences::last),
    ("length", sequences::length),
    ("list", sequences::list),
    ("lower", |_, arguments| text(arguments, str::to_lowercase)),
    ("map", sequences::map),
    ("max", sequences::max),
    ("min", sequences::min),
    ("pprint", |_, arguments| Ok(Value::from(repr_of(&arguments.required(0, "value")?)?))),
    ("reject", sequences::reject),
    ("rejectattr", sequences::rejectattr),
    ("replace", replace_filter),
    ("reverse", sequences::reverse),
    ("round", round),
    ("safe", safe),
    ("select", sequences::select),
    ("selectattr", sequences::selectattr),
    ("slice", sequences::slice),
    ("sort", sequences::sort),
    ("string", |_, arguments| text(arguments, str::to_owned)),
    ("striptags", |_, arguments| text(arguments, strip_tags)),
    ("sum", sequences::sum),
    ("title", |_, arguments| text(arguments, title)),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", sequences::unique),
    ("upper", |_, arguments| text(arguments, str::to_uppercase)),
    ("urlencode", |_, arguments| Ok(Value::from(urlencode(&arguments.string(0, "value")?)))),
    ("wordcount", wordcount),
];

/// Adds all filters.
pub(crate) fn add_filters(env: &mut Environment<'_>) {
    env.add_filter(
        "tojson",
        |state: &mut State<'_, '_>, args: minijinja::value::Rest<minijinja::value::ValueOrKwargs>| {
            tojson(state, &args.into_values())
        },
    );
    for (name, filter) in FILTERS {
        env.add_filter(
            name,
            move |state: &mut State<'_, '_>, args: minijinja::value::Rest<minijinja::value::ValueOrKwargs>| {
                filter(state, &Arguments::new(name, &args.into_values()))
            },
        );
    }
}

pub(super) fn is_filter(name: &str) -> bool {
    name == "tojson" || FILTERS.iter().any(|(known, _)| *known == name)
}

/// A filter that makes text of text, and of anything else its `str`.
fn text<T: Into<String>>(arguments: &Arguments<'_>, change: impl Fn(&str) -> T) -> Result<Value, Error> {
    let value = arguments.required(0, "s")?;
    arguments.finish(1)?;
    Ok(Value::from(change(&str_of(&value)?).into()))
}

fn default(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let default = arguments.optional(1, "default_value").unwrap_or_else(|| Value::from(""));
    let boolean = arguments.flag(2, "boolean");
    arguments.finish(3)?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { default } else { value })
}

fn trim(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = str_of(&arguments.required(0, "value")?)?;
    let characters = arguments.optional_string(1, "chars")?;
    arguments.finish(2)?;
    Ok(Value::from(strip(&value, characters.as_deref(), (true, true))))
}

fn replace_filter(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = str_of(&arguments.required(0, "s")?)?;
    let (old, new) = (str_of(&arguments.required(1, "old")?)?, str_of(&arguments.required(2, "new")?)?);
    let count = arguments.optional_int(3, "count")?;
    arguments.finish(4)?;
    replace(state, &value, &old, &new, count)
}

fn indent(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.string(0, "s")?;
    let width = match arguments.optional(1, "width") {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) => " ".repeat(usize::try_from(width).unwrap_or(0).min(10_000)),
            _ => return Err(type_error("`width` of `indent` must be a number or a string")),
        },
    };
    let (first, blank) = (arguments.flag(2, "first"), arguments.flag(3, "blank"));
    arguments.finish(4)?;
    let value = format!("{value}\n");
    let lines = split_lines(&value, false);
    state.consume_fuel((lines.len() * width.len() / 64) as u64)?;
    let mut text = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            text.push_str(&width);
        }
        text.push_str(line);
    }
    Ok(Value::from(text))
}

fn int_filter(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let default = arguments.optional(1, "default").unwrap_or_else(|| Value::from(0));
    let base = arguments.optional_int(2, "base")?.unwrap_or(10);
    arguments.finish(3)?;
    let from_float = |number: f64| if number.is_finite() { int(number.trunc() as i128) } else { default.clone() };
    Ok(match Type::of(&value) {
        Type::Bool => Value::from(i64::from(value.is_true())),
        Type::Int => value,
        Type::Float => from_float(to_float(&value)?),
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            match parse_int(text, base) {
                Some(number) => int(number),
                None => parse_float(text).map_or_else(|| default.clone(), from_float),
            }
        }
        Type::Undefined => return Err(super::value::undefined_error("a number of something that is not defined")),
        _ => default,
    })
}

fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = strip(text, None, (true, true));
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, _)| lower.starts_with(prefix));
    let (digits, base) = match prefixed {
        Some((prefix, radix)) if base == 0 || base == i64::from(radix) => (lower[prefix.len()..].to_owned(), radix),
        _ => (lower, u32::try_from(base).ok().filter(|base| (2..=36).contains(base)).unwrap_or(10)),
    };
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") || digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(&digits.replace('_', ""), base).ok().map(|number| sign * number)
}

fn parse_float(text: &str) -> Option<f64> {
    let text = strip(text, None, (true, true)).replace('_', "").to_ascii_lowercase();
    text.parse().ok()
}

fn float(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let default = arguments.optional(1, "default").unwrap_or_else(|| Value::from(0.0));
    arguments.finish(2)?;
    Ok(match Type::of(&value) {
        Type::Bool => Value::from(if value.is_true() { 1.0 } else { 0.0 }),
        Type::Int | Type::Float => Value::from(to_float(&value)?),
        Type::Str => parse_float(value.as_str().unwrap_or_default()).map_or(default, Value::from),
        Type::Undefined => return Err(super::value::undefined_error("a number of something that is not defined")),
        _ => default,
    })
}

fn abs(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "x")?;
    arguments.finish(1)?;
    match Type::of(&value) {
        Type::Int | Type::Bool => Ok(int(to_int(&value)?.abs())),
        Type::Float => Ok(Value::from(to_float(&value)?.abs())),
        other => Err(type_error(format!("bad operand type for abs(): {}", other.name()))),
    }
}

fn round(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let precision = arguments.optional_int(1, "precision")?.unwrap_or(0);
    let method = arguments.optional_string(2, "method")?.unwrap_or_else(|| "common".to_owned());
    arguments.finish(3)?;
    let ty = Type::of(&value);
    if !ty.is_number() {
        return Err(type_error(format!("can't round {}", ty.name())));
    }
    let precision = i32::try_from(precision).map_err(|_| type_error("precision out of range"))?;
    let number = to_float(&value)?;
    let scale = 10_f64.powi(precision);
    let rounded = match method.as_str() {
        "common" if ty != Type::Float && precision >= 0 => return Ok(int(to_int(&value)?)),
        // Python rounds the exact value and halves to even, which is what printing does.
        "common" if (0..=300).contains(&precision) => {
            format!("{number:.*}", usize::try_from(precision).unwrap_or(0)).parse().unwrap_or(number)
        }
        "common" => (number * scale).round_ties_even() / scale,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        _ => return Err(type_error("method must be common, ceil or floor")),
    };
    Ok(if ty == Type::Float || method != "common" { Value::from(rounded) } else { int(rounded as i128) })
}

fn format(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let template = str_of(&arguments.required(0, "value")?)?;
    let named = arguments.named();
    let values = arguments.positional().get(1..).unwrap_or_default();
    if !named.is_empty() && !values.is_empty() {
        return Err(type_error("`format` takes either positional or named arguments"));
    }
    let mapping = if named.is_empty() { Value::from(()) } else { Value::from_pairs(named) };
    percent(&template, values, &mapping).map(Value::from)
}

fn title(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    let mut at_start = true;
    for character in text.chars() {
        if crate::jinja::lexer::is_space(character) || "-({[<".contains(character) {
            title.extend(character.to_lowercase());
            at_start = true;
        } else if at_start {
            title.extend(character.to_uppercase());
            at_start = false;
        } else {
            title.extend(character.to_lowercase());
        }
    }
    title
}

fn center(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = str_of(&arguments.required(0, "value")?)?;
    let width = usize::try_from(arguments.optional_int(1, "width")?.unwrap_or(80)).unwrap_or(0);
    arguments.finish(2)?;
    let missing = width.saturating_sub(value.chars().count());
    state.consume_fuel(missing as u64 / 64)?;
    let (left, right) = center_split(missing, width);
    Ok(Value::from([" ".repeat(left), value, " ".repeat(right)].concat()))
}

fn truncate(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let given = arguments.required(0, "s")?;
    let size =
        |number: Option<i64>, default: usize| number.map_or(Some(default), |number| usize::try_from(number).ok());
    let length = size(arguments.optional_int(1, "length")?, 255);
    let kill_words = arguments.flag(2, "killwords");
    let end = arguments.optional_string(3, "end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = size(arguments.optional_int(4, "leeway")?, 5);
    arguments.finish(5)?;
    let (Some(length), Some(leeway)) = (length, leeway) else { return Err(type_error("a length below 0")) };
    let room = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| type_error("`length` of `truncate` is shorter than its end"))?;
    // Anything with a length may pass, as long as nothing is cut off.
    let count = given.as_str().map_or_else(|| given.len(), |text| Some(text.chars().count()));
    if given.is_undefined() || count.is_some_and(|count| count <= length + leeway) {
        return Ok(given);
    }
    let value = arguments.string(0, "s")?;
    let mut start: String = value.chars().take(room).collect();
    if !kill_words && let Some(space) = start.rfind(' ') {
        start.truncate(space);
    }
    Ok(Value::from(start + &end))
}

fn wordcount(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = str_of(&arguments.required(0, "s")?)?;
    arguments.finish(1)?;
    let words = value.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}

fn attr(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let (value, name) = (arguments.required(0, "obj")?, arguments.string(1, "name")?);
    arguments.finish(2)?;
    // Of a dict this reaches methods only, never keys.
    if let Some(method) = bound_method(&value, &name) {
        return Ok(method);
    }
    if value.is_undefined() {
        return Err(super::value::undefined_error("reaching into something that is not defined"));
    }
    Ok(if Type::of(&value) == Type::Namespace { value.get_attr(&name)? } else { Value::UNDEFINED })
}

fn safe(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    Ok(Value::from(str_of(&value)?))
}

fn escape(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    text(arguments, |text| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('\'', "&#39;").replace('"', "&#34;")
    })
}

fn strip_tags(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let comment = rest[start..].starts_with("<!--");
        let Some(end) = rest[start..].find(if comment { "-->" } else { ">" }) else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[start + end + if comment { 3 } else { 1 }..];
    }
    plain.push_str(rest);
    plain.split(crate::jinja::lexer::is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn urlencode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}
