//! Aligned bounce buffers.
//!
//! A request's payload starts 80 bytes into fuser's read buffer, so no direct write can use it:
//! every write is copied here, and every read lands here. A fixed number of buffers is made and
//! touched beforehand (D7); more are made when more requests are in flight, never waited for, and
//! given back to the system once enough spare ones are kept. The kernel bounds how many: its
//! background limit, plus one for each thread in a synchronous call.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

const SMALL: usize = 64 << 10;
const LARGE: usize = 1 << 20;

struct Memory(NonNull<u8>);

// SAFETY: plain bytes, owned by whoever holds the value.
unsafe impl Send for Memory {}

struct Class {
    size: usize,
    /// Spare buffers kept at most.
    keep: usize,
    spare: Mutex<Vec<Memory>>,
}

/// Where bounce buffers come from and go to.
pub(crate) struct Pool {
    align: usize,
    classes: [Class; 2],
}

/// One buffer; goes back to its pool when dropped.
pub(crate) struct Bounce {
    memory: NonNull<u8>,
    len: usize,
    layout: Layout,
    pool: Arc<Pool>,
}

// SAFETY: the bytes belong to this value alone.
unsafe impl Send for Bounce {}

impl Pool {
    /// A pool whose buffers are aligned to `align` (a power of two) and at least to a page.
    pub(crate) fn new(align: u32) -> Arc<Self> {
        let align = (align as usize).next_power_of_two().max(4096);
        let class = |size, keep| Class { size, keep, spare: Mutex::default() };
        let pool = Arc::new(Self { align, classes: [class(SMALL, 64), class(LARGE, 32)] });
        for (size, count) in [(SMALL, 64), (LARGE, 8)] {
            let mut made: Vec<_> = (0..count).filter_map(|_| pool.take(size)).collect();
            for bounce in &mut made {
                bounce.bytes_mut().fill(1);
            }
        }
        pool
    }

    /// A buffer of `len` bytes with any content; `None` when there is no memory.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<Bounce> {
        let class = self.classes.iter().find(|class| len <= class.size);
        let size = class.map_or(len, |class| class.size);
        let layout = Layout::from_size_align(size, self.align).ok()?;
        let spare = class.and_then(|class| class.lock().pop());
        let memory = match spare {
            Some(memory) => memory.0,
            // SAFETY: the size is not zero: a class's size, or more than the largest class's.
            None => NonNull::new(unsafe { alloc_zeroed(layout) })?,
        };
        Some(Bounce { memory, len, layout, pool: Arc::clone(self) })
    }
}

impl Class {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for class in &self.classes {
            let Ok(layout) = Layout::from_size_align(class.size, self.align) else { continue };
            for memory in class.lock().drain(..) {
                // SAFETY: made by `take` with this very layout, and owned by nobody else.
                unsafe { dealloc(memory.0.as_ptr(), layout) };
            }
        }
    }
}

impl Bounce {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes were allocated, zeroed at first, and are ours.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }

    /// The address, for a request that is alive as long as this value.
    pub(crate) fn ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        let class = self.pool.classes.iter().find(|class| class.size == self.layout.size());
        if let Some(class) = class {
            let mut spare = class.lock();
            if spare.len() < class.keep {
                spare.push(Memory(self.memory));
                return;
            }
        }
        // SAFETY: allocated with this layout in `take`, and owned by this value.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let pool = Pool::new(512);
        let first = pool.take(512).unwrap();
        let address = first.ptr() as usize;
        assert_eq!(address % 4096, 0);
        assert_eq!(first.len(), 512);
        drop(first);
        assert_eq!(pool.take(4096).unwrap().ptr() as usize, address);
    }

    #[test]
    fn more_than_kept_and_larger_than_a_class() {
        let pool = Pool::new(4096);
        let many: Vec<_> = (0..200).map(|_| pool.take(SMALL).unwrap()).collect();
        drop(many);
        assert_eq!(pool.classes[0].lock().len(), 64);
        let mut big = pool.take(LARGE + 4096).unwrap();
        big.bytes_mut().fill(7);
        assert_eq!(big.bytes().len(), LARGE + 4096);
    }
}
