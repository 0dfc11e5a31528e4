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
//! | `contract` | the traits between the engine and everything below it |
//! | `uring` | the `io_uring` engine |
//! | `threads` | the engine for hosts without `io_uring` |
//! | `pool` | worker threads that perform operations by blocking calls |
//! | `null` | an engine that does nothing, at once |
//! | `probe` | chooses an engine, and says why it is not the ring |
//! | `sys` | one operation as blocking system calls |
//! | `forward` | `Io` through a box or a reference |
//! | `lent` | a request's memory that stays with a driver (ublk zero copy) |
//! | `aligned` | memory for direct I/O |
//! | `wake` | wakes a ring's thread |
//! | `wake_word` | the word that says whether a thread sleeps |
//! | `poller` | sleeping and waking by epoll, for the engines that have no ring |
//! | `guard` | keeps the data path alive while the host is short of memory (D7) |
//! | `real` | the real file system, clock, random bytes and records |
//! | `records` | memory that outlives the process, by name (F2) |
//! | `sim` | a simulated disk, directory and clock that obey a seed |

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
