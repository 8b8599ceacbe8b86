//! What expressions are translated to, where MiniJinja's own operators differ from Python's.

use std::cmp::Ordering;

use minijinja::{Environment, Error, ErrorKind, State, Value, value::Tuple};

use super::{
    format::percent,
    markup,
    methods::bound_method,
    range::Range,
    text::write_str,
    value::{
        MAX_NESTING, Type, View, ViewKind, check_nesting, holds_namespace, iterate, to_float, to_int, type_error,
        undefined_error,
    },
};

/// Adds the functions that translated templates call. Their names are no Python names that a template would choose.
pub(crate) fn add_operators(env: &mut Environment<'_>) {
    env.add_function("__attr", attribute);
    env.add_function("__item", item);
    env.add_function("__slice", slice);
    env.add_function("__iter", iter);
    env.add_function("__in", contains);
    env.add_function("__lt", |a: &Value, b: &Value| compare(a, b, 0).map(|order| order == Some(Ordering::Less)));
    env.add_function("__le", |a: &Value, b: &Value| {
        compare(a, b, 0).map(|order| matches!(order, Some(Ordering::Less | Ordering::Equal)))
    });
    env.add_function("__add", add);
    env.add_function("__mul", multiply);
    env.add_function("__mod", modulo);
    env.add_function("__div", divide);
    env.add_function("__pow", power);
    env.add_function("__pos", positive);
    env.add_function("__neg", negative);
    env.add_function("__concat", concatenate);
    env.add_function("__keep", keep);
    env.add_function("__key", |value: &Value| hashable(value).cloned());
    env.add_function("__unsafe", |name: &str| -> Result<Value, Error> {
        Err(type_error(format!("a template can't store the underscore-prefixed `{name}`")))
    });
    env.add_function("__no_other_templates", || -> Result<Value, Error> {
        Err(Error::new(ErrorKind::TemplateNotFound, "a chat template can't load another template"))
    });
    env.add_global("__infinity", Value::from(f64::INFINITY));
}

/// `value.name`, where `name` is the name of some method.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match bound_method(value, name) {
        Some(method) => Ok(method),
        None => lookup(value, &Value::from(name)),
    }
}

/// `value[key]`.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    let found = lookup(value, key)?;
    match key.as_str() {
        // Jinja2 falls back on the attribute: a JSON schema without `items` still has `dict.items`.
        Some(name) if found.is_undefined() => Ok(bound_method(value, name).unwrap_or(found)),
        _ => Ok(found),
    }
}

fn lookup(value: &Value, key: &Value) -> Result<Value, Error> {
    match Type::of(value) {
        Type::Undefined => Err(undefined_error("reaching into something that is not defined")),
        // Only these can be indexed in Python; the rest give an undefined value.
        Type::View | Type::Iterator => Ok(Value::UNDEFINED),
        // MiniJinja would take the float for an index.
        Type::Str | Type::List | Type::Tuple if Type::of(key) == Type::Float => Ok(Value::UNDEFINED),
        Type::Range => Ok(match (value.downcast_object_ref::<Range>(), Type::of(key)) {
            (Some(range), Type::Int | Type::Bool) => range.item(to_int(key)?).unwrap_or_default(),
            _ => value.get_item(key)?,
        }),
        _ => value.get_item(key),
    }
}

/// `value[start:stop:step]`.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let ty = Type::of(value);
    let bound = |bound: &Value| match Type::of(bound) {
        Type::None => Ok(None),
        // Beyond 64 bits it is beyond either end.
        Type::Int | Type::Bool => {
            let bound = to_int(bound).unwrap_or(i128::MAX);
            Ok(Some(bound.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64))
        }
        _ => Err(type_error("slice indices must be integers or None")),
    };
    let indices = |length: usize| -> Result<Vec<usize>, Error> {
        let (mut index, stop, step) = slice_bounds(length, bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1))?;
        let mut indices = Vec::new();
        while (step > 0 && index < stop) || (step < 0 && index > stop) {
            indices.push(usize::try_from(index).map_err(|_| type_error("slice out of range"))?);
            index = index.saturating_add(step);
        }
        Ok(indices)
    };
    match ty {
        Type::Str => {
            let text = value.as_str().unwrap_or_default();
            let characters: Vec<char> = text.chars().collect();
            let indices = indices(characters.len())?;
            Ok(Value::from(indices.into_iter().map(|index| characters[index]).collect::<String>()))
        }
        Type::List | Type::Tuple => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let indices = indices(items.len())?;
            let items: Vec<Value> = indices.into_iter().map(|index| items[index].clone()).collect();
            Ok(if ty == Type::Tuple { Value::from(Tuple::from(items)) } else { Value::from(items) })
        }
        Type::Range => {
            let Some(range) = value.downcast_object_ref::<Range>() else { return Ok(Value::UNDEFINED) };
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let step = bound(step)?.unwrap_or(1);
            let (start, stop, step) = slice_bounds(length, bound(start)?, bound(stop)?, step)?;
            range.slice(start, stop, step).map(Value::from_object)
        }
        Type::Undefined => Err(undefined_error("slicing something that is not defined")),
        _ => Err(type_error(format!("{} object is not subscriptable", ty.name()))),
    }
}

/// `slice(start, stop, step).indices(length)`
fn slice_bounds(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Result<(i64, i64, i64), Error> {
    if step == 0 {
        return Err(type_error("slice step cannot be zero"));
    }
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(length).max(lowest),
        Some(bound) => bound.min(highest),
    };
    Ok(if step > 0 {
        (clamp(start, 0), clamp(stop, length), step)
    } else {
        (clamp(start, length - 1), clamp(stop, -1), step)
    })
}

/// What a `for` goes through.
fn iter(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match Type::of(value) {
        Type::List | Type::Tuple | Type::Dict | Type::Undefined | Type::Range => Ok(value.clone()),
        _ => iterate(state, value).map(Value::from),
    }
}

/// `needle in haystack`.
fn contains(state: &State<'_, '_>, needle: &Value, haystack: &Value) -> Result<bool, Error> {
    match Type::of(haystack) {
        Type::Undefined => Ok(false),
        Type::Str => match needle.as_str() {
            Some(needle) => {
                let haystack = haystack.as_str().unwrap_or_default();
                state.consume_fuel(haystack.len() as u64 / 64)?;
                Ok(haystack.contains(needle))
            }
            None => Err(type_error(format!(
                "`in <string>` requires string as left operand, not {}",
                Type::of(needle).name()
            ))),
        },
        Type::Dict => {
            let needle = hashable(needle)?;
            Ok(haystack.as_object().is_some_and(|dict| dict.get_value(needle).is_some()))
        }
        Type::List | Type::Tuple | Type::Range | Type::View | Type::Iterator => {
            if haystack.downcast_object_ref::<View>().is_some_and(|view| view.kind == ViewKind::Keys) {
                hashable(needle)?;
            }
            Ok(iterate(state, haystack)?.iter().any(|item| equal(item, needle)))
        }
        other => Err(type_error(format!("argument of type `{}` is not iterable", other.name()))),
    }
}

/// A value that can be a key.
pub(super) fn hashable(value: &Value) -> Result<&Value, Error> {
    match Type::of(value) {
        ty @ (Type::List | Type::Dict) => Err(type_error(format!("unhashable type: {}", ty.name()))),
        Type::Tuple => {
            value.try_iter()?.try_for_each(|item| hashable(&item).map(drop))?;
            Ok(value)
        }
        _ => Ok(value),
    }
}

/// `a == b`, where nothing is too deep to look at.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    a == b
}

/// The order of `a` and `b`; `None` where one is not a number.
pub(super) fn compare(a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>, Error> {
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    match (a_type, b_type) {
        _ if a_type.is_number() && b_type.is_number() => {
            let nan = |value: &Value| to_float(value).is_ok_and(f64::is_nan);
            Ok(if nan(a) || nan(b) { None } else { Some(a.cmp(b)) })
        }
        (Type::Str, Type::Str) => Ok(Some(a.as_str().cmp(&b.as_str()))),
        (Type::List, Type::List) | (Type::Tuple, Type::Tuple) if depth < MAX_NESTING => {
            let (mut a_items, mut b_items) = (a.try_iter()?, b.try_iter()?);
            loop {
                match (a_items.next(), b_items.next()) {
                    (None, None) => return Ok(Some(Ordering::Equal)),
                    (None, Some(_)) => return Ok(Some(Ordering::Less)),
                    (Some(_), None) => return Ok(Some(Ordering::Greater)),
                    (Some(a), Some(b)) if equal(&a, &b) => {}
                    (Some(a), Some(b)) => return compare(&a, &b, depth + 1),
                }
            }
        }
        (Type::Undefined, _) | (_, Type::Undefined) => Err(undefined_error("comparing something that is not defined")),
        _ => Err(type_error(format!("`<` is not supported between {} and {}", a_type.name(), b_type.name()))),
    }
}

/// `a + b`, where either may be a list.
pub(super) fn add(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    match (a_type, b_type) {
        (Type::Str, Type::Str) if a.is_safe() || b.is_safe() => Ok(markup::add(a, b)),
        (Type::Str, Type::Str) => Ok(Value::from(join_two(a, b))),
        (Type::List, Type::List) | (Type::Tuple, Type::Tuple) => {
            let length = a.len().unwrap_or(0) + b.len().unwrap_or(0);
            state.consume_fuel(length as u64 / 4)?;
            let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
            Ok(if a_type == Type::Tuple { Value::from(Tuple::from(items)) } else { Value::from(items) })
        }
        (Type::Float, _) | (_, Type::Float) if a_type.is_number() && b_type.is_number() => {
            Ok(Value::from(to_float(a)? + to_float(b)?))
        }
        _ if a_type.is_number() && b_type.is_number() => {
            let sum = to_int(a)?.checked_add(to_int(b)?);
            sum.map(int).ok_or_else(|| type_error("the sum is too large"))
        }
        (Type::Undefined, _) | (_, Type::Undefined) => Err(undefined_error("adding something that is not defined")),
        _ => Err(type_error(format!("can't add {} to {}", b_type.name(), a_type.name()))),
    }
}

fn join_two(a: &Value, b: &Value) -> String {
    [a.as_str().unwrap_or_default(), b.as_str().unwrap_or_default()].concat()
}

pub(super) fn int(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

/// `a * b`, where one may be repeated.
fn multiply(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    let (sequence, count) = match (a_type, b_type) {
        (Type::Str | Type::List | Type::Tuple, Type::Int | Type::Bool) => (a, b),
        (Type::Int | Type::Bool, Type::Str | Type::List | Type::Tuple) => (b, a),
        (Type::Float, _) | (_, Type::Float) if a_type.is_number() && b_type.is_number() => {
            return Ok(Value::from(to_float(a)? * to_float(b)?));
        }
        _ if a_type.is_number() && b_type.is_number() => {
            let product = to_int(a)?.checked_mul(to_int(b)?);
            return product.map(int).ok_or_else(|| type_error("the product is too large"));
        }
        _ => return Err(type_error(format!("can't multiply {} by {}", a_type.name(), b_type.name()))),
    };
    let count = usize::try_from(to_int(count)?.max(0)).unwrap_or(usize::MAX);
    let size = sequence.as_str().map_or_else(|| sequence.len().unwrap_or(0) * 16, str::len);
    state.consume_fuel(u64::try_from(size.saturating_mul(count) / 64).unwrap_or(u64::MAX))?;
    if let Some(text) = sequence.as_str() {
        return Ok(Value::from(text.repeat(count)));
    }
    let items: Vec<Value> = sequence.try_iter()?.collect();
    let items: Vec<Value> = (0..count).flat_map(|_| items.iter().cloned()).collect();
    Ok(if Type::of(sequence) == Type::Tuple { Value::from(Tuple::from(items)) } else { Value::from(items) })
}

/// `a % b`: a remainder, or text that is filled in.
fn modulo(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    if let Some(template) = a.as_str() {
        if a.is_safe() {
            return Err(type_error("`%` on a string that is marked as safe is not supported"));
        }
        let values = if b_type == Type::Tuple { iterate(state, b)? } else { vec![b.clone()] };
        return percent(template, &values, b).map(Value::from);
    }
    if !a_type.is_number() || !b_type.is_number() {
        return Err(type_error(format!("can't divide {} by {}", a_type.name(), b_type.name())));
    }
    if !b.is_true() {
        return Err(type_error("modulo by zero"));
    }
    if a_type == Type::Float || b_type == Type::Float {
        let (a, b) = (to_float(a)?, to_float(b)?);
        let remainder = a % b;
        return Ok(Value::from(if remainder == 0.0 {
            remainder.copysign(b)
        } else if (remainder < 0.0) != (b < 0.0) {
            remainder + b
        } else {
            remainder
        }));
    }
    let (a, b) = (to_int(a)?, to_int(b)?);
    // `wrapping` for the lowest number by -1, which leaves nothing.
    let remainder = a.wrapping_rem(b);
    Ok(int(if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }))
}

/// `a / b`, which is a float.
fn divide(a: &Value, b: &Value) -> Result<Value, Error> {
    /// Integers up to here are floats, too.
    const EXACT: u128 = 1 << 53;
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    if !a_type.is_number() || !b_type.is_number() {
        return Err(type_error(format!("can't divide {} by {}", a_type.name(), b_type.name())));
    }
    if !b.is_true() {
        return Err(type_error("division by zero"));
    }
    // Python rounds the exact quotient, where floats would round three times.
    if a_type != Type::Float && b_type != Type::Float {
        let (a, b) = (to_int(a)?, to_int(b)?);
        if a.unsigned_abs() > EXACT || b.unsigned_abs() > EXACT {
            return Err(type_error("a quotient of integers beyond 53 bits is not supported"));
        }
    }
    Ok(Value::from(to_float(a)? / to_float(b)?))
}

/// `a ** b`
fn power(a: &Value, b: &Value) -> Result<Value, Error> {
    let (a_type, b_type) = (Type::of(a), Type::of(b));
    if !a_type.is_number() || !b_type.is_number() {
        return Err(type_error(format!("can't raise {} to {}", a_type.name(), b_type.name())));
    }
    if a_type != Type::Float && b_type != Type::Float && to_int(b)? >= 0 {
        let power = u32::try_from(to_int(b)?).ok().and_then(|exponent| to_int(a).ok()?.checked_pow(exponent));
        return power.map(int).ok_or_else(|| type_error("the power is beyond 127 bits"));
    }
    let (base, exponent) = (to_float(a)?, to_float(b)?);
    if base == 0.0 && exponent < 0.0 {
        return Err(type_error("0.0 cannot be raised to a negative power"));
    }
    let power = base.powf(exponent);
    if power.is_nan() && !base.is_nan() && !exponent.is_nan() {
        return Err(type_error("complex numbers are not supported"));
    }
    if power.is_infinite() && base.is_finite() && exponent.is_finite() {
        return Err(type_error("the power is beyond what a float can hold"));
    }
    Ok(Value::from(power))
}

fn positive(value: &Value) -> Result<Value, Error> {
    match Type::of(value) {
        Type::Bool => Ok(Value::from(i64::from(value.is_true()))),
        Type::Int | Type::Float => Ok(value.clone()),
        other => Err(type_error(format!("bad operand type for unary +: {}", other.name()))),
    }
}

fn negative(value: &Value) -> Result<Value, Error> {
    match Type::of(value) {
        Type::Bool | Type::Int => {
            let negative = to_int(value)?.checked_neg();
            negative.map(int).ok_or_else(|| type_error("the number is too large to negate"))
        }
        Type::Float => Ok(Value::from(-to_float(value)?)),
        other => Err(type_error(format!("bad operand type for unary -: {}", other.name()))),
    }
}

/// `a ~ b ~ c`.
fn concatenate(args: &[Value]) -> Result<Value, Error> {
    let mut text = String::new();
    for value in args {
        write_str(value, &mut text)?;
    }
    Ok(Value::from(text))
}

/// A value that a variable may hold: one that doesn't nest without end.
///
/// A loop that wraps a list in a list, again and again, costs little fuel and would overflow the stack when the value
/// is dropped.
fn keep(value: &Value, namespace: Option<&Value>) -> Result<Value, Error> {
    match Type::of(value) {
        // Through it the namespace could come to hold itself, which nothing would ever free.
        _ if namespace.is_some() && holds_namespace(value, 0) => {
            Err(type_error("a namespace can't hold another namespace"))
        }
        Type::Dict | Type::List | Type::Tuple | Type::Namespace | Type::View | Type::Iterator => {
            check_nesting(value, 0)?;
            Ok(value.clone())
        }
        _ => Ok(value.clone()),
    }
}
