//! The real file system, clock, entropy and records.
//!
//! | part | what |
//! |---|---|
//! | `dir` | names |
//! | `file` | an open file |
//! | `lock` | locks of an open file description (F7) |
//! | `caps` | what the file system under a file can do |
//! | `clock` | clocks and random bytes |
//! | `records` | records as shared mappings of files, at best on tmpfs |

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
