//! Methods of `str`.

use std::borrow::Cow;

use minijinja::{Error, State, Value, value::Tuple};

use super::{
    arguments::Arguments,
    format::{str_format, str_format_map},
    text::is_printable,
    value::{Type, iterate, type_error},
};
use crate::jinja::lexer::is_space;

/// Calls one of the methods that [`super::methods`] lists.
pub(super) fn call_string_method(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    if let Some(answer) = ask(text, name) {
        arguments.finish(0)?;
        return Ok(Value::from(answer));
    }
    if let Some(changed) = change_case(text, name) {
        arguments.finish(0)?;
        return Ok(Value::from(changed));
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let characters = arguments.optional_string(0, "chars")?;
            arguments.finish(1)?;
            let ends = (name != "rstrip", name != "lstrip");
            Ok(Value::from(strip(text, characters.as_deref(), ends)))
        }
        "startswith" | "endswith" => {
            let part = slice_of(text, arguments)?;
            let affixes = match arguments.required(0, "prefix")? {
                affixes if Type::of(&affixes) == Type::Tuple => iterate(state, &affixes)?,
                affix => vec![affix],
            };
            arguments.finish(3)?;
            for affix in affixes {
                let affix = affix.as_str().ok_or_else(|| {
                    type_error(format!("`{name}` needs str or a tuple of str, not {}", Type::of(&affix).name()))
                })?;
                let is_affix = |(_, part): (i64, &str)| {
                    if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) }
                };
                if part.is_some_and(is_affix) {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "removeprefix" | "removesuffix" => {
            let affix = arguments.string(0, "prefix")?;
            arguments.finish(1)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "replace" => {
            let (old, new) = (arguments.string(0, "old")?, arguments.string(1, "new")?);
            let count = arguments.optional_int(2, "count")?;
            arguments.finish(3)?;
            replace(state, text, &old, &new, count)
        }
        "split" | "rsplit" => {
            let separator = arguments.optional_string(0, "sep")?;
            let most = arguments.optional_int(1, "maxsplit")?;
            arguments.finish(2)?;
            split(text, separator.as_deref(), most, name == "rsplit")
        }
        "splitlines" => {
            let keep_ends = arguments.flag(0, "keepends");
            arguments.finish(1)?;
            Ok(split_lines(text, keep_ends).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let separator = arguments.string(0, "sep")?;
            arguments.finish(1)?;
            if separator.is_empty() {
                return Err(type_error("empty separator"));
            }
            let found = if name == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
            let parts = match found {
                Some((head, tail)) => [head, &separator, tail],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments),
        "join" => {
            let items = iterate(state, &arguments.required(0, "iterable")?)?;
            arguments.finish(1)?;
            let mut joined = String::new();
            for (index, item) in items.iter().enumerate() {
                let item = item.as_str().ok_or_else(|| {
                    type_error(format!("sequence item {index}: expected str instance, {} found", Type::of(item).name()))
                })?;
                if index > 0 {
                    joined.push_str(text);
                }
                state.consume_fuel((text.len() + item.len()) as u64 / 64)?;
                joined.push_str(item);
            }
            Ok(Value::from(joined))
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(state, text, name, arguments),
        "expandtabs" => {
            let width = arguments.optional_int(0, "tabsize")?.unwrap_or(8);
            arguments.finish(1)?;
            expand_tabs(state, text, usize::try_from(width).unwrap_or(0))
        }
        "format" => str_format(state, text, arguments).map(Value::from),
        "format_map" => {
            let mapping = arguments.required(0, "mapping")?;
            arguments.finish(1)?;
            str_format_map(state, text, &mapping).map(Value::from)
        }
        _ => Err(type_error(format!("`str.{name}` is not supported"))),
    }
}

/// `isdigit` and its like.
fn ask(text: &str, name: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    Some(match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(|character| character.is_numeric() && to_digit(character).is_some()),
        "isdigit" => all(|character| to_digit(character).is_some() || "²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(character)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        "istitle" => is_title(text),
        "isidentifier" => {
            text.chars().next().is_some_and(|first| first == '_' || first.is_alphabetic())
                && text.chars().all(|character| character == '_' || character.is_alphanumeric())
        }
        _ => return None,
    })
}

/// Text with the decimal digits of all scripts as ASCII has them, as `int` and `float` read it.
pub(super) fn with_ascii_digits(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let ascii = |letter| to_digit(letter).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(letter);
    Cow::Owned(text.chars().map(ascii).collect())
}

/// The value of a decimal digit of any script. Unicode keeps each script's ten digits together, starting at zero.
fn to_digit(character: char) -> Option<u32> {
    const ZEROS: [u32; 16] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xff10,
    ];
    let code = u32::from(character);
    ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)).map(|zero| code - zero)
}

fn is_title(text: &str) -> bool {
    let (mut cased, mut after_cased) = (false, false);
    for character in text.chars() {
        if character.is_uppercase() {
            if after_cased {
                return false;
            }
            (cased, after_cased) = (true, true);
        } else if character.is_lowercase() {
            if !after_cased {
                return false;
            }
            cased = true;
        } else {
            after_cased = false;
        }
    }
    cased
}

fn change_case(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "lower" => text.to_lowercase(),
        "upper" => text.to_uppercase(),
        // Full case folding differs from lower case for a few letters only, of which `ß` is the one people write.
        "casefold" => text.to_lowercase().replace('ß', "ss"),
        "capitalize" => capitalize(text),
        "swapcase" => text
            .chars()
            .flat_map(|character| -> Box<dyn Iterator<Item = char>> {
                if character.is_uppercase() {
                    Box::new(character.to_lowercase())
                } else {
                    Box::new(character.to_uppercase())
                }
            })
            .collect(),
        "title" => {
            let mut title = String::with_capacity(text.len());
            let mut after_letter = false;
            for character in text.chars() {
                if after_letter {
                    title.extend(character.to_lowercase())
                } else {
                    title.extend(to_title(character))
                }
                after_letter = character.is_lowercase() || character.is_uppercase();
            }
            title
        }
        _ => return None,
    })
}

/// `str.capitalize`
pub(super) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| to_title(first).chain(characters.as_str().to_lowercase().chars()).collect())
}

/// A letter at the start of a word: of the letters that its upper case may have, only the first is large (`ß`, `Ss`).
/// Digraphs have a letter for it.
fn to_title(letter: char) -> impl Iterator<Item = char> {
    let letter = match letter {
        'Ǆ' | 'ǆ' => 'ǅ',
        'Ǉ' | 'ǉ' => 'ǈ',
        'Ǌ' | 'ǌ' => 'ǋ',
        'Ǳ' | 'ǳ' => 'ǲ',
        other => other,
    };
    let is_title = matches!(letter, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
    let upper: Vec<char> = if is_title { vec![letter] } else { letter.to_uppercase().collect() };
    let mut upper = upper.into_iter();
    upper.next().into_iter().chain(upper.flat_map(char::to_lowercase))
}

/// `str.strip` at the ends asked for: (start, end).
pub(super) fn strip<'a>(text: &'a str, characters: Option<&str>, ends: (bool, bool)) -> &'a str {
    let goes = |character: char| characters.map_or_else(|| is_space(character), |set| set.contains(character));
    let text = if ends.0 { text.trim_start_matches(goes) } else { text };
    if ends.1 { text.trim_end_matches(goes) } else { text }
}

/// `str.replace`
pub(super) fn replace(
    state: &State<'_, '_>,
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
) -> Result<Value, Error> {
    let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let matches = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let grown = matches.min(most).saturating_mul(new.len()) / 64;
    state.consume_fuel(u64::try_from(grown).unwrap_or(u64::MAX))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// `str.split` and `str.rsplit`.
pub(super) fn split(text: &str, separator: Option<&str>, most: Option<i64>, from_right: bool) -> Result<Value, Error> {
    let most = most.and_then(|most| usize::try_from(most).ok());
    let Some(separator) = separator else {
        return Ok(split_words(text, most, from_right).into_iter().map(Value::from).collect());
    };
    if separator.is_empty() {
        return Err(type_error("empty separator"));
    }
    let parts: Vec<&str> = match (most, from_right) {
        (None, _) => text.split(separator).collect(),
        (Some(most), false) => text.splitn(most.saturating_add(1), separator).collect(),
        (Some(most), true) => {
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_words(text: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, (!from_right, from_right));
    while !rest.is_empty() {
        let space = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = space.filter(|_| most.is_none_or(|most| words.len() < most)) else {
            words.push(strip(rest, None, (from_right && most.is_none(), !from_right && most.is_none())));
            break;
        };
        if from_right {
            let end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
            words.push(&rest[end..]);
            rest = strip(&rest[..at], None, (false, true));
        } else {
            words.push(&rest[..at]);
            rest = strip(&rest[at..], None, (true, false));
        }
    }
    if from_right {
        words.reverse();
    }
    words
}

/// `str.splitlines`
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(if keep_ends { &rest[..at + length] } else { &rest[..at] });
        rest = &rest[at + length..];
    }
    lines
}

/// The part between the second and the third argument, which count characters, and where it starts; `None` where it
/// starts beyond the end of the text, or ends before it starts.
fn slice_of<'a>(text: &'a str, arguments: &Arguments<'_>) -> Result<Option<(i64, &'a str)>, Error> {
    let (start, end) = (arguments.optional_int(1, "start")?, arguments.optional_int(2, "end")?);
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text)));
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let from_start = |bound: i64| if bound < 0 { bound.saturating_add(length).max(0) } else { bound };
    let (start, end) = (from_start(start.unwrap_or(0)), from_start(end.unwrap_or(length)).min(length));
    let byte = |index: i64| {
        let index = usize::try_from(index).unwrap_or(0);
        text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
    };
    Ok((start <= end).then(|| (start, &text[byte(start)..byte(end)])))
}

fn search(text: &str, name: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let wanted = arguments.string(0, "sub")?;
    let slice = slice_of(text, arguments)?;
    arguments.finish(3)?;
    if name == "count" {
        let count =
            |part: &str| if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() };
        return Ok(Value::from(slice.map_or(0, |(_, part)| count(part))));
    }
    let found = slice.and_then(|(start, part)| {
        let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) }?;
        Some(start + i64::try_from(part[..at].chars().count()).ok()?)
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(type_error("substring not found")),
    }
}

fn pad(state: &State<'_, '_>, text: &str, name: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let width = arguments.optional_int(0, "width")?.ok_or_else(|| type_error(format!("`{name}` needs a width")))?;
    let fill = if name == "zfill" { None } else { arguments.optional_string(1, "fillchar")? };
    arguments.finish(2)?;
    let fill = fill.unwrap_or_else(|| if name == "zfill" { "0" } else { " " }.to_owned());
    if fill.chars().count() != 1 {
        return Err(type_error("the fill character must be exactly one character long"));
    }
    let length = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    state.consume_fuel(missing as u64 / 64)?;
    let (left, right) = match name {
        "ljust" => (0, missing),
        "center" => center_split(missing, usize::try_from(width).unwrap_or(0)),
        _ => (missing, 0),
    };
    let sign = text.starts_with(['+', '-']) && name == "zfill";
    let (head, tail) = text.split_at(usize::from(sign));
    Ok(Value::from([head, &fill.repeat(left), tail, &fill.repeat(right)].concat()))
}

/// How CPython shares out what `str.center` adds.
pub(super) fn center_split(missing: usize, width: usize) -> (usize, usize) {
    let left = missing / 2 + (missing & width & 1);
    (left, missing - left)
}

fn expand_tabs(state: &State<'_, '_>, text: &str, width: usize) -> Result<Value, Error> {
    state.consume_fuel((text.matches('\t').count().saturating_mul(width) / 64) as u64)?;
    let mut expanded = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if width == 0 => {}
            '\t' => {
                let spaces = width - column % width;
                expanded.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            _ => {
                expanded.push(character);
                column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::from(expanded))
}
