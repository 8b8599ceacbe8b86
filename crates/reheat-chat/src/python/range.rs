//! `range(…)`: a sequence that is counted and never stored.

use std::sync::Arc;

use minijinja::{
    Error, Value,
    value::{Enumerator, Object, ObjectRepr},
};

use super::value::type_error;

/// `range(start, stop, step)`; the step is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
}

impl Range {
    pub(super) fn len(&self) -> u64 {
        let (start, stop) = (i128::from(self.start), i128::from(self.stop));
        let distance = if self.step > 0 { stop - start } else { start - stop };
        let length = distance.max(0).unsigned_abs().div_ceil(u128::from(self.step.unsigned_abs()));
        u64::try_from(length).unwrap_or(u64::MAX)
    }

    /// The item at `index`, which is below the length.
    fn at(&self, index: u64) -> Value {
        let item = i128::from(self.start) + i128::from(index) * i128::from(self.step);
        super::operators::int(item)
    }

    /// The item at an index that counts from the end where it is negative.
    pub(super) fn item(&self, index: i128) -> Option<Value> {
        let length = i128::from(self.len());
        let index = if index < 0 { index + length } else { index };
        u64::try_from(index).ok().filter(|index| *index < self.len()).map(|index| self.at(index))
    }

    /// `range[start:stop:step]`, bounds already within the length.
    pub(super) fn slice(&self, start: i64, stop: i64, step: i64) -> Result<Self, Error> {
        let place = |index: i64| index.checked_mul(self.step)?.checked_add(self.start);
        let parts = (place(start), place(stop), self.step.checked_mul(step));
        match parts {
            (Some(start), Some(stop), Some(step)) => Ok(Self { start, stop, step }),
            _ => Err(type_error("a range beyond 64 bits")),
        }
    }
}

impl Object for Range {
    /// Not a sequence to the engine, which would find it equal to a list.
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some("start") => Some(Value::from(self.start)),
            Some("stop") => Some(Value::from(self.stop)),
            Some("step") => Some(Value::from(self.step)),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let range = **self;
        Enumerator::Iter(Box::new((0..range.len()).map(move |index| range.at(index))))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        usize::try_from(self.len()).ok()
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.len() > 0
    }
}
