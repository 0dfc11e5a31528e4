//! An open disk, served: threads, front ends, stop sequence.

pub mod memory;
pub mod multi;
pub mod signals;
pub use multi::MultiFront;
