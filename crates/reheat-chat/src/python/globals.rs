//! Jinja2's global names: `range`, `dict`, `namespace`, `cycler`, `joiner`, `lipsum`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Object, ObjectRepr, Rest, ValueOrKwargs},
};

use super::{
    arguments::Arguments,
    operators::hashable,
    range::Range,
    value::{Type, iterate, pairs, to_int, type_error},
};

/// Adds all of them.
pub(crate) fn add_globals(env: &mut Environment<'_>) {
    env.add_function("range", |state: &State<'_, '_>, args: Rest<ValueOrKwargs>| range(state, &args.into_values()));
    env.add_global("dict", Value::from_object(DictType));
    env.add_function("namespace", |state: &State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let pairs = dict_pairs(state, "namespace", &args.into_values())?;
        if let Some((name, _)) = pairs.iter().find(|(name, _)| name.as_str().is_none_or(|name| name.starts_with('_'))) {
            return Err(type_error(format!("a namespace can't have the attribute `{name}`")));
        }
        minijinja::functions::namespace(Some(ValueOrKwargs::from(Value::from_pairs(pairs))))
    });
    env.add_function("cycler", |items: Rest<Value>| {
        Value::from_object(Cycler { items: items.to_vec(), position: AtomicUsize::new(0) })
    });
    env.add_function("joiner", |separator: Option<Value>| {
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        Value::from_object(Joiner { separator, used: AtomicUsize::new(0) })
    });
    env.add_function("lipsum", |_: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        Err(type_error("`lipsum` gives another text each time and is not supported"))
    });
}

/// `range`, with the sandbox's limit on its length.
fn range(state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    const MAX_RANGE: u64 = 100_000;
    let numbers = args.iter().map(|value| match Type::of(value) {
        Type::Int | Type::Bool => i64::try_from(to_int(value)?).map_err(|_| type_error("a range beyond 64 bits")),
        _ => Err(type_error("`range` needs integers")),
    });
    let range = match numbers.collect::<Result<Vec<i64>, Error>>()?.as_slice() {
        [stop] => Range { start: 0, stop: *stop, step: 1 },
        [start, stop] => Range { start: *start, stop: *stop, step: 1 },
        [start, stop, step] if *step != 0 => Range { start: *start, stop: *stop, step: *step },
        _ => return Err(type_error("`range` needs one to three integers, the step not 0")),
    };
    if range.len() > MAX_RANGE {
        return Err(type_error(format!("range too big, the sandbox allows {MAX_RANGE} items")));
    }
    state.consume_fuel(range.len() / 4)?;
    Ok(Value::from_object(range))
}

/// The pairs that `dict(…)` makes a dict of: those of a dict or a list of pairs, then the named ones.
fn dict_pairs(state: &State<'_, '_>, callee: &str, args: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    let arguments = Arguments::new(callee, args);
    let mut made = match arguments.positional() {
        [] => Vec::new(),
        [given] if Type::of(given) == Type::Dict => pairs(given),
        [given] => {
            let pair = |item: &Value| match <[Value; 2]>::try_from(iterate(state, item)?) {
                Ok([key, value]) => Ok((hashable(&key)?.clone(), value)),
                Err(items) => Err(type_error(format!("`{callee}` needs pairs, not {} items", items.len()))),
            };
            iterate(state, given)?.iter().map(pair).collect::<Result<_, Error>>()?
        }
        given => return Err(type_error(format!("`{callee}` takes at most 1 arguments, {} given", given.len()))),
    };
    made.extend(arguments.named().into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(made)
}

/// `dict.fromkeys(keys, value)`.
pub(super) fn dict_from_keys(state: &State<'_, '_>, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let keys = iterate(state, &arguments.required(0, "iterable")?)?;
    let value = arguments.optional(1, "value").unwrap_or(Value::from(()));
    arguments.finish(2)?;
    let pairs = keys.into_iter().map(|key| Ok((hashable(&key)?.clone(), value.clone())));
    pairs.collect::<Result<Vec<_>, Error>>().map(Value::from_pairs)
}

/// `dict`, which is called, or asked for `fromkeys`.
#[derive(Debug)]
struct DictType;

impl Object for DictType {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        dict_pairs(state, "dict", args).map(Value::from_pairs)
    }

    fn call_method(self: &Arc<Self>, state: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "fromkeys" => dict_from_keys(state, &Arguments::new(method, args)),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `cycler(…)`, which gives its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    position: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        let position = self.position.load(Ordering::Relaxed);
        self.items.get(position % self.items.len().max(1)).cloned().unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, _: &[Value]) -> Result<Value, Error> {
        match method {
            "next" => {
                let current = self.current();
                self.position.fetch_add(1, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.position.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `joiner(…)`, which gives its separator from the second call on.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let first = self.used.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if first { Value::from("") } else { self.separator.clone() })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<joiner>")
    }
}
