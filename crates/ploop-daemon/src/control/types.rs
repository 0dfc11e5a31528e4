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

/// Parameters of `SetMountpoint`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MountpointCall {
    /// `None`: no longer mounted.
    #[serde(default)]
    pub mountpoint: Option<String>,
}
