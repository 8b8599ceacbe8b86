//! Jinja2's filters on single values, and the list of all of them.

use std::{cmp::Ordering, num::IntErrorKind};

use minijinja::{Environment, Error, State, Value, value::Tuple};

use super::{
    arguments::Arguments,
    format::percent,
    json::tojson,
    markup,
    methods::bound_method,
    operators::int,
    sequences,
    spec::float_to_int,
    strings::{capitalize, center_split, replace, split_lines, strip, with_ascii_digits},
    text::{repr_of, str_of},
    value::{MAX_NESTING, Type, pairs, to_float, to_int, type_error},
};

type Filter = fn(&mut State<'_, '_>, &Arguments<'_>) -> Result<Value, Error>;

/// Every filter of Jinja2.
const FILTERS: [(&str, Filter); 53] = [
    ("abs", abs),
    ("attr", attr),
    ("batch", sequences::batch),
    ("capitalize", |_, arguments| text(arguments, capitalize)),
    ("center", center),
    ("count", sequences::length),
    ("d", default),
    ("default", default),
    ("dictsort", sequences::dictsort),
    ("e", markup::escape),
    ("escape", markup::escape),
    ("filesizeformat", filesizeformat),
    ("first", sequences::first),
    ("float", float),
    ("forceescape", markup::forceescape),
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
    ("pprint", pprint),
    ("random", unsupported),
    ("reject", sequences::reject),
    ("rejectattr", sequences::rejectattr),
    ("replace", replace_filter),
    ("reverse", sequences::reverse),
    ("round", round),
    ("safe", markup::safe),
    ("select", sequences::select),
    ("selectattr", sequences::selectattr),
    ("slice", sequences::slice),
    ("sort", sequences::sort),
    ("string", |_, arguments| text(arguments, str::to_owned)),
    ("striptags", markup::striptags),
    ("sum", sequences::sum),
    ("title", |_, arguments| text(arguments, title)),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", sequences::unique),
    ("upper", |_, arguments| text(arguments, str::to_uppercase)),
    ("urlencode", markup::urlencode),
    ("urlize", unsupported),
    ("wordcount", wordcount),
    ("wordwrap", unsupported),
    ("xmlattr", markup::xmlattr),
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

/// Filters whose text Python takes from a random number, or from rules that nobody's chat needs.
fn unsupported(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    Err(type_error(format!("the filter `{}` is not supported", arguments.callee())))
}

/// A filter that makes text of text, and of anything else its `str`.
fn text<T: Into<String>>(arguments: &Arguments<'_>, change: impl Fn(&str) -> T) -> Result<Value, Error> {
    let value = arguments.required(0, "s")?;
    arguments.finish(1)?;
    Ok(markup::like(&value, change(&str_of(&value)?).into()))
}

fn default(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let default = arguments.optional(1, "default_value").unwrap_or_else(|| Value::from(""));
    let boolean = arguments.flag(2, "boolean");
    arguments.finish(3)?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { default } else { value })
}

fn trim(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let value = arguments.required(0, "value")?;
    let characters = arguments.optional_string(1, "chars")?;
    arguments.finish(2)?;
    Ok(markup::like(&value, strip(&str_of(&value)?, characters.as_deref(), (true, true)).to_owned()))
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
    let from_float = |number: f64| if number.is_finite() { float_to_int(number).map(int) } else { Ok(default.clone()) };
    Ok(match Type::of(&value) {
        Type::Bool => Value::from(i64::from(value.is_true())),
        Type::Int => value,
        Type::Float => from_float(to_float(&value)?)?,
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            match parse_int(text, base)? {
                Some(number) => int(number),
                None => parse_float(text).map_or_else(|| Ok(default.clone()), from_float)?,
            }
        }
        Type::Undefined => return Err(super::value::undefined_error("a number of something that is not defined")),
        _ => default,
    })
}

/// `int(text, base)`; `None` where the text is no integer.
fn parse_int(text: &str, base: i64) -> Result<Option<i128>, Error> {
    let text = with_ascii_digits(strip(text, None, (true, true)));
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, _)| lower.starts_with(prefix));
    let (digits, base) = match prefixed {
        Some((prefix, radix)) if base == 0 || base == i64::from(radix) => (lower[prefix.len()..].to_owned(), radix),
        _ => (lower, u32::try_from(base).ok().filter(|base| (2..=36).contains(base)).unwrap_or(10)),
    };
    if !underscores_separate(&digits) || digits.starts_with(['+', '-']) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits.replace('_', ""), base) {
        Ok(number) => Ok(Some(sign * number)),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Err(type_error("an integer beyond 127 bits")),
        Err(_) => Ok(None),
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let text = with_ascii_digits(strip(text, None, (true, true)));
    if !underscores_separate(&text) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Whether there are underscores between digits only, as in `1_000`.
fn underscores_separate(text: &str) -> bool {
    let is_digit = |character: Option<char>| character.is_some_and(|character| character.is_ascii_alphanumeric());
    text.match_indices('_')
        .all(|(at, _)| is_digit(text[..at].chars().next_back()) && is_digit(text[at + 1..].chars().next()))
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
    let precision = arguments.optional(1, "precision");
    let places = arguments.optional_int(1, "precision")?;
    let method = arguments.optional_string(2, "method")?.unwrap_or_else(|| "common".to_owned());
    arguments.finish(3)?;
    let ty = Type::of(&value);
    if !ty.is_number() {
        return Err(type_error(format!("can't round {}", ty.name())));
    }
    let number = to_float(&value)?;
    // `round(x, None)` is an integer.
    let Some(places) = places.or(if precision.is_none() { Some(0) } else { None }) else {
        return float_to_int(number.round_ties_even()).map(int);
    };
    let places = i32::try_from(places).map_err(|_| type_error("precision out of range"))?;
    let scale = 10_f64.powi(places);
    Ok(match method.as_str() {
        "common" if ty != Type::Float => int(round_int(to_int(&value)?, places)),
        // Python rounds the exact value and halves to even, which is what printing does.
        "common" if places >= 0 => {
            let places = usize::try_from(places).unwrap_or(0).min(MAX_PLACES);
            Value::from(format!("{number:.places$}").parse().unwrap_or(number))
        }
        "common" => Value::from((number * scale).round_ties_even() / scale),
        "ceil" => Value::from((number * scale).ceil() / scale),
        "floor" => Value::from((number * scale).floor() / scale),
        _ => return Err(type_error("method must be common, ceil or floor")),
    })
}

/// Decimal places of the smallest float.
const MAX_PLACES: usize = 1100;

/// An integer to so many places, those before the point counting down from 0; halves go to even.
fn round_int(number: i128, places: i32) -> i128 {
    if places >= 0 {
        return number;
    }
    let Some(unit) = 10_i128.checked_pow(places.unsigned_abs()) else { return 0 };
    let (quotient, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let up = match (rest * 2).cmp(&unit) {
        Ordering::Less => 0,
        Ordering::Equal => quotient.rem_euclid(2),
        Ordering::Greater => 1,
    };
    (quotient + up) * unit
}

fn format(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let template = arguments.required(0, "value")?;
    if template.is_safe() {
        return Err(type_error("`format` of a string that is marked as safe is not supported"));
    }
    let template = str_of(&template)?;
    let named = arguments.named();
    let values = arguments.positional().get(1..).unwrap_or_default();
    if !named.is_empty() && !values.is_empty() {
        return Err(type_error("`format` takes either positional or named arguments"));
    }
    if named.is_empty() {
        return percent(&template, values, &Value::from(())).map(Value::from);
    }
    let mapping = Value::from_pairs(named);
    percent(&template, std::slice::from_ref(&mapping), &mapping).map(Value::from)
}

fn filesizeformat(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    const UNITS: [char; 8] = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];
    let value = arguments.required(0, "value")?;
    let binary = arguments.flag(1, "binary");
    arguments.finish(2)?;
    let bytes = match Type::of(&value) {
        Type::Str => parse_float(value.as_str().unwrap_or_default()).ok_or_else(|| type_error("not a number"))?,
        ty if ty.is_number() => to_float(&value)?,
        other => return Err(type_error(format!("can't make a float of {}", other.name()))),
    };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", float_to_int(bytes)?)));
    }
    let power = (0..UNITS.len()).find(|index| bytes < base.powi(*index as i32 + 2)).unwrap_or(UNITS.len() - 1);
    let size = base * bytes / base.powi(power as i32 + 2);
    let unit = UNITS[power];
    Ok(Value::from(if binary {
        format!("{size:.1} {}iB", unit.to_ascii_uppercase())
    } else {
        format!("{size:.1} {unit}B")
    }))
}

/// What fits into a line is the `repr` with sorted keys; Python's way of breaking longer ones is not here.
fn pprint(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    const WIDTH: usize = 80;
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    let text = repr_of(&sorted(&value, 0)?)?;
    if text.chars().count() > WIDTH {
        return Err(type_error(format!("`pprint` of more than {WIDTH} characters is not supported")));
    }
    Ok(Value::from(text))
}

/// `value` with all keys in order.
fn sorted(value: &Value, depth: usize) -> Result<Value, Error> {
    let items = || value.try_iter()?.map(|item| sorted(&item, depth + 1)).collect::<Result<Vec<Value>, Error>>();
    match Type::of(value) {
        _ if depth > MAX_NESTING => Err(type_error(format!("a value nests more than {MAX_NESTING} deep"))),
        Type::Dict => {
            let pairs = sequences::sort_pairs(pairs(value))?.into_iter();
            let pairs = pairs.map(|(key, value)| Ok((key, sorted(&value, depth + 1)?)));
            pairs.collect::<Result<Vec<_>, Error>>().map(Value::from_pairs)
        }
        Type::List => items().map(Value::from),
        Type::Tuple => items().map(|items| Value::from(Tuple::from(items))),
        _ => Ok(value.clone()),
    }
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
    if matches!(Type::of(&given), Type::Namespace) {
        return Err(type_error("a namespace has no length"));
    }
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
