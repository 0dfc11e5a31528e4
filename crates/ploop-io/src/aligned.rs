//! Memory for direct I/O: page aligned, zeroed, of fixed size.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What every buffer's address is a multiple of.
pub const PAGE: usize = 4096;

/// A page-aligned buffer.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is owned memory like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes. The allocation is rounded up to whole pages.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(len: usize) -> io::Result<Self> {
        let layout = Self::layout(len).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { ptr, len })
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1).checked_next_multiple_of(PAGE)?, PAGE).ok()
    }

    /// Touches and locks the pages, so that using them never waits for memory (D7).
    ///
    /// # Errors
    /// `RLIMIT_MEMLOCK` is reached; the buffer is usable all the same.
    pub fn lock(&mut self) -> io::Result<()> {
        // SAFETY: the range is this buffer's own.
        unsafe { rustix::mm::mlock(self.ptr.as_ptr().cast(), self.len.max(1))? };
        Ok(())
    }

    /// Start of the memory.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// Start of the memory.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes, borrowed with `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // Not unlocked: where all memory of the process is locked, that would undo it for the
            // next user of these pages.
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes at {:p})", self.len, self.ptr)
    }
}

/// A fixed number of buffers of one size: all memory is taken at the start.
#[derive(Debug)]
pub struct AlignedPool {
    free: Vec<AlignedBuf>,
    size: usize,
    total: usize,
}

impl AlignedPool {
    /// `count` buffers of `size` bytes.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(count: usize, size: usize) -> io::Result<Self> {
        let free = (0..count).map(|_| AlignedBuf::new(size)).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { free, size, total: count })
    }

    /// Touches and locks all buffers that are not taken.
    ///
    /// # Errors
    /// As [`AlignedBuf::lock`].
    pub fn lock(&mut self) -> io::Result<()> {
        self.free.iter_mut().try_for_each(AlignedBuf::lock)
    }

    /// A buffer, with whatever bytes its last user left; `None` when all are taken.
    pub fn take(&mut self) -> Option<AlignedBuf> {
        self.free.pop()
    }

    /// Gives a buffer back. One that is not of this pool is freed.
    pub fn give(&mut self, buf: AlignedBuf) {
        if buf.len() == self.size && self.free.len() < self.total {
            self.free.push(buf);
        }
    }

    /// Buffers not taken.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// All buffers.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes of each.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }
}
