//! Statistics of an open disk: the engine's counters read, summed up and shown to others.
//!
//! | part | what |
//! |---|---|
//! | [`table`] | the names of plain counters and gauges, once for JSON and Prometheus |
//! | [`types`] | what method Stat of the control socket answers |
//! | [`latency`] | percentiles of a histogram, and what came between two readings |
//! | [`mod@read`] | a device's counters as an answer |
//! | [`prometheus`] | an answer as OpenMetrics text |
//! | [`scrape`], [`http`] | that text over HTTP, for `--metrics` |
//!
//! All of it runs on threads of its own and only loads the counters: a queue does not notice.

pub mod http;
pub mod latency;
pub mod prometheus;
pub mod read;
pub mod scrape;
pub mod table;
pub mod types;

pub use scrape::Scrape;
pub use types::{Batches, Bucket, Class, Latency, QueueStat, StatReply};
