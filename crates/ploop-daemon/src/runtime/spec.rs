//! What to serve and how: handed from the tool to a background server as JSON.

use ploop_engine::{DeviceOptions, OnEnospc};
use ploop_io::EngineChoice;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A disk to serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServeSpec {
    /// Absolute path of a descriptor, its directory or a lone image.
    pub disk: PathBuf,
    /// No write reaches any file.
    pub read_only: bool,
    /// Where it can be reached.
    pub exports: Vec<Export>,
    /// Queue threads.
    pub queues: usize,
    /// When the host has no space.
    pub on_full: OnFull,
    /// How files are read and written.
    pub ring: RingChoice,
    /// A changed mapping may wait this long.
    pub metadata_delay_ms: u64,
    /// Clean space kept ahead grows up to this many bytes.
    pub prealloc_bytes: u64,
    /// Drop change tracking (T9).
    pub drop_cbt: bool,
    /// The descriptor may name files outside its directory.
    pub allow_outside: bool,
    /// Files may be changed that others may have too; the descriptor may name such.
    #[serde(default)]
    pub change_shared: bool,
    /// NBD and metrics may listen on addresses other hosts can reach (T3).
    pub insecure_listen: bool,
    /// Where metrics are served over HTTP: `unix:PATH` or `tcp:HOST:PORT`.
    #[serde(default)]
    pub metrics: Option<String>,
    /// The block device is `/dev/ploop/NAME` too.
    #[serde(default)]
    pub name: Option<String>,
    /// A loop device is named in lists of mounts, not the file below it; after a kill it is there
    /// until the next verb.
    #[serde(default)]
    pub to_mount: bool,
    /// Number of a group whose members see the disk in their lists.
    #[serde(default)]
    pub visible_to: Option<u32>,
    /// For a verb that takes it away again: what it goes without matters to nobody.
    #[serde(default)]
    pub for_a_moment: bool,
    /// `disk` is an image that stands for its snapshot, of a split disk in all pieces.
    #[serde(default)]
    pub snapshot: bool,
}

/// A way to reach the disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// NBD.
    Nbd {
        /// `unix:PATH` or `tcp:ADDR:PORT`.
        address: String,
        /// Name of the export.
        name: String,
    },
    /// A file mounted over this one.
    Fuse {
        /// Absolute path.
        file: PathBuf,
    },
    /// vhost-user-blk, for a virtual machine.
    VhostUser {
        /// Absolute path of its socket.
        path: PathBuf,
    },
    /// A loop device over a FUSE file.
    Loop,
    /// A device of the kernel's NBD client.
    KernelNbd,
    /// A ublk device.
    Ublk {
        /// Where there is no ublk: one of the kernel's NBD client, else a loop device.
        or_loop: bool,
        /// How data moves.
        #[serde(default)]
        copies: UblkCopies,
    },
}

/// How a ublk device's data moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UblkCopies {
    /// The best way the kernel has.
    #[default]
    Best,
    /// Not at all.
    Zero,
    /// By us, through the device's file.
    User,
    /// By the driver.
    Driver,
}

/// When the host has no space (F17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Hold the request and retry.
    Hold,
    /// Return the error.
    Fail,
}

/// How files are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RingChoice {
    /// `io_uring`, else threads.
    Auto,
    /// `io_uring` or an error.
    Uring,
    /// Threads.
    Threads,
    /// No I/O: for measurements only. Whatever is written is lost, and what it would have
    /// overwritten may be too.
    Null,
}

impl ServeSpec {
    /// For tools that read a disk in their own process: one queue, no exports.
    #[must_use]
    pub fn private(disk: PathBuf, read_only: bool) -> Self {
        Self {
            disk,
            read_only,
            exports: Vec::new(),
            queues: 1,
            on_full: OnFull::Fail,
            ring: RingChoice::Auto,
            metadata_delay_ms: 250,
            prealloc_bytes: DeviceOptions::default().prealloc_bytes,
            drop_cbt: false,
            allow_outside: false,
            change_shared: false,
            insecure_listen: false,
            metrics: None,
            name: None,
            to_mount: false,
            visible_to: None,
            for_a_moment: false,
            snapshot: false,
        }
    }

    /// The engine's options.
    #[must_use]
    pub fn device_options(&self) -> DeviceOptions {
        let on_enospc = match self.on_full {
            OnFull::Hold => OnEnospc::Hold,
            OnFull::Fail => OnEnospc::Fail,
        };
        DeviceOptions {
            queues: self.queues,
            on_enospc,
            metadata_delay_ms: self.metadata_delay_ms,
            prealloc_bytes: self.prealloc_bytes,
            ..DeviceOptions::default()
        }
    }
}

impl From<RingChoice> for EngineChoice {
    fn from(choice: RingChoice) -> Self {
        match choice {
            RingChoice::Auto => Self::Auto,
            RingChoice::Uring => Self::Uring,
            RingChoice::Threads => Self::Threads,
            RingChoice::Null => Self::Null,
        }
    }
}
