//! A bound on the memory that a piece of work takes on its thread, for work that cannot be stopped in any other way.
//!
//! A chat template comes with a model from anywhere, and thirty doublings of a string are a gigabyte. The engine that
//! renders it counts instructions and not bytes. So the allocator counts: past the bound the program ends with an error,
//! because an allocation can neither fail nor unwind without taking the program down with a worse one.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

use crate::error::Error;

#[derive(Clone, Copy)]
struct Limit {
    /// Bytes that may still be taken.
    left: isize,
    /// Makes the error.
    error: *const dyn Fn() -> Error,
}

thread_local! {
    static LIMIT: Cell<Option<Limit>> = const { Cell::new(None) };
}

/// Does `work`, which may hold `bytes` of new memory on this thread. With more the program prints `error` and ends, if its
/// allocator is a [`Limited`].
pub fn within<T>(bytes: usize, error: &dyn Fn() -> Error, work: impl FnOnce() -> T) -> T {
    /// Ends the bound, also where `work` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            LIMIT.set(None);
        }
    }
    #[allow(clippy::transmute_ptr_to_ptr)] // a cast cannot forget the lifetime
    // SAFETY: forgets the lifetime only; `End` takes the pointer away before `error` goes.
    let error: *const (dyn Fn() -> Error + 'static) =
        unsafe { std::mem::transmute(ptr::from_ref::<dyn Fn() -> Error + '_>(error)) };
    let _end = End;
    LIMIT.set(Some(Limit { left: bytes.try_into().unwrap_or(isize::MAX), error }));
    work()
}

/// An allocator that heeds [`within`].
#[derive(Debug)]
pub struct Limited<A>(pub A);

fn count(bytes: isize) {
    let Some(limit) = LIMIT.get() else { return };
    let left = limit.left.saturating_sub(bytes);
    if left >= 0 {
        LIMIT.set(Some(Limit { left, ..limit }));
        return;
    }
    // From here on memory can be had again. Nothing of the allocator is in the middle of anything.
    LIMIT.set(None);
    // SAFETY: `within` keeps it alive.
    let error = unsafe { &*limit.error }();
    crate::report::error(&error);
    std::process::exit(i32::from(error.exit_code()));
}

// SAFETY: the allocator inside does the work; counting allocates nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Limited<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { self.0.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { self.0.dealloc(old, layout) }
    }
}
