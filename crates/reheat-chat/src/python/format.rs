//! `'%s' % x`, `'{}'.format(x)`: the parts that templates use.

use minijinja::{Error, State, Value};

use super::{
    arguments::Arguments,
    operators::item,
    strings::center_split,
    text::{repr_of, str_of},
    value::{Type, to_float, to_int, type_error},
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
        let mut key = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').ok_or_else(|| type_error("incomplete format key"))?;
            key = Some(&inner[..end]);
            rest = &inner[end + 1..];
        }
        let flags_end = rest.find(|c: char| !"#0- +".contains(c)).unwrap_or(rest.len());
        let flags = &rest[..flags_end];
        rest = &rest[flags_end..];
        let width = take_number(&mut rest)?.unwrap_or(0);
        let precision = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                Some(take_number(&mut rest)?.unwrap_or(0))
            }
            None => None,
        };
        let conversion = rest.chars().next().ok_or_else(|| type_error("incomplete format"))?;
        rest = &rest[conversion.len_utf8()..];
        if conversion == '%' {
            out.push('%');
            continue;
        }
        let value = match key {
            Some(key) => {
                used_mapping = true;
                item(mapping, &Value::from(key))?
            }
            None => values.next().cloned().ok_or_else(|| type_error("not enough arguments for format string"))?,
        };
        let spec = Spec {
            fill: if flags.contains('0') && !flags.contains('-') { '0' } else { ' ' },
            align: if flags.contains('-') { '<' } else { '>' },
            sign: if flags.contains('+') {
                '+'
            } else if flags.contains(' ') {
                ' '
            } else {
                '-'
            },
            alternate: flags.contains('#'),
            width,
            precision,
            comma: false,
        };
        out.push_str(&spec.convert(&value, conversion)?);
    }
    out.push_str(rest);
    // What can be indexed, other than a tuple or a string, is a mapping to `%`, and needn't be used up.
    let is_mapping = matches!(Type::of(mapping), Type::Dict | Type::List | Type::Undefined);
    if values.next().is_some() && !used_mapping && !is_mapping {
        return Err(type_error("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// `text.format(*args, **kwargs)`.
pub(super) fn str_format(state: &State<'_, '_>, text: &str, arguments: &Arguments<'_>) -> Result<String, Error> {
    let named = arguments.named();
    let mut next = 0;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = rest.as_bytes()[at];
        let after = &rest[at + 1..];
        if after.as_bytes().first() == Some(&brace) {
            out.push(char::from(brace));
            rest = &after[1..];
            continue;
        }
        if brace == b'}' {
            return Err(type_error("single `}` in a format string"));
        }
        let end = after.find('}').ok_or_else(|| type_error("single `{` in a format string"))?;
        rest = &after[end + 1..];
        let (field, spec) = after[..end].split_once(':').unwrap_or((&after[..end], ""));
        let (name, conversion) = match field.split_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (field, None),
        };
        let path_start = name.find(['.', '[']).unwrap_or(name.len());
        let (first, path) = name.split_at(path_start);
        let value = if first.is_empty() {
            next += 1;
            arguments.positional().get(next - 1).cloned()
        } else if let Ok(index) = first.parse::<usize>() {
            arguments.positional().get(index).cloned()
        } else {
            named.iter().find(|(name, _)| name == first).map(|(_, value)| value.clone())
        };
        let mut value = value.ok_or_else(|| type_error(format!("no argument for `{{{field}}}`")))?;
        for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
            let part = part.trim_end_matches(']');
            let key = part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from);
            value = item(&value, &key)?;
        }
        let value = match conversion {
            Some("r") => Value::from(repr_of(&value)?),
            Some("s") => Value::from(str_of(&value)?),
            None => value,
            Some(other) => return Err(type_error(format!("unknown conversion `!{other}`"))),
        };
        let formatted = format_value(&value, spec)?;
        state.consume_fuel(formatted.len() as u64 / 64)?;
        out.push_str(&formatted);
    }
    out.push_str(rest);
    Ok(out)
}

fn format_value(value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return str_of(value);
    }
    let mut rest = spec;
    let mut characters = rest.chars();
    let (first, second) = (characters.next(), characters.next());
    let is_align = |character: Option<char>| character.is_some_and(|character| "<>^=".contains(character));
    let (mut fill, mut align) = (' ', None);
    if let (Some(first), true) = (first, is_align(second)) {
        (fill, align) = (first, second);
        rest = &rest[first.len_utf8() + 1..];
    } else if is_align(first) {
        align = first;
        rest = &rest[1..];
    }
    let mut sign = '-';
    if let Some(found @ ('+' | '-' | ' ')) = rest.chars().next() {
        sign = found;
        rest = &rest[1..];
    }
    let alternate = take(&mut rest, '#');
    if take(&mut rest, '0') && align.is_none() {
        (fill, align) = ('0', Some('='));
    }
    let width = take_number(&mut rest)?.unwrap_or(0);
    let comma = take(&mut rest, ',');
    let precision = if take(&mut rest, '.') {
        Some(take_number(&mut rest)?.ok_or_else(|| type_error("a format lacks its precision"))?)
    } else {
        None
    };
    let ty = Type::of(value);
    let conversion = match (rest, ty) {
        ("", Type::Int | Type::Bool) => 'd',
        ("", Type::Float) => 'r',
        ("", _) => 's',
        (conversion, _) if conversion.chars().count() == 1 => conversion.chars().next().unwrap_or('s'),
        _ => return Err(type_error(format!("invalid format `{spec}`"))),
    };
    let align = align.unwrap_or(if ty.is_number() { '>' } else { '<' });
    Spec { fill, align, sign, alternate, width, precision, comma }.convert(value, conversion)
}

fn take(rest: &mut &str, character: char) -> bool {
    match rest.strip_prefix(character) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn take_number(rest: &mut &str) -> Result<Option<usize>, Error> {
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

/// How one value is written.
struct Spec {
    fill: char,
    /// `<`, `>`, `^`, or `=` for padding between sign and digits.
    align: char,
    sign: char,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    comma: bool,
}

impl Spec {
    fn convert(&self, value: &Value, conversion: char) -> Result<String, Error> {
        let number =
            || to_float(value).map_err(|_| type_error(format!("a number is required, not {}", Type::of(value).name())));
        let (negative, prefix, digits) = match conversion {
            's' => return Ok(self.pad("", &self.cut(str_of(value)?))),
            'r' if Type::of(value) != Type::Float => return Ok(self.pad("", &self.cut(repr_of(value)?))),
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'b' => {
                let int = to_int(value).ok().or_else(|| {
                    // `'%d' % 3.7` cuts the fraction off.
                    to_float(value).ok().filter(|value| value.is_finite()).map(|value| value.trunc() as i128)
                });
                let int = int
                    .filter(|_| Type::of(value).is_number())
                    .ok_or_else(|| type_error(format!("an integer is required, not {}", Type::of(value).name())))?;
                let size = int.unsigned_abs();
                let (prefix, digits) = match conversion {
                    'x' => ("0x", format!("{size:x}")),
                    'X' => ("0X", format!("{size:X}")),
                    'o' => ("0o", format!("{size:o}")),
                    'b' => ("0b", format!("{size:b}")),
                    _ => ("", size.to_string()),
                };
                (int < 0, if self.alternate { prefix } else { "" }, digits)
            }
            'f' | 'F' => {
                let number = number()?;
                (number.is_sign_negative(), "", format!("{:.*}", self.precision.unwrap_or(6), number.abs()))
            }
            'e' | 'E' => {
                let number = number()?;
                let text = format!("{:.*e}", self.precision.unwrap_or(6), number.abs());
                let text = python_exponent(&text);
                (number.is_sign_negative(), "", if conversion == 'E' { text.to_uppercase() } else { text })
            }
            '%' => {
                let number = number()? * 100.0;
                (number.is_sign_negative(), "", format!("{:.*}%", self.precision.unwrap_or(6), number.abs()))
            }
            'g' | 'G' | 'r' => {
                let number = number()?;
                let text = match (conversion, self.precision) {
                    ('r', None) => repr_of(&Value::from(number.abs()))?,
                    (_, precision) => general(number.abs(), precision.unwrap_or(6).max(1)),
                };
                (number.is_sign_negative(), "", text)
            }
            other => return Err(type_error(format!("unsupported format character `{other}`"))),
        };
        let digits = if self.comma { with_commas(&digits) } else { digits };
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        };
        Ok(self.pad(&format!("{sign}{prefix}"), &digits))
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }

    fn pad(&self, sign: &str, digits: &str) -> String {
        let length = sign.chars().count() + digits.chars().count();
        let missing = self.width.saturating_sub(length);
        let fill = |count: usize| self.fill.to_string().repeat(count);
        match self.align {
            '<' => format!("{sign}{digits}{}", fill(missing)),
            '^' => {
                let (left, right) = (missing / 2, missing - missing / 2);
                let (left, right) = if self.width == 0 { center_split(0, 0) } else { (left, right) };
                format!("{}{sign}{digits}{}", fill(left), fill(right))
            }
            _ if self.fill == '0' || self.align == '=' => format!("{sign}{}{digits}", fill(missing)),
            _ => format!("{}{sign}{digits}", fill(missing)),
        }
    }
}

/// `1e5` as `1e+05`.
fn python_exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `%g`
fn general(number: f64, precision: usize) -> String {
    let scientific = format!("{number:.*e}", precision - 1);
    let exponent: i32 = scientific.rsplit('e').next().and_then(|digits| digits.parse().ok()).unwrap_or_default();
    let trim = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    let places = i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent;
    match usize::try_from(places) {
        Ok(places) if exponent >= -4 => trim(&format!("{number:.places$}")),
        _ => {
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            python_exponent(&format!("{}e{exponent}", trim(digits)))
        }
    }
}

fn with_commas(digits: &str) -> String {
    let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let mut text = String::new();
    for (index, digit) in digits[..whole].chars().enumerate() {
        if index > 0 && (whole - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text.push_str(&digits[whole..]);
    text
}
