//! Load on a disk, in this process: no transport, the very threads of a server.
//!
//! | part | what |
//! |---|---|
//! | [`load`] | what to do, checked against what there is |
//! | [`random`] | cheap random numbers |
//! | [`generator`] | one queue's load: which request next, how long did it take; no allocation |
//! | [`front`] | the generator as a front end on a queue of a disk |
//! | [`image`] | a disk measured |
//! | [`raw`] | the same load on a plain file: no map, no keeper |
//! | [`histogram`] | latencies in buckets |
//! | [`cost`] | processor time and instructions of this process, workers of the kernel included |
//! | [`report`] | what is told |

pub mod cost;
pub mod front;
pub mod generator;
pub mod histogram;
pub mod image;
pub mod load;
pub mod random;
pub mod raw;
pub mod report;

pub use load::{Load, Mode};
pub use report::Report;
