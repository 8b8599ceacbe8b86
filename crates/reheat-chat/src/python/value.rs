use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{DynObject, Enumerator, Object, ObjectRepr, Tuple, ValueKind},
};

use super::range::Range;

/// Lists within lists, before a value counts as endless.
pub(crate) const MAX_NESTING: usize = 200;

/// The Python type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Undefined,
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
    Namespace,
    Range,
    /// `dict.keys()`, `dict.values()`, `dict.items()`.
    View,
    /// A generator or another thing that can only be gone through.
    Iterator,
    /// A function, a macro, a bound method, `loop`.
    Object,
}

impl Type {
    pub(super) fn of(value: &Value) -> Self {
        match value.kind() {
            ValueKind::Undefined => Self::Undefined,
            ValueKind::None => Self::None,
            ValueKind::Bool => Self::Bool,
            ValueKind::Number if value.is_integer() => Self::Int,
            ValueKind::Number => Self::Float,
            ValueKind::String => Self::Str,
            ValueKind::Seq if value.is_tuple() || value.downcast_object_ref::<Group>().is_some() => Self::Tuple,
            ValueKind::Seq => Self::List,
            ValueKind::Map if is_namespace(value) => Self::Namespace,
            ValueKind::Map if is_loop(value) => Self::Object,
            ValueKind::Map => Self::Dict,
            ValueKind::Iterable if value.downcast_object_ref::<Range>().is_some() => Self::Range,
            ValueKind::Iterable if value.downcast_object_ref::<View>().is_some() => Self::View,
            ValueKind::Iterable => Self::Iterator,
            _ => Self::Object,
        }
    }

    /// As Python names it in its errors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Undefined => "Undefined",
            Self::None => "NoneType",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Str => "str",
            Self::List => "list",
            Self::Tuple => "tuple",
            Self::Dict => "dict",
            Self::Namespace => "Namespace",
            Self::Range => "range",
            Self::View => "dict view",
            Self::Iterator => "generator",
            Self::Object => "object",
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Float)
    }
}

/// A number as a float; `True` is 1.
pub(super) fn to_float(value: &Value) -> Result<f64, Error> {
    match Type::of(value) {
        Type::Bool => Ok(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()),
    }
}

/// An integer; `True` is 1.
pub(super) fn to_int(value: &Value) -> Result<i128, Error> {
    match Type::of(value) {
        Type::Bool => Ok(i128::from(value.is_true())),
        _ => i128::try_from(value.clone()),
    }
}

/// MiniJinja keeps its namespace type to itself; only its name tells it from a dict.
fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// `loop` in a `for`, which MiniJinja keeps to itself too.
pub(super) fn is_loop(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Loop"))
}

/// An error in the template's doing, as Python's `TypeError` and `ValueError`.
pub(super) fn type_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// An error of reaching into something that isn't there, as Jinja2's `UndefinedError`.
pub(super) fn undefined_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::UndefinedError, message.into())
}

/// The items of `value`, which are paid for.
pub(super) fn iterate(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    match Type::of(value) {
        Type::Undefined => Ok(Vec::new()),
        Type::None | Type::Bool | Type::Int | Type::Float | Type::Namespace | Type::Object => {
            Err(type_error(format!("`{}` object is not iterable", Type::of(value).name())))
        }
        Type::Dict if !is_enumerable(value) => Err(type_error("this object is not iterable")),
        _ => {
            let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            state.consume_fuel(items.len() as u64)?;
            Ok(items)
        }
    }
}

fn is_enumerable(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.try_iter().is_some())
}

/// Pairs of a dict in its order.
pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(DynObject::try_iter_pairs).map(Iterator::collect).unwrap_or_default()
}

/// Fails where `value` nests too deep to print, compare or drop without fear for the stack.
pub(super) fn check_nesting(value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_NESTING {
        return Err(type_error(format!("a value nests more than {MAX_NESTING} deep")));
    }
    match Type::of(value) {
        Type::Dict | Type::Namespace => pairs(value).iter().try_for_each(|(_, value)| check_nesting(value, depth + 1)),
        Type::List | Type::Tuple => value.try_iter()?.try_for_each(|item| check_nesting(&item, depth + 1)),
        Type::View => match value.downcast_object_ref::<View>() {
            Some(view) => check_nesting(&Value::from_dyn_object(view.dict.clone()), depth + 1),
            None => Ok(()),
        },
        Type::Iterator => match value.downcast_object_ref::<Generator>() {
            Some(generator) => generator.lock().iter().try_for_each(|item| check_nesting(item, depth + 1)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a namespace is somewhere in `value`, as far as values may nest.
pub(super) fn holds_namespace(value: &Value, depth: usize) -> bool {
    let ty = Type::of(value);
    ty == Type::Namespace
        || (depth <= MAX_NESTING
            && match ty {
                Type::Dict => pairs(value).iter().any(|(_, value)| holds_namespace(value, depth + 1)),
                Type::List | Type::Tuple => {
                    value.try_iter().is_ok_and(|mut items| items.any(|item| holds_namespace(&item, depth + 1)))
                }
                _ => false,
            })
}

/// Which part of a dict a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewKind {
    Keys,
    Values,
    Items,
}

/// What `dict.keys()` and its like give.
#[derive(Debug)]
pub(super) struct View {
    pub(super) kind: ViewKind,
    pub(super) dict: DynObject,
}

impl View {
    fn items(&self) -> Vec<Value> {
        let pairs = self.dict.try_iter_pairs().into_iter().flatten();
        match self.kind {
            ViewKind::Keys => pairs.map(|(key, _)| key).collect(),
            ViewKind::Values => pairs.map(|(_, value)| value).collect(),
            ViewKind::Items => pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))).collect(),
        }
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.dict.enumerator_len()
    }
}

/// A group of `groupby`: a pair whose parts have names.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) grouper: Value,
    pub(super) list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (None, Some(0)) => Some(self.grouper.clone()),
            (Some("list"), _) | (None, Some(1)) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// What Python's lazy filters give: items that can be gone through once.
#[derive(Debug)]
pub(super) struct Generator {
    items: Mutex<Vec<Value>>,
}

impl Generator {
    pub(super) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self { items: Mutex::new(items) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Value>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first item.
    pub(super) fn next(&self) -> Option<Value> {
        let mut items = self.lock();
        if items.is_empty() { None } else { Some(items.remove(0)) }
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(std::mem::take(&mut *self.lock()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// A method taken from its object without being called: true, defined, and nothing else.
#[derive(Debug)]
pub(super) struct BoundMethod {
    pub(super) object: Value,
    pub(super) name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.object.call_method(state, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of {} object>", self.name, Type::of(&self.object).name())
    }
}
