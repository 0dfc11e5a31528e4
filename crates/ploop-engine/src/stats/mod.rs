//! Counters of a queue and of the keeper: written by one thread, read by anybody.
//!
//! | file | what |
//! |---|---|
//! | `counter.rs` | a number with one writer: a plain load and store, no locked instruction |
//! | `histogram.rs` | durations in buckets of fixed number and relative width |
//! | `class.rs` | the table of operations and routes that requests are counted by |
//! | `queue.rs`, `keeper.rs` | the counters of each kind of thread |
//!
//! A queue reads no clock for them: a turn of its loop has one time, and that serves all requests
//! taken in or ended in it. Sums, rates and percentiles are the reader's work.

mod class;
mod counter;
mod histogram;
mod keeper;
mod queue;

pub use class::{CLASSES, Class, ClassId};
pub use counter::Counter;
pub use histogram::{BUCKETS, Histogram, bucket_end, bucket_of};
pub use keeper::{BATCH_BUCKETS, Batches, KeeperStats, batch_end};
pub use queue::{ClassStats, OPERATIONS, QueueStats, operation_index};
