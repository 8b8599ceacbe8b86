//! Jinja2's filters over lists, dicts and other things with items.

use std::cmp::Ordering;

use minijinja::{Error, State, Value, value::Tuple};

use super::{
    arguments::Arguments,
    operators::{add, compare, equal, hashable, item},
    text::write_str,
    value::{Generator, Group, Type, iterate, pairs, type_error, undefined_error},
};

type Filtered = Result<Value, Error>;

pub(super) fn length(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "obj")?;
    arguments.finish(1)?;
    match Type::of(&value) {
        Type::Str => Ok(Value::from(value.as_str().unwrap_or_default().chars().count())),
        Type::Undefined => Ok(Value::from(0)),
        Type::List | Type::Tuple | Type::Dict | Type::Range | Type::View => Ok(Value::from(value.len().unwrap_or(0))),
        other => Err(type_error(format!("object of type {} has no len()", other.name()))),
    }
}

pub(super) fn list(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    iterate(state, &value).map(Value::from)
}

pub(super) fn items(_: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    match Type::of(&value) {
        Type::Undefined => Ok(Generator::value(Vec::new())),
        Type::Dict => Ok(Generator::value(pairs(&value).into_iter().map(pair).collect())),
        _ => Err(type_error("can only get item pairs from a mapping")),
    }
}

fn pair((key, value): (Value, Value)) -> Value {
    Value::from(Tuple::from([key, value]))
}

pub(super) fn first(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "seq")?;
    arguments.finish(1)?;
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Ok(generator.next().unwrap_or_default());
    }
    Ok(iterate(state, &value)?.into_iter().next().unwrap_or_default())
}

pub(super) fn last(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "seq")?;
    arguments.finish(1)?;
    if Type::of(&value) == Type::Iterator {
        return Err(type_error("a generator is not reversible"));
    }
    Ok(iterate(state, &value)?.pop().unwrap_or_default())
}

pub(super) fn reverse(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    arguments.finish(1)?;
    if let Some(text) = value.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut items = iterate(state, &value)?;
    items.reverse();
    // `reversed` gives an iterator, except for what can't be reversed, which becomes a list first.
    Ok(if Type::of(&value) == Type::Iterator { Value::from(items) } else { Generator::value(items) })
}

pub(super) fn join(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    let separator = arguments.optional(1, "d").map(|d| super::str_of(&d)).transpose()?.unwrap_or_default();
    let attribute = arguments.optional(2, "attribute");
    arguments.finish(3)?;
    let mut text = String::new();
    for (index, value) in iterate(state, &value)?.into_iter().enumerate() {
        if index > 0 {
            text.push_str(&separator);
        }
        let before = text.len();
        write_str(&reach(value, attribute.as_ref(), None)?, &mut text)?;
        state.consume_fuel((separator.len() + text.len() - before) as u64 / 64)?;
    }
    Ok(Value::from(text))
}

/// `value` at the end of a path like `function.name` or `0.type`; `value` itself where there is no path.
fn reach(value: Value, path: Option<&Value>, default: Option<&Value>) -> Filtered {
    let Some(path) = path.filter(|path| !path.is_none()) else { return Ok(value) };
    let Some(text) = path.as_str() else { return item(&value, path) };
    text.split('.').try_fold(value, |value, part| {
        let digits = !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        let key = if digits { part.parse::<i64>().map(Value::from).ok() } else { None };
        let found = item(&value, &key.unwrap_or_else(|| Value::from(part)))?;
        Ok(match default {
            Some(default) if found.is_undefined() => default.clone(),
            _ => found,
        })
    })
}

/// The items of a filter's value; none where the value counts as false, even if it is a number or None.
fn iterate_if_true(state: &State<'_, '_>, arguments: &Arguments<'_>) -> Result<Option<Vec<Value>>, Error> {
    let value = arguments.required(0, "value")?;
    if value.is_true() { iterate(state, &value).map(Some) } else { Ok(None) }
}

pub(super) fn map(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let Some(items) = iterate_if_true(state, arguments)? else { return Ok(Generator::value(Vec::new())) };
    let named = arguments.named();
    let given = |name: &str| named.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let [_, rest @ ..] = arguments.positional() else { return Err(type_error("`map` needs a value")) };
    let mapped: Result<Vec<Value>, Error> = match rest {
        [] => {
            let attribute = given("attribute").ok_or_else(|| type_error("`map` needs a filter or an attribute"))?;
            let default = given("default");
            items.into_iter().map(|item| reach(item, Some(attribute), default)).collect()
        }
        [name, rest @ ..] => {
            let name = name.as_str().ok_or_else(|| type_error("`map` needs the name of a filter"))?;
            let extra: Vec<Value> = rest.iter().cloned().chain(kwargs(&named)).collect();
            items
                .into_iter()
                .map(|item| {
                    let args: Vec<Value> = std::iter::once(item).chain(extra.iter().cloned()).collect();
                    state.apply_filter(name, &args)
                })
                .collect()
        }
    };
    mapped.map(Generator::value)
}

fn kwargs(named: &[(String, Value)]) -> Option<Value> {
    let kwargs: minijinja::value::Kwargs = named.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    (!named.is_empty()).then(|| kwargs.into())
}

pub(super) fn select(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    filter(state, arguments, Keep::Passing, None)
}

pub(super) fn reject(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    filter(state, arguments, Keep::Failing, None)
}

pub(super) fn selectattr(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let attribute = attribute_argument(arguments)?;
    filter(state, arguments, Keep::Passing, Some(&attribute))
}

pub(super) fn rejectattr(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let attribute = attribute_argument(arguments)?;
    filter(state, arguments, Keep::Failing, Some(&attribute))
}

fn attribute_argument(arguments: &Arguments<'_>) -> Filtered {
    arguments.positional().get(1).cloned().ok_or_else(|| type_error("missing parameter for attribute name"))
}

#[derive(PartialEq)]
enum Keep {
    Passing,
    Failing,
}

fn filter(state: &mut State<'_, '_>, arguments: &Arguments<'_>, keep: Keep, attribute: Option<&Value>) -> Filtered {
    let Some(items) = iterate_if_true(state, arguments)? else { return Ok(Generator::value(Vec::new())) };
    let rest = arguments.positional().get(1 + usize::from(attribute.is_some())..).unwrap_or_default();
    let mut kept = Vec::with_capacity(items.len());
    for item in items {
        let value = reach(item.clone(), attribute, None)?;
        let passes = match rest {
            [] => value.is_true(),
            [name, rest @ ..] => {
                let name = name.as_str().ok_or_else(|| type_error("a test is named by a string"))?;
                let args: Vec<Value> = std::iter::once(value).chain(rest.iter().cloned()).collect();
                state.perform_test(name, &args)?
            }
        };
        if passes == (keep == Keep::Passing) {
            kept.push(item);
        }
    }
    Ok(Generator::value(kept))
}

/// Strings in lower case, unless case counts.
fn fold(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// What a filter sorts by.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    List,
    Single,
}

/// Sorts stably by keys that must be comparable.
fn sort_by_keys(
    state: &State<'_, '_>,
    mut keyed: Vec<(Vec<Value>, Value)>,
    keys: Keys,
    reverse: bool,
) -> Result<Vec<Value>, Error> {
    let length = keyed.len() as u64;
    state.consume_fuel(length * u64::from(64 - length.leading_zeros()))?;
    let mut fault = None;
    keyed.sort_by(|(a, _), (b, _)| {
        for (a, b) in a.iter().zip(b) {
            // Python compares the keys of `sort` as lists, which orders only the first two items that differ.
            if keys == Keys::List && equal(a, b) {
                continue;
            }
            match compare(a, b, 0) {
                Ok(Some(Ordering::Equal)) => {}
                Ok(order) => {
                    let order = order.unwrap_or(Ordering::Equal);
                    return if reverse { order.reverse() } else { order };
                }
                Err(error) => {
                    fault = Some(error);
                    return Ordering::Equal;
                }
            }
        }
        Ordering::Equal
    });
    match fault {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, value)| value).collect()),
    }
}

pub(super) fn sort(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let (reverse, case_sensitive) = (arguments.flag(1, "reverse"), arguments.flag(2, "case_sensitive"));
    let attribute = arguments.optional(3, "attribute");
    arguments.finish(4)?;
    let paths: Vec<Value> = match attribute.as_ref().and_then(Value::as_str) {
        Some(text) => text.split(',').map(Value::from).collect(),
        None => vec![attribute.unwrap_or(Value::from(()))],
    };
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        let keys: Result<Vec<Value>, Error> =
            paths.iter().map(|path| Ok(fold(reach(item.clone(), Some(path), None)?, case_sensitive))).collect();
        keyed.push((keys?, item));
    }
    sort_by_keys(state, keyed, Keys::List, reverse).map(Value::from)
}

/// Pairs in the order of their keys.
pub(super) fn sort_pairs(mut pairs: Vec<(Value, Value)>) -> Result<Vec<(Value, Value)>, Error> {
    let mut fault = None;
    pairs.sort_by(|(a, _), (b, _)| {
        compare(a, b, 0).map(|order| order.unwrap_or(Ordering::Equal)).unwrap_or_else(|error| {
            fault = Some(error);
            Ordering::Equal
        })
    });
    fault.map_or(Ok(pairs), Err)
}

pub(super) fn dictsort(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let value = arguments.required(0, "value")?;
    let case_sensitive = arguments.flag(1, "case_sensitive");
    let by = arguments.optional_string(2, "by")?.unwrap_or_else(|| "key".to_owned());
    let reverse = arguments.flag(3, "reverse");
    arguments.finish(4)?;
    if Type::of(&value) != Type::Dict {
        return Err(type_error(format!("`dictsort` needs a dict, not {}", Type::of(&value).name())));
    }
    if !matches!(by.as_str(), "key" | "value") {
        return Err(type_error("you can only sort by either `key` or `value`"));
    }
    let keyed = pairs(&value).into_iter().map(|(key, value)| {
        let by = if by == "key" { key.clone() } else { value.clone() };
        (vec![fold(by, case_sensitive)], pair((key, value)))
    });
    sort_by_keys(state, keyed.collect(), Keys::Single, reverse).map(Value::from)
}

pub(super) fn unique(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let case_sensitive = arguments.flag(1, "case_sensitive");
    let attribute = arguments.optional(2, "attribute");
    arguments.finish(3)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in items {
        let key = fold(reach(item.clone(), attribute.as_ref(), None)?, case_sensitive);
        hashable(&key)?;
        state.consume_fuel(1 + seen.len() as u64 / 4)?;
        if !seen.iter().any(|known| equal(known, &key)) {
            seen.push(key);
            kept.push(item);
        }
    }
    Ok(Generator::value(kept))
}

pub(super) fn min(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    extreme(state, arguments, Ordering::Less)
}

pub(super) fn max(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    extreme(state, arguments, Ordering::Greater)
}

fn extreme(state: &mut State<'_, '_>, arguments: &Arguments<'_>, wanted: Ordering) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let case_sensitive = arguments.flag(1, "case_sensitive");
    let attribute = arguments.optional(2, "attribute");
    arguments.finish(3)?;
    let mut best: Option<(Value, Value)> = None;
    for item in items {
        let key = fold(reach(item.clone(), attribute.as_ref(), None)?, case_sensitive);
        match &best {
            Some((best_key, _)) if compare(&key, best_key, 0)? != Some(wanted) => {}
            _ => best = Some((key, item)),
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

pub(super) fn sum(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "iterable")?)?;
    let attribute = arguments.optional(1, "attribute");
    let start = arguments.optional(2, "start").unwrap_or_else(|| Value::from(0));
    arguments.finish(3)?;
    if start.as_str().is_some() {
        return Err(type_error("sum() can't sum strings"));
    }
    items.into_iter().try_fold(start, |total, item| add(state, &total, &reach(item, attribute.as_ref(), None)?))
}

pub(super) fn groupby(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let attribute = arguments.required(1, "attribute")?;
    let default = arguments.optional(2, "default").filter(|value| !value.is_none());
    let case_sensitive = arguments.flag(3, "case_sensitive");
    arguments.finish(4)?;
    let key = |item: &Value| reach(item.clone(), Some(&attribute), default.as_ref());
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        keyed.push((vec![fold(key(&item)?, case_sensitive)], item));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sort_by_keys(state, keyed, Keys::Single, false)? {
        let folded = fold(key(&item)?, case_sensitive);
        match groups.last_mut() {
            Some((last, members)) if equal(last, &folded) => members.push(item),
            _ => groups.push((folded, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(_, members)| {
        let key = key(&members[0])?;
        Ok(Value::from_object(Group { grouper: key, list: Value::from(members) }))
    });
    groups.collect::<Result<Vec<Value>, Error>>().map(Value::from)
}

pub(super) fn batch(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let count = positive(arguments.optional_int(1, "linecount")?)?;
    let fill = arguments.optional(2, "fill_with").filter(|value| !value.is_none());
    arguments.finish(3)?;
    let batches = items.chunks(count).map(|chunk| {
        let mut batch = chunk.to_vec();
        if let Some(fill) = &fill {
            state.consume_fuel((count - batch.len()) as u64 / 4)?;
            batch.resize(count, fill.clone());
        }
        Ok(Value::from(batch))
    });
    batches.collect::<Result<Vec<Value>, Error>>().map(Generator::value)
}

pub(super) fn slice(state: &mut State<'_, '_>, arguments: &Arguments<'_>) -> Filtered {
    let items = iterate(state, &arguments.required(0, "value")?)?;
    let count = positive(arguments.optional_int(1, "slices")?)?;
    let fill = arguments.optional(2, "fill_with").filter(|value| !value.is_none());
    arguments.finish(3)?;
    state.consume_fuel(count as u64)?;
    let (each, extra) = (items.len() / count, items.len() % count);
    let mut start = 0;
    let mut slices = Vec::with_capacity(count);
    for index in 0..count {
        let end = start + each + usize::from(index < extra);
        let mut part = items[start..end].to_vec();
        if let Some(fill) = &fill
            && index >= extra
        {
            part.push(fill.clone());
        }
        slices.push(Value::from(part));
        start = end;
    }
    Ok(Generator::value(slices))
}

fn positive(count: Option<i64>) -> Result<usize, Error> {
    let count = count.ok_or_else(|| undefined_error("the number of parts is missing"))?;
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=1_000_000).contains(count))
        .ok_or_else(|| type_error(format!("can't make {count} parts")))
}
