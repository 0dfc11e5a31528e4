//! What was said to the verbs that change layers.

use clap::Args;
use std::path::PathBuf;

/// `ploop snapshot-switch`
#[derive(Debug, Args)]
#[command(after_help = "\
What was written since the last snapshot is given up, unless -D keeps it as a snapshot of its own.
The disk must not be open.

Examples:
  ploop snapshot-switch -u UUID /vz/disk
  ploop snapshot-switch -D -u UUID /vz/disk")]
pub struct SnapshotSwitch {
    /// The snapshot to go back to
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: String,
    /// Keep the present state as a snapshot
    #[arg(short = 'D')]
    pub keep: bool,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop snapshot-delete`
#[derive(Debug, Args)]
#[command(after_help = "\
A snapshot with one child is merged with it; one with several goes when all but one are gone.
The name of the top ({5fbaabe3-6958-40ff-92a7-860e329aab41}) gives up what was written since the
last snapshot.

Examples:
  ploop snapshot-delete -u UUID /vz/disk")]
pub struct SnapshotDelete {
    /// The snapshot
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: String,
    /// How fast, at most
    #[command(flatten)]
    pub pace: Pace,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop snapshot-merge`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -u and -A the top is merged into its parent. Until everything is copied the disk is what it
was: Ctrl-C takes the merge back.

Examples:
  ploop snapshot-merge /vz/disk                   the top into its parent
  ploop snapshot-merge -u UUID /vz/disk           this snapshot into its parent
  ploop snapshot-merge -A --rate 50M /vz/disk     everything into the base")]
pub struct SnapshotMerge {
    /// This snapshot into its parent
    #[arg(short = 'u', value_name = "UUID", conflicts_with = "all")]
    pub uuid: Option<String>,
    /// Everything into the base
    #[arg(short = 'A')]
    pub all: bool,
    #[arg(short = 'n', hide = true)]
    pub new: Option<PathBuf>,
    /// How fast, at most
    #[command(flatten)]
    pub pace: Pace,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// How fast a copy may go.
#[derive(Debug, Args)]
pub struct Pace {
    /// Bytes per second, at most (K, M, G)
    #[arg(long, value_name = "BYTES")]
    pub rate: Option<String>,
    /// Drop the dirty bitmap (change tracking) rather than refuse
    #[arg(long)]
    pub drop_cbt: bool,
}

/// `ploop grow`
#[derive(Debug, Args)]
#[command(after_help = "\
Makes the device larger, not the file system on it (ploop resize does both). SIZE without a suffix
is in sectors of 512 bytes.

Examples:
  ploop grow -s 20G /vz/disk
  ploop grow -s 20G /vz/disk/root.hds")]
pub struct Grow {
    /// The new size
    #[arg(short)]
    pub size: String,
    #[arg(short, hide = true)]
    pub format: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Drop the dirty bitmap (change tracking) rather than keep it
    #[arg(long)]
    pub drop_cbt: bool,
    /// The disk, or one image
    #[arg(value_name = "DISK|DELTA")]
    pub target: PathBuf,
}
