//! What was said to the verbs that change layers.

use crate::args::{Files, Mount, Serving};
use clap::Args;
use std::path::PathBuf;

/// `ploop snapshot-switch`
#[derive(Debug, Args)]
#[command(after_help = "\
What was written since the last snapshot is given up, unless -D keeps it as a snapshot of its own.
The disk must not be open: what a mounted file system holds would change under it.

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
    #[command(flatten)]
    pub files: Files,
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
    #[command(flatten)]
    pub files: Files,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop snapshot-merge`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -u and -A the top is merged into its parent. The disk may be in use: its server does the
work then, and ploop jobs shows it. Ctrl-C ends the merge: of a closed disk it is taken back, of an
open one the next merge goes on with it.

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
    #[command(flatten)]
    pub files: Files,
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

/// `ploop jobs`
#[derive(Debug, Args)]
#[command(after_help = "\
A job that is cancelled leaves the disk whole: a merge that was begun goes on with the next one.

Examples:
  ploop jobs /vz/disk
  ploop jobs --cancel 3 /vz/disk
  ploop jobs --set-rate 3 --rate 50M /vz/disk      as fast as it goes without --rate")]
pub struct Jobs {
    /// End this job where it does no harm
    #[arg(long, value_name = "JOB")]
    pub cancel: Option<u64>,
    /// Change the rate of this job
    #[arg(long, value_name = "JOB")]
    pub set_rate: Option<u64>,
    /// Bytes per second, at most (K, M, G)
    #[arg(long, value_name = "BYTES", requires = "set_rate")]
    pub rate: Option<String>,
    /// The disk, its device or its mount point
    #[arg(value_name = "DISK|DEVICE")]
    pub disk: PathBuf,
}

/// `ploop tsnapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
For backups: what is mounted stays as it is while the disk is used, and ploop umount merges the
snapshot away again.

Examples:
  ploop tsnapshot -m /mnt/backup /vz/disk
  ploop umount -m /mnt/backup")]
pub struct TemporarySnapshot {
    /// Name of the snapshot [default: a random one]
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short, hide = true)]
    pub component: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Where to mount it; only attached without
    #[arg(short, value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Mount options
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Option<String>,
    /// How it is served
    #[command(flatten)]
    pub serving: Serving,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

impl TemporarySnapshot {
    /// The mount of the snapshot.
    pub fn mount(self, disk: PathBuf, uuid: String) -> Mount {
        Mount {
            read_only: true,
            fsck: false,
            mountpoint: self.mountpoint,
            fstype: None,
            options: self.options,
            no_probe: false,
            format: None,
            blocksize: None,
            device: None,
            uuid: Some(uuid),
            component: None,
            quota: false,
            all: false,
            disks: vec![disk],
            serving: self.serving,
        }
    }
}

/// `ploop resize`
#[derive(Debug, Args)]
#[command(after_help = "\
Grows the device, its last partition and the ext4, xfs, btrfs or LVM physical volume in it, mounted
or not. With several of them --partition says which; whatever cannot be done is refused before
anything changes. A smaller size makes an ext4 that is not mounted smaller; the device keeps its
size and the space is given back.

Examples:
  ploop resize -s 20G /vz/disk
  ploop resize -s 20G --partition 2 /vz/disk")]
pub struct Resize {
    /// The new size
    #[arg(short)]
    pub size: Option<String>,
    #[arg(short, hide = true)]
    pub balloon: bool,
    /// Accepted for the original's sake: a mounted disk stays mounted
    #[arg(short, hide = true)]
    pub online: bool,
    #[arg(short = 'p', hide = true)]
    pub namespace: Option<String>,
    /// The partition to resize, when several have a file system
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// How a disk that is not open is served
    #[command(flatten)]
    pub serving: Serving,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
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
    #[command(flatten)]
    pub files: Files,
    /// The disk, or one image
    #[arg(value_name = "DISK|DELTA")]
    pub target: PathBuf,
}
