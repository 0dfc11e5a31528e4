//! Parameters and replies of `org.ploop.Disk`.

pub use crate::stats::types::StatReply;
use serde::{Deserialize, Serialize};

/// One image of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// 0 is the base.
    pub level: u32,
    /// Absolute path.
    pub path: String,
    /// Not written.
    pub read_only: bool,
}

/// A range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset_bytes: u64,
    /// Length.
    pub length_bytes: u64,
    /// The image that has it; `None`: none has, it reads as zeros.
    pub level: Option<u32>,
}

/// Reply of `Info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name in the registry.
    pub id: String,
    /// The server.
    pub pid: u32,
    /// DiskDescriptor.xml or the lone image.
    pub disk: String,
    /// Base first.
    pub images: Vec<Image>,
    /// Size of the device.
    pub size_bytes: u64,
    /// Logical block.
    pub block_bytes: u64,
    /// Cluster size.
    pub cluster_bytes: u64,
    /// Format version of the top; none for a raw disk.
    pub version: Option<u32>,
    /// Opened read-only.
    pub read_only: bool,
    /// Queue threads.
    pub queues: u64,
    /// I/O engine: `uring` or `threads`.
    pub engine: String,
    /// Block device.
    pub device: Option<String>,
    /// Partition device.
    pub partition: Option<String>,
    /// How the device is made.
    pub transport: Option<String>,
    /// Where it is mounted.
    pub mountpoint: Option<String>,
    /// As in the ready lines.
    pub exports: Vec<String>,
    /// Seconds since 1970.
    pub started: u64,
}

/// Reply of `Info`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InfoReply {
    /// What is served.
    pub state: State,
}

/// Reply of `Metrics`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MetricsReply {
    /// OpenMetrics text.
    pub text: String,
}

/// Parameters of `Stop`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StopCall {
    /// Stop though the device is mounted or open.
    #[serde(default)]
    pub force: Option<bool>,
    /// Leave the device to the next server: its users wait for that one.
    #[serde(default)]
    pub keep: Option<bool>,
}

/// Parameters of `ExportAdd`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExportCall {
    /// `unix:PATH` or `tcp:ADDR:PORT`, of this host only.
    pub address: String,
    /// Name of the export; none: the empty one.
    #[serde(default)]
    pub name: Option<String>,
    /// Its clients cannot write.
    #[serde(default)]
    pub read_only: Option<bool>,
}

/// Reply of `ExportAdd`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExportReply {
    /// `nbd ADDRESS`, as in `exports`.
    pub export: String,
}

/// Parameters of `ExportRemove`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnexportCall {
    /// As it was added.
    pub address: String,
    /// Though it has clients.
    #[serde(default)]
    pub force: Option<bool>,
}

/// Parameters of `Map`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MapCall {
    /// Where to begin.
    pub offset_bytes: u64,
}

/// Reply of `Map`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MapReply {
    /// In order, without gaps.
    pub extents: Vec<Extent>,
    /// Where the next call begins; `None` at the end of the disk.
    pub next_bytes: Option<u64>,
}

/// Parameters of `Snapshot`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SnapshotCall {
    /// Its name; a new one if none.
    #[serde(default)]
    pub uuid: Option<String>,
    /// It goes when nobody has it open any more.
    #[serde(default)]
    pub temporary: Option<bool>,
}

/// Reply of `Snapshot`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// Its name.
    pub uuid: String,
    /// The new top.
    pub image: String,
    /// How long requests waited.
    pub pause_ns: u64,
}

/// Parameters of `SnapshotDelete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteCall {
    /// The snapshot.
    pub uuid: String,
    /// Bytes per second at most, if it takes a merge.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
}

/// Reply of `SnapshotDelete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteReply {
    /// `removed`, `marked` or `merging`.
    pub deleted: String,
    /// The job that merges.
    pub job: Option<u64>,
}

/// Parameters of `Merge`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MergeCall {
    /// This snapshot into its parent; none: the top.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Everything into the base.
    #[serde(default)]
    pub all: Option<bool>,
    /// Bytes per second at most.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
}

/// A job by its number: parameters of `Cancel` and `Watch`, reply of `Merge`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct JobCall {
    /// Its number.
    pub job: u64,
}

/// Parameters of `SetRate`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RateCall {
    /// The job.
    pub job: u64,
    /// Bytes per second at most; none: as fast as it goes.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
}

/// Parameters of `Grow`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GrowCall {
    /// The new size of the device.
    pub size_bytes: u64,
}

/// Reply of `Grow`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GrowReply {
    /// Size before.
    pub before_bytes: u64,
    /// Size now, rounded up.
    pub size_bytes: u64,
    /// How long requests waited.
    pub pause_ns: u64,
}

/// Parameters of `Pause`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct PauseCall {
    /// It ends by itself after so many milliseconds: 60,000 if none.
    #[serde(default)]
    pub limit_ms: Option<u64>,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At work.
    Running,
    /// Ended well.
    Done,
    /// Ended as it was asked to; the disk is whole.
    Cancelled,
    /// Ended with an error; the disk is whole.
    Failed,
}

/// A long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// What it does: `merge`.
    pub kind: String,
    /// How it stands.
    pub state: JobState,
    /// Bytes copied.
    pub done_bytes: u64,
    /// Bytes to copy, as far as is known.
    pub total_bytes: u64,
    /// Bytes per second at most.
    pub rate_bytes: Option<u64>,
    /// Since it began.
    pub elapsed_ms: u64,
    /// Until it ends, if it goes on like this.
    pub left_ms: Option<u64>,
    /// How long requests waited, each time they had to.
    pub pause_ns: Vec<u64>,
    /// What went wrong.
    pub message: Option<String>,
    /// Exit code of what went wrong.
    pub code: Option<u64>,
    /// The word for it, as `kind` of an error.
    #[serde(default)]
    pub error_kind: Option<String>,
    /// What can be done.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Reply of `Jobs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobsReply {
    /// The oldest first.
    pub jobs: Vec<Job>,
}

/// A reply of `Watch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchReply {
    /// The job now.
    pub job: Job,
}

/// Parameters of `SetMountpoint`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MountpointCall {
    /// `None`: no longer mounted.
    #[serde(default)]
    pub mountpoint: Option<String>,
}
