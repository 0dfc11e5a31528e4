//! What is told about a load.

use crate::cost::Cost;
use crate::generator::Tally;
use crate::load::Load;
use serde::Serialize;

/// Latencies of reads and writes, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half are not above it.
    pub p50: f64,
    /// 99 of 100 are not above it.
    pub p99: f64,
    /// 999 of 1000 are not above it.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// What only a disk has.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DiskPart {
    /// Bytes of a cluster.
    pub cluster_bytes: u64,
    /// Clusters allocated by the load.
    pub allocated_clusters: u64,
    /// Clusters copied up by the load.
    pub copied_up: u64,
    /// BAT pages written, at the close too.
    pub pages_written: u64,
    /// Time to open the disk.
    pub open_ms: f64,
    /// The most memory this process had.
    pub peak_rss_bytes: u64,
}

/// The object of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `disk` or `raw`.
    pub target: &'static str,
    /// The pattern.
    pub rw: &'static str,
    /// Bytes of each request.
    pub bs_bytes: u64,
    /// In flight on each queue.
    pub depth: usize,
    /// Queues.
    pub queues: usize,
    /// How files were read and written.
    pub engine: &'static str,
    /// How long the load took.
    pub seconds: f64,
    /// Blocks read.
    pub reads: u64,
    /// Blocks written.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Reads and writes a second.
    pub iops: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// Latencies.
    pub lat_us: Latency,
    /// Processor time of the whole process for each read or write.
    pub cpu_us_per_io: f64,
    /// Instructions for each read or write, where the processor counts them for us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_per_io: Option<f64>,
    /// Syncs that reached the file during the load.
    pub syncs: u64,
    /// Time of the close: all mappings written, the image marked clean.
    pub close_ms: f64,
    /// As `iops`, with the time of the close.
    pub iops_with_close: f64,
    /// Disk space of the file before.
    pub allocated_before_bytes: u64,
    /// Disk space of the file after the close.
    pub allocated_after_bytes: u64,
    /// What only a disk has.
    #[serde(flatten)]
    pub disk: Option<DiskPart>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of every queue.
    pub tally: Tally,
    /// When the load began.
    pub start: u64,
    /// What it cost.
    pub cost: Cost,
    /// How files were read and written.
    pub engine: &'static str,
    /// Syncs during the load.
    pub syncs: u64,
    /// Nanoseconds of the close.
    pub close: u64,
    /// Disk space before and after.
    pub allocated: (u64, u64),
}

impl Tally {
    /// Adds another queue's.
    pub fn merge(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.errors += other.errors;
        self.latency.merge(&other.latency);
        self.end = self.end.max(other.end);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(n: u64) -> f64 {
    n as f64
}

impl Report {
    /// Rates and ratios of what was measured.
    #[must_use]
    pub fn new(load: &Load, measured: &Measured, disk: Option<DiskPart>) -> Self {
        let tally = &measured.tally;
        let count = tally.reads + tally.writes;
        let per_io = |n: u64| float(n) / float(count.max(1));
        let seconds = float(tally.end.saturating_sub(measured.start).max(1)) / 1e9;
        let close = float(measured.close) / 1e9;
        let micros = |per_mille| float(tally.latency.percentile(per_mille)) / 1e3;
        Self {
            target: if disk.is_some() { "disk" } else { "raw" },
            rw: load.mode.name(),
            bs_bytes: load.block,
            depth: load.depth,
            queues: load.queues,
            engine: measured.engine,
            seconds,
            reads: tally.reads,
            writes: tally.writes,
            flushes: tally.flushes,
            errors: tally.errors,
            iops: float(count) / seconds,
            mb_per_s: float(count * load.block) / 1e6 / seconds,
            lat_us: Latency {
                p50: micros(500),
                p99: micros(990),
                p999: micros(999),
                max: float(tally.latency.max()) / 1e3,
            },
            cpu_us_per_io: per_io(measured.cost.cpu) / 1e3,
            instructions_per_io: measured.cost.instructions.map(per_io),
            syncs: measured.syncs,
            close_ms: close * 1e3,
            iops_with_close: float(count) / (seconds + close),
            allocated_before_bytes: measured.allocated.0,
            allocated_after_bytes: measured.allocated.1,
            disk,
        }
    }
}
