//! Files and rings for ploop.
//!
//! | part | what |
//! |---|---|
//! | [`Io`] | a queue's own ring: push, submit, reap, wait. Engines: uring, threads, null, sim |
//! | [`RawFile`], [`File`] | an open image; blocking calls for open and close time only |
//! | [`Dir`] | names: open, rename, unlink, sync of a directory |
//! | [`Clock`], [`Entropy`] | time and random bytes, so that a simulator can supply them |
//! | [`planted`] | bugs for the simulator to find; compiled out |
//! | [`Records`], [`Words`] | memory that outlives the process (F2) |

mod aligned;
mod contract;
mod forward;
mod guard;
mod lent;
mod null;
pub mod planted;
mod poller;
mod pool;
mod probe;
mod real;
mod records;
pub mod sim;
mod sys;
mod threads;
mod uring;
mod wake;
mod wake_word;

pub use aligned::{AlignedBuf, AlignedPool, PAGE};
pub use contract::*;
pub use guard::{protect_thread, touch_thread};
pub use lent::Lent;
pub use null::Null;
pub use probe::{Engine, EngineChoice, why_no_uring};
pub use real::{RealClock, RealDir, RealEntropy, RealFile, RealRecords};
pub use records::{Records, Words};
pub use sys::file_limit_is_an_error;
pub use threads::Threads;
pub use uring::{DEFAULT_ENTRIES, Uring};
pub use wake_word::WakeWord;
