//! How `%` and `format` write one value: `%05d`, `:>8`, `:,.2f`.

use minijinja::{Error, Value};

use super::{
    format::{take, take_number},
    text::{ascii_of, float_repr, repr_of, str_of},
    value::{Type, to_float, to_int, type_error},
};

/// One conversion of a `%` format, without its letter.
pub(super) struct Printf {
    pub(super) left: bool,
    pub(super) zeros: bool,
    /// `+` and a space for what stands before numbers that aren't negative, else `-`.
    pub(super) sign: char,
    pub(super) alternate: bool,
    pub(super) width: usize,
    pub(super) precision: Option<usize>,
}

/// A number as text, in parts that padding may come between.
struct Number {
    negative: bool,
    prefix: &'static str,
    digits: String,
}

impl Printf {
    /// `value` by the conversion of this letter.
    pub(super) fn write(&self, value: &Value, conversion: char) -> Result<String, Error> {
        let name = Type::of(value).name();
        let number = match conversion {
            's' => return Ok(self.text(&str_of(value)?)),
            'r' => return Ok(self.text(&repr_of(value)?)),
            'a' => return Ok(self.text(&ascii_of(value)?)),
            'c' => return character(value).map(|character| self.text(&character)),
            'd' | 'i' | 'u' => Number::decimal(cut_to_int(value)?),
            'x' | 'X' | 'o' => match Type::of(value) {
                Type::Int | Type::Bool => Number::in_base(to_int(value)?, conversion, self.alternate),
                _ => return Err(type_error(format!("%{conversion} format: an integer is required, not {name}"))),
            },
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                if !Type::of(value).is_number() {
                    return Err(type_error(format!("must be real number, not {name}")));
                }
                if self.alternate {
                    return Err(type_error(format!("`%#{conversion}` is not supported")));
                }
                Number::float(to_float(value)?, conversion, self.precision)
            }
            other => return Err(type_error(format!("unsupported format character `{other}`"))),
        };
        let number = match self.precision.filter(|_| "diuxXo".contains(conversion)) {
            Some(precision) => Number { digits: format!("{:0>precision$}", number.digits), ..number },
            None => number,
        };
        Ok(if self.left {
            pad(number.signed(self.sign), number.prefix, &number.digits, ' ', '<', self.width)
        } else if self.zeros {
            pad(number.signed(self.sign), number.prefix, &number.digits, '0', '=', self.width)
        } else {
            pad(number.signed(self.sign), number.prefix, &number.digits, ' ', '>', self.width)
        })
    }

    fn text(&self, text: &str) -> String {
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        pad("", "", &text, ' ', if self.left { '<' } else { '>' }, self.width)
    }
}

/// `format(value, spec)`.
pub(super) fn format(value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return str_of(value);
    }
    let ty = Type::of(value);
    if !ty.is_number() && ty != Type::Str {
        return Err(type_error(format!("unsupported format string passed to {}", ty.name())));
    }
    let spec = Spec::parse(spec)?;
    match ty {
        Type::Str => spec.text(value.as_str().unwrap_or_default()),
        _ => spec.number(value, ty),
    }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
struct Spec<'a> {
    whole: &'a str,
    fill: char,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zeros: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    conversion: Option<char>,
}

impl<'a> Spec<'a> {
    fn parse(whole: &'a str) -> Result<Self, Error> {
        let mut rest = whole;
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
        let sign = ['+', '-', ' '].into_iter().find(|sign| take(&mut rest, *sign));
        let alternate = take(&mut rest, '#');
        let zeros = take(&mut rest, '0');
        if zeros && align.is_none() {
            fill = '0';
        }
        let width = take_number(&mut rest)?.unwrap_or(0);
        let grouping = [',', '_'].into_iter().find(|grouping| take(&mut rest, *grouping));
        let precision = match take(&mut rest, '.') {
            true => Some(take_number(&mut rest)?.ok_or_else(|| type_error("a format lacks its precision"))?),
            false => None,
        };
        let mut rest = rest.chars();
        let conversion = rest.next();
        let spec = Self { whole, fill, align, sign, alternate, zeros, width, grouping, precision, conversion };
        if rest.next().is_some() { Err(spec.refused()) } else { Ok(spec) }
    }

    fn refused(&self) -> Error {
        type_error(format!("the format `{}` is invalid for this value, or not supported", self.whole))
    }

    fn text(&self, text: &str) -> Result<String, Error> {
        let is_number_format = self.sign.is_some() || self.alternate || self.grouping.is_some();
        if is_number_format || self.align == Some('=') || !matches!(self.conversion, None | Some('s')) {
            return Err(self.refused());
        }
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        Ok(pad("", "", &text, self.fill, self.align.unwrap_or('<'), self.width))
    }

    fn number(&self, value: &Value, ty: Type) -> Result<String, Error> {
        let is_int = ty != Type::Float;
        let number = match self.conversion {
            None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X' | 'c') if is_int && self.precision.is_some() => {
                return Err(self.refused());
            }
            None | Some('d' | 'n') if is_int => Number::decimal(to_int(value)?),
            Some(base @ ('b' | 'o' | 'x' | 'X')) if is_int => Number::in_base(to_int(value)?, base, self.alternate),
            Some('c') if is_int && self.sign.is_none() && self.grouping.is_none() => {
                Number { negative: false, prefix: "", digits: character(value)? }
            }
            // What `#` does to decimal points is not here.
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') | None | Some('n') if self.alternate => {
                return Err(self.refused());
            }
            Some(conversion @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                Number::float(to_float(value)?, conversion, self.precision)
            }
            Some('n') => Number::float(to_float(value)?, 'g', self.precision),
            None => Number::shortest(to_float(value)?, self.precision),
            Some(_) => return Err(self.refused()),
        };
        let align = self.align.unwrap_or(if self.zeros { '=' } else { '>' });
        let digits = match (self.grouping, self.conversion) {
            (None, _) => number.digits,
            (Some('_'), Some('b' | 'o' | 'x' | 'X')) => grouped(&number.digits, '_', 4),
            (Some(_), Some('b' | 'o' | 'x' | 'X' | 'n' | 'c')) => return Err(self.refused()),
            // Python groups the zeros that it fills in, too.
            (Some(_), _) if self.fill == '0' && align == '=' => return Err(self.refused()),
            (Some(separator), _) => grouped(&number.digits, separator, 3),
        };
        let number = Number { digits, ..number };
        let sign = number.signed(self.sign.unwrap_or('-'));
        Ok(pad(sign, number.prefix, &number.digits, self.fill, align, self.width))
    }
}

impl Number {
    fn decimal(int: i128) -> Self {
        Self { negative: int < 0, prefix: "", digits: int.unsigned_abs().to_string() }
    }

    fn in_base(int: i128, base: char, alternate: bool) -> Self {
        let size = int.unsigned_abs();
        let (prefix, digits) = match base {
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0o", format!("{size:o}")),
            _ => ("0b", format!("{size:b}")),
        };
        Self { negative: int < 0, prefix: if alternate { prefix } else { "" }, digits }
    }

    fn float(number: f64, conversion: char, precision: Option<usize>) -> Self {
        let precision = precision.unwrap_or(6);
        let negative = number.is_sign_negative() && !number.is_nan();
        let size = number.abs();
        let digits = match conversion.to_ascii_lowercase() {
            '%' if size.is_finite() => format!("{:.precision$}%", size * 100.0),
            '%' => format!("{}%", float_repr(size)),
            _ if !size.is_finite() => float_repr(size),
            'f' => format!("{size:.precision$}"),
            'e' => python_exponent(&format!("{size:.precision$e}")),
            _ => general(size, precision.max(1)),
        };
        let digits = if conversion.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
        Self { negative, prefix: "", digits }
    }

    /// As `str` writes it, with as many digits as asked for.
    fn shortest(number: f64, precision: Option<usize>) -> Self {
        let size = number.abs();
        let digits = match precision {
            Some(precision) if size.is_finite() => {
                let precision = precision.max(1);
                // Unlike `g` it keeps a digit behind the point, for which there must be room.
                let digits = if exponent_of(size, precision) + 2 > i32::try_from(precision).unwrap_or(i32::MAX) {
                    scientific(size, precision)
                } else {
                    general(size, precision)
                };
                if digits.contains(['.', 'e']) { digits } else { digits + ".0" }
            }
            _ => float_repr(size),
        };
        Self { negative: number.is_sign_negative() && !number.is_nan(), prefix: "", digits }
    }

    fn signed(&self, sign: char) -> &'static str {
        match (self.negative, sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        }
    }
}

/// `%d` cuts fractions off.
fn cut_to_int(value: &Value) -> Result<i128, Error> {
    match Type::of(value) {
        Type::Int | Type::Bool => to_int(value),
        Type::Float => float_to_int(to_float(value)?),
        other => Err(type_error(format!("%d format: a real number is required, not {}", other.name()))),
    }
}

/// `int(number)`, as far as an integer can hold it.
pub(super) fn float_to_int(number: f64) -> Result<i128, Error> {
    const LIMIT: f64 = 1.7e38;
    if number.abs() < LIMIT {
        Ok(number.trunc() as i128)
    } else {
        Err(type_error("a number beyond 127 bits, or none, as an integer"))
    }
}

/// A character, by itself or by its code point.
fn character(value: &Value) -> Result<String, Error> {
    let code = value.as_i64().filter(|_| matches!(Type::of(value), Type::Int | Type::Bool));
    let found = match (value.as_str(), code) {
        (Some(text), _) => Some(text.to_owned()).filter(|text| text.chars().count() == 1),
        (None, Some(code)) => u32::try_from(code).ok().and_then(char::from_u32).map(String::from),
        (None, None) => None,
    };
    found.ok_or_else(|| type_error("`c` in a format requires a character or its code point"))
}

/// `text` in `width`: at the left, at the right, in the middle, or (`=`) with the fill between prefix and digits.
fn pad(sign: &str, prefix: &str, digits: &str, fill: char, align: char, width: usize) -> String {
    let missing = width.saturating_sub(sign.len() + prefix.len() + digits.chars().count());
    let (left, inside, right) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    let fill = |count: usize| fill.to_string().repeat(count);
    [&fill(left), sign, prefix, &fill(inside), digits, &fill(right)].concat()
}

/// `1e5` as `1e+05`.
fn python_exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The power of ten of the first of `precision` digits.
fn exponent_of(number: f64, precision: usize) -> i32 {
    let text = format!("{number:.*e}", precision - 1);
    text.rsplit('e').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

/// `%g`
fn general(number: f64, precision: usize) -> String {
    let exponent = exponent_of(number, precision);
    let places = i32::try_from(precision).unwrap_or(i32::MAX) - 1 - exponent;
    match usize::try_from(places) {
        Ok(places) if exponent >= -4 => without_zeros(&format!("{number:.places$}")).to_owned(),
        _ => scientific(number, precision),
    }
}

fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.*e}", precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    python_exponent(&format!("{}e{exponent}", without_zeros(digits)))
}

/// Without the zeros behind the point that say nothing.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Digits up to the point or the exponent in groups from the right: of three, and of four in other bases than ten.
fn grouped(digits: &str, separator: char, size: usize) -> String {
    let is_digit = |c: char| if size == 4 { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
    let whole = digits.find(|c| !is_digit(c)).unwrap_or(digits.len());
    let mut text = String::new();
    for (index, digit) in digits[..whole].chars().enumerate() {
        if index > 0 && (whole - index) % size == 0 {
            text.push(separator);
        }
        text.push(digit);
    }
    text.push_str(&digits[whole..]);
    text
}
