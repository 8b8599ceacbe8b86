//! Decoders of Polars kept from panicking: on some damaged files they do, where they should return an error.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

use polars_error::PolarsResult;

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is about to be caught and made an error. A panic hook does well to keep quiet then.
#[must_use]
pub fn panic_is_expected() -> bool {
    EXPECTED.get()
}

/// Runs a decoder; `panicked` is what a panic in it means. Gives the reason on one line.
pub(super) fn guarded<T>(panicked: &str, read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    let outer = EXPECTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    EXPECTED.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().replace('\n', " ")),
        Err(_) => Err(panicked.to_owned()),
    }
}
