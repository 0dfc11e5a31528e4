//! Files and rings for ploop.
//!
//! | part | what |
//! |---|---|
//! | [`Io`] | a queue's own ring: push, submit, reap, wait. Engines: uring, threads, null, sim |
//! | [`RawFile`], [`File`] | an open image; blocking calls for open and close time only |
//! | [`Dir`] | names: open, rename, unlink, sync of a directory |
//! | [`Clock`], [`Entropy`] | time and random bytes, so that a simulator can supply them |

mod contract;
pub use contract::*;
