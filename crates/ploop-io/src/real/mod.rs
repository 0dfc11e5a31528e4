//! The real file system, clock and entropy.

mod caps;
mod clock;
mod dir;
mod file;
mod lock;

pub use clock::{RealClock, RealEntropy};
pub use dir::RealDir;
pub use file::RealFile;
