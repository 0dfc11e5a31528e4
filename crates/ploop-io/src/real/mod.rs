//! The real file system, clock, entropy and records.

mod caps;
mod clock;
mod dir;
mod file;
mod lock;
mod records;

pub use clock::{RealClock, RealEntropy};
pub use dir::RealDir;
pub use file::RealFile;
pub use records::RealRecords;
