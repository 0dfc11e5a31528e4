//! A device's counters as an answer: loads only, nothing is stopped or locked.
//!
//! Counters move while they are read; each is right by itself, and sums of them may be some
//! requests apart.

use super::table::{FAILED, KEEPER, PAGES_IN_MEMORY, QUEUE};
use super::types::{Batches, Bucket, Class, Latency, QueueStat, SizeBucket, StatReply};
use ploop_engine::Device;
use ploop_engine::stats::{
    BATCH_BUCKETS, Batches as Groups, CLASSES, ClassStats, Histogram, KeeperStats, OPERATIONS,
    QueueStats, batch_end, bucket_end,
};
use std::collections::BTreeMap;

/// Reads everything; `interval_ns` is the time since the disk was opened.
#[must_use]
pub fn read(device: &Device, interval_ns: u64) -> StatReply {
    let stats: Vec<&QueueStats> = (0..device.queues()).map(|n| device.queue_stats(n)).collect();
    let keeper = device.keeper_stats();
    let queues: Vec<QueueStat> =
        stats.iter().enumerate().map(|(n, stats)| queue(n, stats)).collect();
    let syncs = stats.iter().map(|queue| &queue.sync_latency);
    let syncs: Vec<&Histogram> = syncs.chain([&keeper.sync_latency]).collect();
    let groups = stats.iter().map(|queue| &queue.sync_batches);
    let groups: Vec<&Groups> = groups.chain([&keeper.sync_batches]).collect();
    let mut reply = StatReply {
        interval_ns,
        counters: totals(&queues, &stats, keeper),
        classes: CLASSES.iter().enumerate().filter_map(|(n, _)| together(n, &stats)).collect(),
        queues,
        sync_latency: latency(&syncs),
        sync_batches: batches(&groups),
    };
    let pages = device.pages_resident() as u64;
    reply.counters.insert(PAGES_IN_MEMORY.to_owned(), pages);
    reply.counters.insert(FAILED.to_owned(), u64::from(device.is_failed()));
    reply
}

fn queue(n: usize, stats: &QueueStats) -> QueueStat {
    let errors = OPERATIONS.iter().zip(&stats.errors);
    let errors = errors.map(|(name, count)| ((*name).to_owned(), count.get()));
    QueueStat {
        queue: n as u64,
        counters: QUEUE.iter().map(|line| (line.name.to_owned(), (line.get)(stats))).collect(),
        errors: errors.filter(|(_, count)| *count > 0).collect(),
        classes: (0..CLASSES.len()).filter_map(|class| together(class, &[stats])).collect(),
    }
}

/// One class of these queues; `None` when nothing of it happened.
fn together(class: usize, queues: &[&QueueStats]) -> Option<Class> {
    let parts: Vec<&ClassStats> = queues.iter().map(|stats| &stats.classes[class]).collect();
    let histograms: Vec<&Histogram> = parts.iter().map(|part| &part.latency).collect();
    let latency = latency(&histograms);
    (latency.count > 0).then(|| Class {
        operation: CLASSES[class].operation.to_owned(),
        route: CLASSES[class].route.to_owned(),
        requests: latency.count,
        total_bytes: parts.iter().map(|part| part.bytes.get()).sum(),
        latency,
    })
}

fn latency(parts: &[&Histogram]) -> Latency {
    let mut counts: Vec<u64> = Vec::new();
    for part in parts {
        for (n, count) in part.counts().enumerate() {
            match counts.get_mut(n) {
                Some(sum) => *sum += count,
                None => counts.push(count),
            }
        }
    }
    let buckets = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
    let buckets = buckets.map(|(n, count)| Bucket { below_ns: bucket_end(n), count }).collect();
    let sum = parts.iter().map(|part| part.sum()).fold(0, u64::wrapping_add);
    Latency::new(buckets, sum, parts.iter().map(|part| part.max()).max().unwrap_or(0))
}

fn batches(parts: &[&Groups]) -> Batches {
    let mut counts = [0; BATCH_BUCKETS];
    for part in parts {
        counts.iter_mut().zip(part.counts()).for_each(|(sum, count)| *sum += count);
    }
    let buckets = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
    Batches {
        count: counts.iter().sum(),
        sum: parts.iter().map(|part| part.sum()).sum(),
        max: parts.iter().map(|part| part.max()).max().unwrap_or(0),
        buckets: buckets.map(|(n, count)| SizeBucket { upto: batch_end(n), count }).collect(),
    }
}

/// The numbers of the whole disk by name.
fn totals(
    queues: &[QueueStat],
    stats: &[&QueueStats],
    keeper: &KeeperStats,
) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, value: u64| *all.entry(name).or_insert(0) += value;
    for name in OPERATIONS {
        // Also those that did not happen: whoever looks for a name finds it.
        add(format!("{name}_requests"), 0);
        add(format!("{name}_bytes"), 0);
    }
    add("errors".to_owned(), 0);
    for queue in queues {
        for class in &queue.classes {
            add(format!("{}_requests", class.operation), class.requests);
            add(format!("{}_bytes", class.operation), class.total_bytes);
        }
        for (name, count) in &queue.errors {
            add(format!("{name}_requests"), *count);
            add("errors".to_owned(), *count);
        }
        for (name, value) in &queue.counters {
            add(name.clone(), *value);
        }
    }
    for line in KEEPER {
        add(line.name.to_owned(), (line.get)(keeper));
    }
    add("syncs".to_owned(), stats.iter().map(|queue| queue.syncs.get()).sum());
    add("flushes".to_owned(), stats.iter().map(|queue| queue.sync_batches.sum()).sum());
    all
}
