//! The answer of method Stat: what was counted since the disk was opened, or between two answers.

use super::table::{Kind, kind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A part of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// Durations in it are shorter than this, and not in a bucket before; `None`: any.
    pub below_ns: Option<u64>,
    /// How many.
    pub count: u64,
}

/// Durations. Percentiles are the end of their bucket: at most a quarter too long.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// All together.
    pub sum_ns: u64,
    /// Half of them took no longer.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Those that are not empty, shortest first.
    pub buckets: Vec<Bucket>,
}

/// Requests of one operation and route that ended well.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Class {
    /// The operation.
    pub operation: String,
    /// The slowest route that a part of the request took.
    pub route: String,
    /// How many.
    pub requests: u64,
    /// Bytes of their ranges.
    pub total_bytes: u64,
    /// How long they took.
    pub latency: Latency,
}

/// One queue.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueStat {
    /// Its number.
    pub queue: u64,
    /// By name.
    pub counters: BTreeMap<String, u64>,
    /// Requests that ended with an error, by operation; operations without one are left out.
    pub errors: BTreeMap<String, u64>,
    /// Only those that happened.
    pub classes: Vec<Class>,
}

/// Sizes of groups.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Batches {
    /// Groups.
    pub count: u64,
    /// Everybody in all groups.
    pub sum: u64,
    /// The largest group since the disk was opened.
    pub max: u64,
    /// Those that are not empty, smallest first.
    pub buckets: Vec<SizeBucket>,
}

/// A part of [`Batches`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SizeBucket {
    /// Sizes in it are at most this, and not in a bucket before; `None`: any.
    pub upto: Option<u64>,
    /// How many.
    pub count: u64,
}

/// Reply of `Stat`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatReply {
    /// The time counted: since the disk was opened, or since an earlier answer.
    pub interval_ns: u64,
    /// Numbers of the whole disk by name.
    pub counters: BTreeMap<String, u64>,
    /// All queues together.
    pub classes: Vec<Class>,
    /// Each queue.
    pub queues: Vec<QueueStat>,
    /// How long syncs of the top took.
    pub sync_latency: Latency,
    /// FLUSH and FUA waiters answered together.
    pub sync_batches: Batches,
}

impl StatReply {
    /// What happened since an earlier answer of the same server; gauges as they are now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let queues = self.queues.iter().map(|queue| {
            let other = earlier.queues.iter().find(|other| other.queue == queue.queue);
            other.map_or_else(|| queue.clone(), |other| queue.since(other))
        });
        Self {
            interval_ns: self.interval_ns.saturating_sub(earlier.interval_ns),
            counters: counters_since(&self.counters, &earlier.counters),
            classes: classes_since(&self.classes, &earlier.classes),
            queues: queues.collect(),
            sync_latency: self.sync_latency.since(&earlier.sync_latency),
            sync_batches: self.sync_batches.since(&earlier.sync_batches),
        }
    }
}

impl QueueStat {
    fn since(&self, earlier: &Self) -> Self {
        let mut errors = counters_since(&self.errors, &earlier.errors);
        errors.retain(|_, count| *count > 0);
        Self {
            queue: self.queue,
            counters: counters_since(&self.counters, &earlier.counters),
            errors,
            classes: classes_since(&self.classes, &earlier.classes),
        }
    }
}

impl Batches {
    fn since(&self, earlier: &Self) -> Self {
        let before = |upto: Option<u64>| {
            earlier.buckets.iter().find(|b| b.upto == upto).map_or(0, |b| b.count)
        };
        let buckets = self
            .buckets
            .iter()
            .map(|b| SizeBucket { upto: b.upto, count: b.count.saturating_sub(before(b.upto)) });
        Self {
            count: self.count.saturating_sub(earlier.count),
            sum: self.sum.saturating_sub(earlier.sum),
            max: self.max,
            buckets: buckets.filter(|b| b.count > 0).collect(),
        }
    }
}

fn counters_since(
    now: &BTreeMap<String, u64>,
    earlier: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let one = |(name, value): (&String, &u64)| {
        let before = earlier.get(name).copied().unwrap_or(0);
        let value = match kind(name) {
            Kind::Gauge => *value,
            Kind::Counter => value.saturating_sub(before),
        };
        (name.clone(), value)
    };
    now.iter().map(one).collect()
}

fn classes_since(now: &[Class], earlier: &[Class]) -> Vec<Class> {
    let one = |class: &Class| {
        let same =
            |other: &&Class| other.operation == class.operation && other.route == class.route;
        let Some(before) = earlier.iter().find(same) else { return class.clone() };
        Class {
            operation: class.operation.clone(),
            route: class.route.clone(),
            requests: class.requests.saturating_sub(before.requests),
            total_bytes: class.total_bytes.saturating_sub(before.total_bytes),
            latency: class.latency.since(&before.latency),
        }
    };
    now.iter().map(one).filter(|class| class.requests > 0).collect()
}
