//! Settings of the allocator.

use std::ffi::{c_int, c_long};

use libmimalloc_sys::mi_option_set;

/// `mi_option_allow_large_os_pages` of mimalloc 2 and 3 (`mi_option_e` in `mimalloc.h`).
const ALLOW_LARGE_OS_PAGES: c_int = 6;
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: c_int = 15;
/// Never return freed pages.
const NEVER: c_long = -1;

/// Lets mimalloc keep freed pages instead of returning them to the system, and ask for large ones.
///
/// A training step frees and takes the same gigabytes over and over; page faults cost more than the work on them.
/// Has an effect only in a program whose global allocator is mimalloc. Call it first thing in `main`.
pub fn keep_pages() {
    // SAFETY: setting an option is a store into mimalloc's own table, valid at any time and from any thread.
    unsafe {
        mi_option_set(PURGE_DELAY, NEVER);
        mi_option_set(ALLOW_LARGE_OS_PAGES, 1);
    }
}
