//! What was said to the verbs that change layers.

use crate::args::{Files, Mount, Serving};
use clap::Args;
use std::path::PathBuf;

/// `ploop snapshot-switch`
#[derive(Debug, Args)]
#[command(after_help = "\
Discards what was written since the last snapshot, unless -D keeps it as another snapshot. The disk
must not be open, because a mounted file system would find its data changed.

Examples:
  ploop snapshot-switch -u UUID /vz/disk
  ploop snapshot-switch -D -u UUID /vz/disk")]
pub struct SnapshotSwitch {
    /// Switch back to this snapshot
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: String,
    /// Keep the present state as a snapshot
    #[arg(short = 'D')]
    pub keep: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop snapshot-delete`
#[derive(Debug, Args)]
#[command(after_help = "\
If the snapshot has one child, the two are merged. If it has several, it is marked, and removed when
only one child is left. Deleting the UUID of the top, {5fbaabe3-6958-40ff-92a7-860e329aab41},
discards everything written since the last snapshot.

Examples:
  ploop snapshot-delete -u UUID /vz/disk")]
pub struct SnapshotDelete {
    /// Delete this snapshot
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: String,
    /// Limit the speed of the copy
    #[command(flatten)]
    pub pace: Pace,
    #[command(flatten)]
    pub files: Files,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop snapshot-merge`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -u and -A, the top is merged into its parent. The disk may be in use: then its server does
the work, and `ploop jobs` shows it. Ctrl-C cancels: a closed disk is restored to its state before
the merge; on an open disk the part already merged is kept, and the next merge continues.

Examples:
  ploop snapshot-merge /vz/disk                   the top into its parent
  ploop snapshot-merge -u UUID /vz/disk           this snapshot into its parent
  ploop snapshot-merge -A --rate 50M /vz/disk     everything into the base")]
pub struct SnapshotMerge {
    /// Merge this snapshot into its parent
    #[arg(short = 'u', value_name = "UUID", conflicts_with = "all")]
    pub uuid: Option<String>,
    /// Merge all levels into the base
    #[arg(short = 'A')]
    pub all: bool,
    #[arg(short = 'n', hide = true)]
    pub new: Option<PathBuf>,
    /// Limit the speed of the copy
    #[command(flatten)]
    pub pace: Pace,
    #[command(flatten)]
    pub files: Files,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// How fast a copy may go.
#[derive(Debug, Args)]
pub struct Pace {
    /// Copy at most so many bytes per second (K, M, G)
    #[arg(long, value_name = "BYTES")]
    pub rate: Option<String>,
    /// Drop the change-tracking bitmap of the image instead of refusing
    #[arg(long)]
    pub drop_cbt: bool,
}

/// `ploop jobs`
#[derive(Debug, Args)]
#[command(after_help = "\
The disk stays valid when a job is cancelled; the next merge continues a cancelled one.

Examples:
  ploop jobs /vz/disk
  ploop jobs --cancel 3 /vz/disk
  ploop jobs --set-rate 3 --rate 50M /vz/disk      without --rate: no limit")]
pub struct Jobs {
    /// Cancel this job; what it has done so far stays valid
    #[arg(long, value_name = "JOB")]
    pub cancel: Option<u64>,
    /// Change the rate limit of this job
    #[arg(long, value_name = "JOB")]
    pub set_rate: Option<u64>,
    /// Copy at most so many bytes per second (K, M, G)
    #[arg(long, value_name = "BYTES", requires = "set_rate")]
    pub rate: Option<String>,
    /// The disk, its device or its mount point
    #[arg(value_name = "DISK|DEVICE")]
    pub disk: PathBuf,
}

/// `ploop tsnapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
For backups: the mounted snapshot does not change while the disk is in use, and `ploop umount`
deletes it by merging it again.

Examples:
  ploop tsnapshot -m /mnt/backup /vz/disk
  ploop umount -m /mnt/backup")]
pub struct TemporarySnapshot {
    /// Set the UUID of the snapshot [default: a random one]
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short, hide = true)]
    pub component: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Mount the snapshot here; without it, it is only attached
    #[arg(short, value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Mount this partition [default: the first one with a file system]
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// Pass options to mount(8)
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Option<String>,
    /// How it is served
    #[command(flatten)]
    pub serving: Serving,
    /// The disk: DiskDescriptor.xml, its directory, or an image
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
            partition: self.partition,
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
or not. If there are several, --partition selects one. What cannot be done is refused before
anything changes. A smaller size shrinks an ext4 file system that is not mounted; the device keeps
its size, and the freed space is returned to the host.

Examples:
  ploop resize -s 20G /vz/disk
  ploop resize -s 20G --partition 2 /vz/disk")]
pub struct Resize {
    /// Set the new size
    #[arg(short)]
    pub size: Option<String>,
    #[arg(short, hide = true)]
    pub balloon: bool,
    /// Accepted for compatibility, without effect: a mounted disk stays mounted
    #[arg(short, hide = true)]
    pub online: bool,
    #[arg(short = 'p', hide = true)]
    pub namespace: Option<String>,
    /// Resize this partition, when several have a file system
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// How a disk that is not open is served
    #[command(flatten)]
    pub serving: Serving,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop grow`
#[derive(Debug, Args)]
#[command(after_help = "\
Grows the device, not the file system on it; `ploop resize` grows both. SIZE without a suffix is in
sectors of 512 bytes.

Examples:
  ploop grow -s 20G /vz/disk
  ploop grow -s 20G /vz/disk/root.hds")]
pub struct Grow {
    /// Set the new size
    #[arg(short)]
    pub size: String,
    #[arg(short, hide = true)]
    pub format: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Drop the change-tracking bitmap of the image instead of keeping it
    #[arg(long)]
    pub drop_cbt: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk, or one image
    #[arg(value_name = "DISK|DELTA")]
    pub target: PathBuf,
}

/// `ploop convert`
#[derive(Debug, Args)]
#[command(after_help = "\
A disk that Parallels Desktop has split into pieces becomes a disk in one piece. Every snapshot is
copied into one new image; the old images are removed when all copies are complete. This needs as
much free space as the disk uses. The disk must not be open. Ctrl-C and failures leave the disk as
it was.

Examples:
  ploop convert --one-piece /vz/disk.hdd")]
pub struct Convert {
    /// Join the pieces of a split disk
    #[arg(long)]
    pub one_piece: bool,
    #[arg(short = 'f', hide = true)]
    pub format: Option<String>,
    #[arg(short = 'v', hide = true)]
    pub version: Option<String>,
    #[command(flatten)]
    pub pace: Pace,
    #[command(flatten)]
    pub files: Files,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}
