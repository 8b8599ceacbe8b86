use minijinja::{
    Error, Value,
    value::{Kwargs, ValueKind},
};

use super::value::{Type, type_error};

/// What a filter or a method was called with.
pub(super) struct Arguments<'a> {
    callee: &'a str,
    positional: &'a [Value],
    named: Option<Kwargs>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(callee: &'a str, args: &'a [Value]) -> Self {
        match args.split_last() {
            Some((last, positional)) if last.is_kwargs() => {
                Self { callee, positional, named: Kwargs::try_from(last.clone()).ok() }
            }
            _ => Self { callee, positional: args, named: None },
        }
    }

    pub(super) fn callee(&self) -> &'a str {
        self.callee
    }

    /// All that were given by place.
    pub(super) fn positional(&self) -> &'a [Value] {
        self.positional
    }

    /// All that were given by name.
    pub(super) fn named(&self) -> Vec<(String, Value)> {
        let Some(named) = &self.named else { return Vec::new() };
        named.args().filter_map(|name| Some((name.to_owned(), named.peek::<Value>(name).ok()?))).collect()
    }

    /// The argument of this place or name. One that is undefined counts as given, as in Python.
    pub(super) fn optional(&self, index: usize, name: &str) -> Option<Value> {
        match self.positional.get(index) {
            Some(value) => Some(value.clone()),
            None => {
                let named = self.named.as_ref()?;
                if named.has(name) { named.get::<Value>(name).ok() } else { None }
            }
        }
    }

    pub(super) fn required(&self, index: usize, name: &str) -> Result<Value, Error> {
        self.optional(index, name).ok_or_else(|| type_error(format!("`{}` needs `{name}`", self.callee)))
    }

    pub(super) fn string(&self, index: usize, name: &str) -> Result<String, Error> {
        let value = self.required(index, name)?;
        self.as_string(&value, name)
    }

    pub(super) fn optional_string(&self, index: usize, name: &str) -> Result<Option<String>, Error> {
        match self.optional(index, name) {
            Some(value) if !value.is_none() => self.as_string(&value, name).map(Some),
            _ => Ok(None),
        }
    }

    fn as_string(&self, value: &Value, name: &str) -> Result<String, Error> {
        value.as_str().map(str::to_owned).ok_or_else(|| {
            type_error(format!("`{name}` of `{}` must be str, not {}", self.callee, Type::of(value).name()))
        })
    }

    pub(super) fn optional_int(&self, index: usize, name: &str) -> Result<Option<i64>, Error> {
        match self.optional(index, name) {
            Some(value) if !value.is_none() => match (value.kind(), value.as_i64()) {
                (ValueKind::Bool, _) => Ok(Some(i64::from(value.is_true()))),
                (_, Some(int)) if value.is_integer() => Ok(Some(int)),
                _ => Err(type_error(format!(
                    "`{name}` of `{}` must be int, not {}",
                    self.callee,
                    Type::of(&value).name()
                ))),
            },
            _ => Ok(None),
        }
    }

    pub(super) fn flag(&self, index: usize, name: &str) -> bool {
        self.optional(index, name).is_some_and(|value| value.is_true())
    }

    /// Fails where more was given than was asked for.
    pub(super) fn finish(&self, most: usize) -> Result<(), Error> {
        if self.positional.len() > most {
            let given = self.positional.len();
            return Err(type_error(format!("`{}` takes at most {most} arguments, {given} given", self.callee)));
        }
        match &self.named {
            Some(named) => named.assert_all_used(),
            None => Ok(()),
        }
    }
}
