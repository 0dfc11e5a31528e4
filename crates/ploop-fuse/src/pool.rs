//! Aligned bounce buffers.
//!
//! A request's payload starts 80 bytes into fuser's read buffer, so no direct write can use it:
//! every write is copied here, and every read lands here. A number of buffers is made and touched
//! beforehand (D7). When spare ones become few, a thread of its own makes more: a host short of
//! memory lets whoever asks for some wait for write-back, perhaps into the very file served here.
//! So a FUSE worker asks nobody: without a spare buffer it waits for the first that a finished
//! request or that thread brings. Those above what is kept go back to the system.

use crate::server::io_flusher;
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const SMALL: usize = 64 << 10;
/// The longest transfer, and a block at either end.
const LARGE: usize = (1 << 20) + 8192;

struct Memory(NonNull<u8>);

// SAFETY: plain bytes, owned by whoever holds the value.
unsafe impl Send for Memory {}

struct Class {
    size: usize,
    /// Made beforehand.
    first: usize,
    /// With fewer spare ones more are made.
    low: usize,
    /// Spare buffers kept at most.
    keep: usize,
    spare: Mutex<Vec<Memory>>,
    /// A spare buffer came, or none can be made.
    more: Condvar,
}

/// Where bounce buffers come from and go to.
pub(crate) struct Pool {
    stock: Arc<Stock>,
}

/// What the pool shares with the thread that makes more.
struct Stock {
    align: usize,
    classes: [Class; 2],
    /// Some class is low.
    low: Mutex<bool>,
    wake: Condvar,
    /// The system refused memory; whoever needs some asks it himself.
    refused: AtomicBool,
    closed: AtomicBool,
}

/// One buffer; goes back to its pool when dropped.
pub(crate) struct Bounce {
    memory: NonNull<u8>,
    len: usize,
    layout: Layout,
    stock: Arc<Stock>,
}

// SAFETY: the bytes belong to this value alone.
unsafe impl Send for Bounce {}

impl Pool {
    /// A pool whose buffers are aligned to `align` (a power of two) and at least to a page.
    pub(crate) fn new(align: u32) -> Arc<Self> {
        let align = (align as usize).next_power_of_two().max(4096);
        let class = |size, first, low, keep| {
            let (spare, more) = (Mutex::default(), Condvar::new());
            Class { size, first, low, keep, spare, more }
        };
        let stock = Arc::new(Stock {
            align,
            classes: [class(SMALL, 64, 32, 64), class(LARGE, 8, 4, 32)],
            low: Mutex::default(),
            wake: Condvar::new(),
            refused: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        for class in &stock.classes {
            stock.make(class, class.first);
        }
        let maker = Arc::clone(&stock);
        let started = std::thread::Builder::new().name("ploop-pool".to_owned()).spawn(move || {
            io_flusher();
            maker.run();
        });
        // Without it everybody asks for himself.
        stock.refused.store(started.is_err(), Ordering::SeqCst);
        Arc::new(Self { stock })
    }

    /// A buffer of `len` bytes with any content, made when there is none: for a queue's thread,
    /// which must not wait. `None` when there is no memory.
    pub(crate) fn take(&self, len: usize) -> Option<Bounce> {
        let stock = &self.stock;
        let class = stock.class(len);
        let spare = class.and_then(|class| class.lock().pop());
        stock.bounce(len, class, spare)
    }

    /// The same for a FUSE worker: waits for a spare one.
    pub(crate) fn wait(&self, len: usize) -> Option<Bounce> {
        let stock = &self.stock;
        let Some(class) = stock.class(len) else { return self.take(len) };
        let mut spare = class.lock();
        if spare.len() <= class.low {
            stock.ask_for_more();
        }
        while spare.is_empty() && !stock.refused.load(Ordering::SeqCst) {
            spare = class.more.wait(spare).unwrap_or_else(PoisonError::into_inner);
        }
        let memory = spare.pop();
        drop(spare);
        stock.bounce(len, Some(class), memory)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stock.closed.store(true, Ordering::SeqCst);
        self.stock.ask_for_more();
    }
}

impl Class {
    fn lock(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// The class for a length; `None`: longer than any transfer.
    fn class(&self, len: usize) -> Option<&Class> {
        self.classes.iter().find(|class| len <= class.size)
    }

    fn layout(&self, size: usize) -> Option<Layout> {
        Layout::from_size_align(size.max(1), self.align).ok()
    }

    fn bounce(
        self: &Arc<Self>,
        len: usize,
        class: Option<&Class>,
        spare: Option<Memory>,
    ) -> Option<Bounce> {
        let layout = self.layout(class.map_or(len, |class| class.size))?;
        let memory = match spare {
            Some(memory) => memory,
            None => touched(layout)?,
        };
        Some(Bounce { memory: memory.0, len, layout, stock: Arc::clone(self) })
    }

    fn ask_for_more(&self) {
        *self.low.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    /// The thread that makes buffers.
    fn run(&self) {
        loop {
            let mut low = self.low.lock().unwrap_or_else(PoisonError::into_inner);
            while !*low {
                low = self.wake.wait(low).unwrap_or_else(PoisonError::into_inner);
            }
            *low = false;
            drop(low);
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            self.classes.iter().for_each(|class| self.make(class, class.low + 1));
        }
    }

    /// Makes buffers until that many are spare.
    fn make(&self, class: &Class, wanted: usize) {
        let Some(layout) = self.layout(class.size) else { return };
        while class.lock().len() < wanted {
            let made = touched(layout);
            self.refused.store(made.is_none(), Ordering::SeqCst);
            let mut spare = class.lock();
            let end = made.is_none() || spare.len() >= wanted;
            // Given back meanwhile: it is kept as well, the next one above `keep` goes.
            spare.extend(made);
            class.more.notify_all();
            if end {
                return;
            }
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        for class in &self.classes {
            let Some(layout) = self.layout(class.size) else { continue };
            for memory in class.lock().drain(..) {
                // SAFETY: made with this very layout, and owned by nobody else.
                unsafe { dealloc(memory.0.as_ptr(), layout) };
            }
        }
    }
}

/// Memory whose pages are there.
fn touched(layout: Layout) -> Option<Memory> {
    // SAFETY: the size is not zero.
    let memory = NonNull::new(unsafe { alloc(layout) })?;
    // SAFETY: allocated with this size just now.
    unsafe { memory.as_ptr().write_bytes(1, layout.size()) };
    Some(Memory(memory))
}

impl Bounce {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes were allocated, written at first, and are ours.
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
        let class = self.stock.classes.iter().find(|class| class.size == self.layout.size());
        if let Some(class) = class {
            let mut spare = class.lock();
            if spare.len() < class.keep {
                spare.push(Memory(self.memory));
                class.more.notify_one();
                return;
            }
        }
        // SAFETY: allocated with this layout, and owned by this value.
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
        assert_eq!(pool.wait(4096).unwrap().ptr() as usize, address);
    }

    #[test]
    fn more_than_kept_and_larger_than_a_class() {
        let pool = Pool::new(4096);
        let many: Vec<_> = (0..200).map(|_| pool.take(SMALL).unwrap()).collect();
        drop(many);
        assert_eq!(pool.stock.classes[0].lock().len(), 64);
        let mut big = pool.wait(LARGE + 4096).unwrap();
        big.bytes_mut().fill(7);
        assert_eq!(big.bytes().len(), LARGE + 4096);
    }

    #[test]
    fn whoever_waits_gets_one_made_or_one_given_back() {
        let pool = Pool::new(512);
        // Far more than were made beforehand: the other thread brings them.
        let many: Vec<_> = (0..100).map(|_| pool.wait(LARGE).unwrap()).collect();
        assert!(many.iter().all(|bounce| bounce.bytes().len() == LARGE));
        drop(many);
        assert!(pool.stock.classes[1].lock().len() <= 32 + 1);
        // Without that thread's help the buffer of a finished request does.
        let aside = std::mem::take(&mut *pool.stock.classes[1].lock());
        let held: Vec<_> = (0..4).map(|_| pool.wait(LARGE).unwrap()).collect();
        let asking = Arc::clone(&pool);
        let waiting = std::thread::spawn(move || asking.wait(LARGE).map(|bounce| bounce.len()));
        drop(held);
        assert_eq!(waiting.join().unwrap(), Some(LARGE));
        pool.stock.classes[1].lock().extend(aside);
    }

    #[test]
    fn refused_memory_ends_the_wait() {
        let pool = Pool::new(512);
        let aside = std::mem::take(&mut *pool.stock.classes[0].lock());
        pool.stock.refused.store(true, Ordering::SeqCst);
        assert!(pool.wait(1).is_some(), "asks for himself");
        pool.stock.classes[0].lock().extend(aside);
    }
}
