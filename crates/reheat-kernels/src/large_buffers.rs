//! Large buffers, end to end in memory.
//!
//! mimalloc gives a buffer of up to 32 MiB a place in a slab of 32 MiB. A weight of 17 MB leaves the rest of its slab to
//! smaller buffers, and what a training step touches there once stays resident for good: a twelfth of the memory of full
//! fine-tuning. Here a large buffer takes the smallest hole that holds it, and freed neighbours become one hole.
//! Pages are kept, as [`keep_pages`](crate::keep_pages) says of the others.

mod holes; // where a buffer may lie

use std::alloc::{GlobalAlloc, Layout};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use self::holes::Holes;

/// Buffers of at least this many bytes are large. Smaller ones are many, and mimalloc is quicker with them.
const LARGE: usize = 64 << 10;

/// Large buffers begin and end on pages.
const PAGE: usize = 4 << 10;

/// Where huge pages begin.
const HUGE_PAGE: usize = 2 << 20;

/// Addresses that are reserved at a time, in bytes. They become memory when they are written.
const REGION: usize = 64 << 30;

/// An allocator that keeps large buffers close together, and leaves the others to `A`.
///
/// ```
/// use reheat_kernels::LargeBuffers;
///
/// #[global_allocator]
/// static ALLOCATOR: LargeBuffers<std::alloc::System> = LargeBuffers::new(std::alloc::System);
///
/// let large = vec![0.0_f32; 1 << 20];
/// assert!(large.iter().all(|number| *number == 0.0));
/// ```
#[derive(Debug)]
pub struct LargeBuffers<A> {
    others: A,
    regions: Mutex<Vec<Region>>,
}

/// A range of addresses.
#[derive(Debug)]
struct Region {
    /// As a raw pointer: references to all of it would meet those that the buffers' owners have.
    memory: MmapRaw,
    holes: Holes,
    /// From this address on, no byte was ever handed out: they are zero.
    untouched: usize,
}

/// A large buffer that was handed out.
struct Taken {
    start: *mut u8,
    /// Leading bytes that may not be zero.
    used_before: usize,
}

impl<A> LargeBuffers<A> {
    /// One that leaves what is not large to `others`.
    pub const fn new(others: A) -> Self {
        Self { others, regions: Mutex::new(Vec::new()) }
    }

    fn regions(&self) -> MutexGuard<'_, Vec<Region>> {
        // Nothing panics while the lock is held.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a large buffer; `None` where the system reserves no addresses.
    fn take(&self, layout: Layout) -> Option<Taken> {
        let len = layout.size().checked_next_multiple_of(PAGE)?;
        let mut regions = self.regions();
        if let Some(taken) = regions.iter_mut().find_map(|region| region.take(len)) {
            return Some(taken);
        }
        let mut region = Region::reserve(len)?;
        let taken = region.take(len);
        regions.push(region);
        taken
    }

    /// Takes a buffer back; `false` where it is not from here.
    fn put_back(&self, start: *mut u8, layout: Layout) -> bool {
        let mut regions = self.regions();
        match regions.iter_mut().find(|region| region.addresses().contains(&start.addr())) {
            Some(region) => {
                region.holes.put_back(start.addr(), layout.size().next_multiple_of(PAGE));
                true
            }
            None => false,
        }
    }
}

impl Region {
    /// One with room for `len` bytes.
    fn reserve(len: usize) -> Option<Self> {
        let reserved = REGION.max(len.checked_add(HUGE_PAGE)?);
        let memory = MmapRaw::from(MmapOptions::new().len(reserved).no_reserve_swap().map_anon().ok()?);
        // Advice: where there are no huge pages, there are small ones.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut region = Self { memory, holes: Holes::default(), untouched: 0 };
        let Range { start, end } = region.addresses();
        let start = start.next_multiple_of(HUGE_PAGE);
        region.holes.put_back(start, end - start);
        Some(region)
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.memory.as_ptr().addr();
        start..start + self.memory.len()
    }

    fn take(&mut self, len: usize) -> Option<Taken> {
        let address = self.holes.take(len)?;
        let used_before = self.untouched.saturating_sub(address).min(len);
        self.untouched = self.untouched.max(address + len);
        let offset = address - self.addresses().start;
        // The provenance of the pointer is the whole mapping, which is never given up.
        let start = self.memory.as_mut_ptr().wrapping_add(offset);
        Some(Taken { start, used_before })
    }
}

/// Whether a buffer is one of those that are kept together.
fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE
}

// SAFETY: a large buffer is a range of a mapping that is readable, writable, never unmapped, page-aligned, and a hole: no
// other buffer has a byte of it until it is put back. What is not large, or finds no place, is `A`'s; `put_back` knows
// which by its address.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LargeBuffers<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_large(layout).then(|| self.take(layout)).flatten() {
            Some(taken) => taken.start,
            // SAFETY: the caller's promises are passed on.
            None => unsafe { self.others.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(taken) = is_large(layout).then(|| self.take(layout)).flatten() else {
            // SAFETY: the caller's promises are passed on.
            return unsafe { self.others.alloc_zeroed(layout) };
        };
        // SAFETY: the bytes belong to the buffer that was just taken.
        unsafe { taken.start.write_bytes(0, taken.used_before) };
        taken.start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !(is_large(layout) && self.put_back(start, layout)) {
            // SAFETY: the buffer is not from here, so that it is from there.
            unsafe { self.others.dealloc(start, layout) }
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size is valid for this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if !is_large(layout) && !is_large(new_layout) {
            // SAFETY: the buffer is from there, and the caller's promises are passed on.
            return unsafe { self.others.realloc(start, layout, new_size) };
        }
        // SAFETY: both buffers are valid for the smaller of the sizes, and they are not the same; the old one is given back
        // with the layout that it was taken with.
        unsafe {
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(start, layout.size().min(new_size));
                self.dealloc(start, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    /// Fills a buffer and gives it back.
    fn use_once(allocator: &LargeBuffers<System>, size: usize) -> usize {
        // SAFETY: the buffer is written within its size and given back with its layout.
        unsafe {
            let start = allocator.alloc(layout(size));
            start.write_bytes(7, size);
            allocator.dealloc(start, layout(size));
            start.addr()
        }
    }

    #[test]
    fn freed_memory_is_used_again_and_zeros_are_zeros() {
        let allocator = LargeBuffers::new(System);
        let first = use_once(&allocator, 3 * LARGE);
        assert_eq!(use_once(&allocator, LARGE), first);
        // SAFETY: the buffer is read within its size and given back with its layout.
        unsafe {
            // A part of it was written before, a part never was.
            let zeros = allocator.alloc_zeroed(layout(5 * LARGE));
            assert_eq!(zeros.addr(), first);
            assert!(std::slice::from_raw_parts(zeros, 5 * LARGE).iter().all(|byte| *byte == 0));
            allocator.dealloc(zeros, layout(5 * LARGE));
        }
    }

    #[test]
    fn a_buffer_that_grows_and_shrinks_keeps_its_bytes() {
        let allocator = LargeBuffers::new(System);
        let sizes = [1000, LARGE - 1, LARGE, 9 * LARGE + 5, LARGE + 1, 64];
        // SAFETY: bytes are written and read within the buffer's size, which is that of its layout.
        unsafe {
            let mut start = allocator.alloc(layout(sizes[0]));
            for index in 0..64 {
                start.add(index).write(index as u8);
            }
            for pair in sizes.windows(2) {
                start = allocator.realloc(start, layout(pair[0]), pair[1]);
                assert!((0..64).all(|index| start.add(index).read() == index as u8), "{} bytes", pair[1]);
            }
            allocator.dealloc(start, layout(sizes[sizes.len() - 1]));
        }
    }

    #[test]
    fn threads_take_and_give_back_at_the_same_time() {
        let allocator = LargeBuffers::new(System);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let allocator = &allocator;
                scope.spawn(move || {
                    for round in 0..50 {
                        let size = LARGE * (1 + (thread + round) % 3);
                        // SAFETY: the buffer is written and read within its size, and given back with its layout.
                        unsafe {
                            let start = allocator.alloc(layout(size));
                            start.write_bytes(thread as u8, size);
                            let bytes = std::slice::from_raw_parts(start, size);
                            assert!(bytes.iter().all(|byte| *byte == thread as u8));
                            allocator.dealloc(start, layout(size));
                        }
                    }
                });
            }
        });
        let regions = allocator.regions();
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].holes.len(), 1, "all were given back");
    }
}
