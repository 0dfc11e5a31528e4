//! Statistics as OpenMetrics text, which Prometheus reads.
//!
//! A registry is made for each scrape, around what was read from the engine at that moment: nothing
//! is kept in two places.

use super::table::{FAILED, KEEPER, Kind, Line, PAGES_IN_MEMORY, QUEUE};
use super::types::{Batches, Class, Latency, QueueStat, StatReply};
use crate::control::types::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt::{Error, Result};

/// What HTTP says the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds for Prometheus: one per octave, 1.024 us to 137 s.
const OCTAVES: std::ops::RangeInclusive<u32> = 10..=37;
/// Bounds of group sizes: 1 to 128.
const SIZES: std::ops::RangeInclusive<u32> = 0..=7;

/// The whole text, with its end mark.
///
/// # Errors
/// None that we know of: a string takes whatever is written.
pub fn text(state: &State, stat: StatReply) -> std::result::Result<String, Error> {
    let mut registry = Registry::with_prefix("ploop");
    registry.register_collector(Box::new(Reading { disk: Disk::of(state), stat }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What an answer is about.
#[derive(Debug)]
struct Disk {
    labels: Vec<(&'static str, String)>,
    size_bytes: u64,
}

impl Disk {
    fn of(state: &State) -> Self {
        let labels = vec![
            ("id", state.id.clone()),
            ("disk", state.disk.clone()),
            ("device", state.device.clone().unwrap_or_default()),
            ("engine", state.engine.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Self { labels, size_bytes: state.size_bytes }
    }
}

/// One reading of the counters.
#[derive(Debug)]
struct Reading {
    disk: Disk,
    stat: StatReply,
}

type Labels<'a> = [(&'static str, &'a str)];

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result {
        let out = &mut encoder;
        let info = MetricType::Info;
        let labels: Vec<_> = self.disk.labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let mut metric = out.encode_descriptor("disk", "What is served", None, info)?;
        metric.encode_info(&labels.as_slice())?;
        let size = Some(&Unit::Bytes);
        gauge(out, "disk_size", "Size of the disk.", size, self.disk.size_bytes)?;
        self.seconds(out)?;
        self.classes(out)?;
        for line in QUEUE {
            self.queues(out, line.metric, line.help, line.kind, |q| {
                q.counters.get(line.name).copied().unwrap_or(0)
            })?;
        }
        let value = |name: &str| self.stat.counters.get(name).copied().unwrap_or(0);
        for line in KEEPER {
            one(out, line, value(line.name))?;
        }
        let help = "Pages of the map with cells of their own; pages of holes share theirs.";
        gauge(out, PAGES_IN_MEMORY, help, None, value(PAGES_IN_MEMORY))?;
        let help = "1: a sync failed or metadata cannot be written, no flush succeeds any more.";
        gauge(out, FAILED, help, None, value(FAILED))?;
        let help = "How long syncs of the top image took.";
        let kind = MetricType::Histogram;
        let mut metric = out.encode_descriptor("sync_latency", help, Some(&Unit::Seconds), kind)?;
        latency(&mut metric, &self.stat.sync_latency)?;
        let help = "FLUSH and FUA waiters answered together.";
        let mut metric = out.encode_descriptor("sync_batch_waiters", help, None, kind)?;
        sizes(&mut metric, &self.stat.sync_batches)
    }
}

impl Reading {
    fn seconds(&self, out: &mut DescriptorEncoder<'_>) -> Result {
        let help = "Time since the disk was opened.";
        let unit = Some(&Unit::Seconds);
        let mut metric = out.encode_descriptor("uptime", help, unit, MetricType::Gauge)?;
        metric.encode_gauge(&seconds(self.stat.interval_ns))
    }

    /// Requests, bytes and latencies by queue, operation and route; errors by queue and operation.
    fn classes(&self, out: &mut DescriptorEncoder<'_>) -> Result {
        let kind = MetricType::Counter;
        let help = "Requests that ended well.";
        let mut metric = out.encode_descriptor("requests", help, None, kind)?;
        self.each(|labels, class| count(&mut metric, labels, class.requests))?;
        let help = "Bytes of the ranges of requests that ended well.";
        let mut metric = out.encode_descriptor("request", help, Some(&Unit::Bytes), kind)?;
        self.each(|labels, class| count(&mut metric, labels, class.total_bytes))?;
        let help = "Requests that ended with an error.";
        let mut metric = out.encode_descriptor("request_errors", help, None, kind)?;
        for queue in &self.stat.queues {
            let number = queue.queue.to_string();
            for (operation, errors) in &queue.errors {
                let labels: &Labels<'_> = &[("queue", &number), ("op", operation)];
                count(&mut metric, labels, *errors)?;
            }
        }
        let help = "From the hand-in of a request to its end, as seen by turns of the queue.";
        let (kind, unit) = (MetricType::Histogram, Some(&Unit::Seconds));
        let mut metric = out.encode_descriptor("request_latency", help, unit, kind)?;
        self.each(|labels, class| latency(&mut metric.encode_family(&labels)?, &class.latency))
    }

    fn each(&self, mut act: impl FnMut(&Labels<'_>, &Class) -> Result) -> Result {
        for queue in &self.stat.queues {
            let number = queue.queue.to_string();
            for class in &queue.classes {
                let labels: &Labels<'_> =
                    &[("queue", &number), ("op", &class.operation), ("route", &class.route)];
                act(labels, class)?;
            }
        }
        Ok(())
    }

    fn queues(
        &self,
        out: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        kind: Kind,
        value: impl Fn(&QueueStat) -> u64,
    ) -> Result {
        let mut metric = out.encode_descriptor(name, help, None, metric_type(kind))?;
        for queue in &self.stat.queues {
            let number = queue.queue.to_string();
            let labels: &Labels<'_> = &[("queue", &number)];
            match kind {
                Kind::Counter => count(&mut metric, labels, value(queue))?,
                Kind::Gauge => metric.encode_family(&labels)?.encode_gauge(&value(queue))?,
            }
        }
        Ok(())
    }
}

const fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    }
}

fn one<S>(out: &mut DescriptorEncoder<'_>, line: &Line<S>, value: u64) -> Result {
    let kind = metric_type(line.kind);
    let mut metric = out.encode_descriptor(line.metric, line.help, None, kind)?;
    match line.kind {
        Kind::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Kind::Gauge => metric.encode_gauge(&value),
    }
}

fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> Result {
    out.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
}

fn count(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> Result {
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn latency(metric: &mut MetricEncoder<'_>, latency: &Latency) -> Result {
    let mut parts: Vec<(u64, u64)> = OCTAVES.map(|octave| (1 << octave, 0)).collect();
    let mut beyond = 0;
    for bucket in &latency.buckets {
        let end = bucket.below_ns.unwrap_or(u64::MAX);
        match parts.iter_mut().find(|(bound, _)| end <= *bound) {
            Some((_, count)) => *count += bucket.count,
            None => beyond += bucket.count,
        }
    }
    let mut parts: Vec<_> = parts.into_iter().map(|(ns, count)| (seconds(ns), count)).collect();
    parts.push((f64::INFINITY, beyond));
    let sum = seconds(latency.sum_ns);
    metric.encode_histogram::<NoLabelSet>(sum, latency.count, &parts, None)
}

fn sizes(metric: &mut MetricEncoder<'_>, batches: &Batches) -> Result {
    let at = |upto| batches.buckets.iter().find(|b| b.upto == upto).map_or(0, |b| b.count);
    let mut parts: Vec<(f64, u64)> = SIZES.map(|n| (f64::from(1 << n), at(Some(1 << n)))).collect();
    parts.push((f64::INFINITY, at(None)));
    metric.encode_histogram::<NoLabelSet>(batches.sum as f64, batches.count, &parts, None)
}

/// Exact to a microsecond for a hundred years.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
