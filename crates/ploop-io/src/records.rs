//! Memory that outlives the process, by name (F2).
//!
//! A killed server loses its heap; what it stored here is found by the next one, as long as the
//! host has not started again. One store to it costs no system call.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Where such memories live.
pub trait Records: Send + Sync + fmt::Debug {
    /// The memory of this name; `None` when there is none.
    ///
    /// # Errors
    /// It is there but cannot be mapped.
    fn open(&self, name: &str) -> io::Result<Option<Words>>;

    /// Makes a memory of `words` zeroed words in the place of one that may be there. All of it is
    /// backed when this returns (D7): no later store can fail for want of memory.
    ///
    /// # Errors
    /// No space, or no right to the directory.
    fn create(&self, name: &str, words: usize) -> io::Result<Words>;

    /// Removes a memory; fine when there is none.
    ///
    /// # Errors
    /// It stays.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names the present boot of the host.
    ///
    /// # Errors
    /// The host does not tell.
    fn boot(&self) -> io::Result<u128>;

    /// A random number, to tell one life of a server from another.
    fn session(&self) -> u64;
}

/// Words shared with whoever opens the memory next. A word is stored whole or not at all.
#[derive(Clone)]
pub struct Words(Arc<dyn Deref<Target = [AtomicU64]> + Send + Sync>);

impl Words {
    /// Words that belong to `owner`.
    #[must_use]
    pub fn new(owner: impl Deref<Target = [AtomicU64]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(owner))
    }

    /// Words of this process alone: for a test.
    #[must_use]
    pub fn local(len: usize) -> Self {
        let words: Box<[AtomicU64]> = (0..len).map(|_| AtomicU64::new(0)).collect();
        Self::new(words)
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({})", self.len())
    }
}
