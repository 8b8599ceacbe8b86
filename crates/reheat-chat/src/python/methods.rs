//! Which type has which method, as far as the immutable sandbox lets a template call it.

use minijinja::{Error, ErrorKind, State, Value};

use super::{
    arguments::Arguments,
    globals::dict_from_keys,
    operators::{equal, hashable},
    strings::call_string_method,
    value::{BoundMethod, Type, View, ViewKind, iterate, type_error},
};

const DICT: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const TUPLE: [&str; 2] = ["count", "index"];

/// Methods that change their object, which the sandbox forbids.
const CHANGING: [&str; 11] =
    ["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"];

/// Whether any type has a method of this name.
pub(crate) fn is_method_name(name: &str) -> bool {
    STR.contains(&name) || DICT.contains(&name) || LIST.contains(&name)
}

fn changes_its_object(value: &Value, name: &str) -> bool {
    matches!(Type::of(value), Type::Dict | Type::List) && CHANGING.contains(&name)
}

fn has_method(value: &Value, name: &str) -> bool {
    match Type::of(value) {
        Type::Str => STR.contains(&name),
        Type::Dict => DICT.contains(&name),
        Type::List => LIST.contains(&name),
        Type::Tuple | Type::Range => TUPLE.contains(&name),
        _ => false,
    }
}

/// The method itself, as an attribute gives it.
pub(super) fn bound_method(value: &Value, name: &str) -> Option<Value> {
    has_method(value, name).then(|| {
        // The sandbox has none of those that change their object.
        if changes_its_object(value, name) {
            return Value::UNDEFINED;
        }
        Value::from_object(BoundMethod { object: value.clone(), name: name.to_owned() })
    })
}

/// Calls a method that MiniJinja doesn't know, which is each of Python's.
pub(crate) fn call_method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if !has_method(value, name) {
        return match Type::of(value) {
            // What a namespace or a dict holds may be callable.
            Type::Dict | Type::Namespace | Type::Object => Err(Error::from(ErrorKind::UnknownMethod)),
            other => Err(Error::new(
                ErrorKind::UndefinedError,
                format!("`{}` object has no attribute `{name}`", other.name()),
            )),
        };
    }
    let ty = Type::of(value);
    if changes_its_object(value, name) {
        return Err(type_error(format!("`{}.{name}` changes its object, which a template may not", ty.name())));
    }
    if value.is_safe() && matches!(name, "format" | "format_map" | "join") {
        return Err(type_error(format!("`{name}` of a string that is marked as safe is not supported")));
    }
    let arguments = Arguments::new(name, args);
    match ty {
        Type::Str => call_string_method(state, value.as_str().unwrap_or_default(), name, &arguments),
        Type::Dict => call_dict_method(state, value, name, &arguments),
        _ => call_sequence_method(state, value, name, &arguments),
    }
}

fn call_dict_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    let dict = value.as_object().ok_or_else(|| type_error("not a dict"))?;
    let view = |kind| {
        arguments.finish(0)?;
        Ok(Value::from_object(View { kind, dict: dict.clone() }))
    };
    match name {
        "keys" => view(ViewKind::Keys),
        "values" => view(ViewKind::Values),
        "items" => view(ViewKind::Items),
        "get" => {
            let key = arguments.required(0, "key")?;
            hashable(&key)?;
            let default = arguments.optional(1, "default").unwrap_or(Value::from(()));
            arguments.finish(2)?;
            Ok(dict.get_value(&key).unwrap_or(default))
        }
        "copy" => {
            arguments.finish(0)?;
            Ok(value.clone())
        }
        "fromkeys" => dict_from_keys(state, arguments),
        _ => Err(type_error(format!("`dict.{name}` is not supported"))),
    }
}

fn call_sequence_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    let items = iterate(state, value)?;
    match name {
        "copy" => {
            arguments.finish(0)?;
            Ok(Value::from(items))
        }
        "count" => {
            let wanted = arguments.required(0, "value")?;
            arguments.finish(1)?;
            Ok(Value::from(items.iter().filter(|item| equal(item, &wanted)).count()))
        }
        "index" => {
            let wanted = arguments.required(0, "value")?;
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let place = |index: i64| {
                let index = if index < 0 { index.saturating_add(length) } else { index };
                usize::try_from(index.clamp(0, length)).unwrap_or(0)
            };
            let start = place(arguments.optional_int(1, "start")?.unwrap_or(0));
            let stop = place(arguments.optional_int(2, "stop")?.unwrap_or(length));
            arguments.finish(3)?;
            let position = items.get(start..stop).and_then(|part| part.iter().position(|item| equal(item, &wanted)));
            position
                .map(|position| Value::from(start + position))
                .ok_or_else(|| type_error("the value is not in the list"))
        }
        _ => Err(type_error(format!("`list.{name}` is not supported"))),
    }
}
