//! Atomics behind one name, so that a model checker can take their place (feature `loom`).

#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
#[cfg(not(feature = "loom"))]
pub use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
