//! Jinja2's tests: `x is defined` and the others.

use minijinja::{Environment, Error, State, Value};

use super::{
    filters::is_filter,
    operators::hashable,
    operators::{compare, equal},
    text::str_of,
    value::{Type, iterate, to_float, to_int, type_error},
};

/// Adds every test that Jinja2 knows, and no other.
pub(crate) fn add_tests(env: &mut Environment<'_>) {
    let of = Type::of;
    env.add_test("defined", |value: &Value| !value.is_undefined());
    env.add_test("undefined", |value: &Value| value.is_undefined());
    env.add_test("none", |value: &Value| value.is_none());
    env.add_test("boolean", move |value: &Value| of(value) == Type::Bool);
    env.add_test("true", move |value: &Value| of(value) == Type::Bool && value.is_true());
    env.add_test("false", move |value: &Value| of(value) == Type::Bool && !value.is_true());
    env.add_test("integer", move |value: &Value| of(value) == Type::Int);
    env.add_test("float", move |value: &Value| of(value) == Type::Float);
    env.add_test("number", move |value: &Value| of(value).is_number());
    env.add_test("string", move |value: &Value| of(value) == Type::Str);
    env.add_test("mapping", move |value: &Value| of(value) == Type::Dict);
    // What has a length and can be indexed. A string and a dict pass, and so does what is undefined.
    env.add_test("sequence", move |value: &Value| {
        matches!(of(value), Type::Str | Type::List | Type::Tuple | Type::Range | Type::Dict | Type::Undefined)
    });
    env.add_test("iterable", move |value: &Value| {
        !matches!(of(value), Type::None | Type::Bool | Type::Int | Type::Float | Type::Namespace | Type::Object)
    });
    // An undefined value can be called too, only to say that it is undefined.
    env.add_test("callable", move |value: &Value| matches!(of(value), Type::Object | Type::Undefined));
    env.add_test("escaped", |value: &Value| value.is_safe());
    env.add_test("lower", |value: &Value| {
        str_of(value).map(|text| is_cased(&text, char::is_lowercase, char::is_uppercase))
    });
    env.add_test("upper", |value: &Value| {
        str_of(value).map(|text| is_cased(&text, char::is_uppercase, char::is_lowercase))
    });
    env.add_test("odd", |value: &Value| remainder(value, 2).map(|rest| rest == 1));
    env.add_test("even", |value: &Value| remainder(value, 2).map(|rest| rest == 0));
    env.add_test("divisibleby", |value: &Value, by: i64| {
        if by == 0 { Err(type_error("modulo by zero")) } else { remainder(value, by).map(|rest| rest == 0) }
    });
    env.add_test("sameas", move |value: &Value, other: &Value| of(value) == of(other) && equal(value, other));
    env.add_test("in", |state: &mut State<'_, '_>, value: &Value, container: &Value| -> Result<bool, Error> {
        match (container.as_str(), value.as_str()) {
            (Some(container), Some(value)) => Ok(container.contains(value)),
            (Some(_), None) => Err(type_error("`in <string>` requires string as left operand")),
            _ => Ok(iterate(state, container)?.iter().any(|item| equal(item, value))),
        }
    });
    env.add_test("filter", |name: &Value| Ok::<_, Error>(hashable(name)?.as_str().is_some_and(is_filter)));
    env.add_test("test", |name: &Value| {
        Ok::<_, Error>(hashable(name)?.as_str().is_some_and(|name| NAMES.contains(&name)))
    });

    for name in ["eq", "equalto", "=="] {
        env.add_test(name, |a: &Value, b: &Value| equal(a, b));
    }
    for name in ["ne", "!="] {
        env.add_test(name, |a: &Value, b: &Value| !equal(a, b));
    }
    for name in ["lt", "lessthan", "<"] {
        env.add_test(name, |a: &Value, b: &Value| {
            compare(a, b, 0).map(|order| order.is_some_and(|order| order.is_lt()))
        });
    }
    for name in ["le", "<="] {
        env.add_test(name, |a: &Value, b: &Value| {
            compare(a, b, 0).map(|order| order.is_some_and(|order| order.is_le()))
        });
    }
    for name in ["gt", "greaterthan", ">"] {
        env.add_test(name, |a: &Value, b: &Value| {
            compare(a, b, 0).map(|order| order.is_some_and(|order| order.is_gt()))
        });
    }
    for name in ["ge", ">="] {
        env.add_test(name, |a: &Value, b: &Value| {
            compare(a, b, 0).map(|order| order.is_some_and(|order| order.is_ge()))
        });
    }
}

const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

fn is_cased(text: &str, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(wanted) && !text.chars().any(other)
}

fn remainder(value: &Value, by: i64) -> Result<i64, Error> {
    match Type::of(value) {
        Type::Int | Type::Bool => {
            let rest = to_int(value)?.rem_euclid(i128::from(by));
            Ok(i64::try_from(rest).unwrap_or_default())
        }
        Type::Float => {
            let rest = to_float(value)?.rem_euclid(by as f64);
            Ok(if rest.fract() == 0.0 { rest as i64 } else { -1 })
        }
        other => Err(type_error(format!("can't divide {}", other.name()))),
    }
}
