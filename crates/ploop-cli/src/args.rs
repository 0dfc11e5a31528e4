//! What was said: the command line as clap reads it. What it means is in [`crate::plan`].

use crate::layer_args::{
    Grow, Jobs, Resize, SnapshotDelete, SnapshotMerge, SnapshotSwitch, TemporarySnapshot,
};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Verbs of the original tool that are not built yet (T18).
pub const NOT_YET: &[&str] = &[
    "fscheck",
    "convert",
    "resize",
    "tsnapshot",
    "merge",
    "replace",
    "copy",
    "encrypt",
    "start",
    "stop",
    "clear",
    "delete",
    "rm",
    "tg-init",
    "tg-deinit",
    "tg-status",
    "degrade",
];

/// ploop disks on any Linux: create, serve, attach, mount, snapshot, check.
#[derive(Debug, Parser)]
#[command(
    name = "ploop",
    version,
    disable_help_subcommand = true,
    after_help = "\
Wherever DISK is wanted: DiskDescriptor.xml, its directory, or a lone image.

Examples:
  ploop init -s 10G /vz/disk/root.hds             a disk with an ext4 file system
  ploop mount -m /mnt /vz/disk                    attach and mount it
  ploop umount -m /mnt                            and back
  ploop serve /vz/disk --nbd unix:/run/disk.sock  export it over NBD
  ploop check /vz/disk                            is it in order?

Exit codes: 0 done, 11 bad image, 17 busy, 37 in use, 38 bad option, 39 bad descriptor,
40 not mounted; the others as in the original tool."
)]
pub struct Cli {
    /// More words; only before the verb (-v, -vvv, -v5)
    #[arg(short, action = ArgAction::Count)]
    pub verbose: u8,
    /// One JSON object on stdout; errors as JSON on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create a disk: image, DiskDescriptor.xml and a file system
    Init(Init),
    /// Serve a disk in the foreground
    Serve(Serve),
    /// Make a block device of a disk, in the background
    Attach(Attach),
    /// Take the block device of a disk away
    Detach(Detach),
    /// Export an open disk, or a snapshot of it, at one more NBD address
    Export(Export),
    /// Attach a disk and mount its file system
    Mount(Mount),
    /// Unmount the file system of a disk and detach it
    Umount(Umount),
    /// Show space and inodes in use, or size, or device
    Info(Info),
    /// Show what an open disk does: requests, latencies, dirty pages
    Stat(Stat),
    /// List the disks that are open on this host
    List(List),
    /// Freeze the present state of a disk, or of several at one moment
    Snapshot(Snapshot),
    /// List the snapshots of a disk
    SnapshotList(SnapshotList),
    /// Go back to a snapshot
    SnapshotSwitch(SnapshotSwitch),
    /// Delete a snapshot
    SnapshotDelete(SnapshotDelete),
    /// Merge snapshots into what they lie on
    SnapshotMerge(SnapshotMerge),
    /// Show, cancel and slow down what takes long on an open disk
    Jobs(Jobs),
    /// Mount the present state read-only beside the disk, until it is unmounted
    Tsnapshot(TemporarySnapshot),
    /// Make a disk and the file system on it larger, or the file system smaller
    Resize(Resize),
    /// Make a disk larger
    Grow(Grow),
    /// Check the images of a disk; nothing is written
    #[command(alias = "fsck")]
    Check(Check),
    /// Write a descriptor for a lone image
    RestoreDescriptor(RestoreDescriptor),
    /// Show which image has which part of a disk
    Map(Map),
    /// Measure a disk in this process, or the same load on a plain file
    Bench(Bench),
    /// Write man pages or the completions of a shell
    Generate(Generate),
    /// The process that thaws a file system.
    #[command(name = crate::host::freeze::VERB, hide = true)]
    FreezeWatch {
        /// What is mounted
        device: PathBuf,
        /// Where, each as NUMBER:PATH
        mounts: Vec<std::ffi::OsString>,
    },
    /// What the udev rule asks: the properties of a device.
    #[command(name = "udev", hide = true)]
    Udev {
        /// The device or partition
        device: PathBuf,
    },
    /// The process behind attach.
    #[command(name = ploop_daemon::background::VERB, hide = true)]
    ServeInBackground,
    /// Anything else: `ploop-VERB` in PATH.
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

/// `ploop init`
#[derive(Debug, Args)]
#[command(after_help = "\
SIZE without a suffix is in sectors of 512 bytes; K, M, G, T are powers of 1024 bytes.

Examples:
  ploop init -s 10G /vz/disk/root.hds            ext4 in a GPT partition
  ploop init -s 10G -t none /vz/disk/root.hds    no file system
  ploop init -s 1T -t xfs -P /vz/disk/root.hds   xfs on the bare device")]
pub struct Init {
    /// Size of the disk
    #[arg(short)]
    pub size: String,
    /// ploop1 (= expanded), preallocated or raw
    #[arg(short, default_value = "expanded")]
    pub format: String,
    /// Version of the image format: 1 or 2
    #[arg(short = 'v', value_name = "VERSION", default_value = "2")]
    pub version: String,
    /// Cluster size in sectors: a power of two, 64 to 131072
    #[arg(short, value_name = "SECTORS", default_value = "2048")]
    pub blocksize: String,
    /// File system: none, ext4 or xfs
    #[arg(short = 't', value_name = "FSTYPE", default_value = "ext4")]
    pub fstype: String,
    /// No partition table
    #[arg(short = 'P')]
    pub no_partition: bool,
    /// Block size of the file system in bytes
    #[arg(short = 'B', value_name = "BYTES", default_value = "4096")]
    pub fs_block: String,
    /// Label of the file system
    #[arg(short = 'L', value_name = "LABEL")]
    pub label: Option<String>,
    /// Initialize the inode tables now (ext4)
    #[arg(short, long)]
    pub nolazy: bool,
    /// Make a raw image as a sparse file
    #[arg(short = 'S', long)]
    pub sparse: bool,
    #[arg(short = 'k', hide = true)]
    pub key: Option<String>,
    #[arg(short = 'T', hide = true)]
    pub kind: Option<String>,
    /// The image file; DiskDescriptor.xml comes beside it
    pub image: PathBuf,
}

/// Which files a disk may have, of a verb that only reads.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// Let the descriptor name images outside its directory
    #[arg(long)]
    pub allow_outside: bool,
}

/// Which files a disk may have and change.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Files {
    /// Let the descriptor name images outside its directory; they are only read
    #[arg(long)]
    pub allow_outside: bool,
    /// Change such images too, and those with several hard links: whoever else has them sees it
    #[arg(long)]
    pub change_shared: bool,
}

/// How a disk is served.
#[derive(Debug, Args)]
pub struct Serving {
    /// Open read-only
    #[arg(long, alias = "read-only")]
    pub ro: bool,
    /// Queue threads [default: one per CPU, at most 4]
    #[arg(long, value_name = "N")]
    pub queues: Option<usize>,
    /// When the host has no space: hold the request and retry, or return the error
    #[arg(long, value_name = "hold|error", default_value = "hold")]
    pub on_enospc: String,
    /// How files are read and written: auto, uring or threads
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub io_engine: String,
    /// Milliseconds a changed mapping may wait before it is written
    #[arg(long, value_name = "MS", default_value = "250")]
    pub metadata_delay: u64,
    /// Space kept ready ahead of writes grows up to SIZE, and a hundredth of what the host has free
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub prealloc: String,
    /// Drop the dirty bitmap (change tracking) rather than refuse to write
    #[arg(long)]
    pub drop_cbt: bool,
    #[command(flatten)]
    pub files: Files,
    /// Serve metrics for Prometheus over HTTP: unix:PATH or tcp:ADDR:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// Let members of GROUP see the disk in `ploop list`; nothing else of it is open to them
    #[arg(long, value_name = "GROUP")]
    pub visible_to: Option<String>,
    /// Let NBD and --metrics listen on other than loopback addresses: no password, no encryption
    #[arg(long)]
    pub insecure_listen: bool,
}

/// `ploop serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints `ready EXPORT` on stdout for each export when it answers. SIGTERM stops it clean.

Examples:
  ploop serve /vz/disk --nbd unix:/run/disk.sock
  ploop serve /vz/disk --nbd tcp:127.0.0.1:10809 --export-name disk --ro
  ploop serve /vz/disk --fuse /tmp/disk.raw
  ploop serve /vz/disk --vhost-user /run/disk.vhost
  ploop serve /vz/disk --nbd unix:/run/disk.sock --metrics tcp:127.0.0.1:9100")]
pub struct Serve {
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
    /// Export over NBD: unix:PATH, tcp:ADDR or tcp:ADDR:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<String>,
    /// Export as one file, mounted over FILE
    #[arg(long, value_name = "FILE")]
    pub fuse: Vec<PathBuf>,
    /// Export to a virtual machine: vhost-user-blk on the unix socket PATH
    #[arg(long, value_name = "PATH")]
    pub vhost_user: Vec<PathBuf>,
    /// Name of the NBD export
    #[arg(long, value_name = "NAME", default_value = "")]
    pub export_name: String,
    #[command(flatten)]
    pub serving: Serving,
}

/// `ploop attach`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the path of the device on stdout when it is ready.

Examples:
  dev=$(ploop attach /vz/disk)
  ploop detach $dev
  ploop attach --name=data /vz/disk     also /dev/ploop/data
  ploop attach --foreground /vz/disk    for a service manager; SIGTERM detaches")]
pub struct Attach {
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
    /// How the device is made: ublk, nbd (the kernel's client), loop (FUSE + loop device), or
    /// auto: the first that works. ublk-copy, ublk-user-copy and ublk-zero-copy also say how data
    /// moves
    #[arg(long, value_name = "TRANSPORT", default_value = "auto")]
    pub via: String,
    /// Make the device /dev/ploop/NAME too; without =NAME that of the disk's directory
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true,
        default_missing_value = "")]
    pub name: Option<String>,
    /// Serve in this process, until SIGTERM or detach; a service manager is told (Type=notify)
    #[arg(long)]
    pub foreground: bool,
    #[command(flatten)]
    pub serving: Serving,
}

/// `ploop export`
#[derive(Debug, Args)]
#[command(after_help = "\
The disk must be open. A snapshot gets a server of its own, which ends with its address.

Examples:
  ploop export /vz/disk unix:/run/backup.sock --ro
  ploop export /vz/disk tcp:127.0.0.1:10810 -u {uuid}
  ploop export --remove /vz/disk unix:/run/backup.sock")]
pub struct Export {
    /// The disk, or its device
    #[arg(value_name = "DISK|DEV")]
    pub target: PathBuf,
    /// unix:PATH, tcp:ADDR or tcp:ADDR:PORT of this host
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// Name of the NBD export
    #[arg(long, value_name = "NAME", default_value = "")]
    pub export_name: String,
    /// Clients cannot write
    #[arg(long)]
    pub ro: bool,
    /// A snapshot of the disk, read-only
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    /// Take the address away
    #[arg(long, conflicts_with_all = ["export_name", "ro", "uuid"])]
    pub remove: bool,
    /// Though it has clients
    #[arg(long, requires = "remove")]
    pub force: bool,
}

/// `ploop detach`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop detach /dev/loop3
  ploop detach /vz/disk/DiskDescriptor.xml
  ploop detach --keep /dev/ublkb0        the next `attach` goes on with it")]
pub struct Detach {
    /// The device, or the disk
    #[arg(value_name = "DEV|DISK")]
    pub target: PathBuf,
    /// Though the device is in use: its users get errors
    #[arg(long)]
    pub force: bool,
    /// Close the disk and leave its device (ublk, Linux 6.16) to the next `attach`; whoever
    /// uses it waits
    #[arg(long, conflicts_with = "force")]
    pub keep: bool,
}

/// `ploop mount`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -m the disk is only attached. With mount(8), --allow-outside, --change-shared and
--visible-to are options behind -o: mount -t ploop -o visible-to=adm /vz/disk /mnt.

Examples:
  ploop mount -m /mnt /vz/disk
  ploop mount -r -o noatime -m /mnt /vz/disk/DiskDescriptor.xml")]
pub struct Mount {
    /// Read-only, the disk too
    #[arg(short = 'r')]
    pub read_only: bool,
    /// Check the file system first and repair what can be repaired without asking
    #[arg(short = 'F')]
    pub fsck: bool,
    /// Where to mount
    #[arg(short = 'm', value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Type of the file system [default: found out]
    #[arg(short = 't', value_name = "FSTYPE")]
    pub fstype: Option<String>,
    /// Options for mount(8)
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Option<String>,
    /// Accepted for the original's sake: partitions are added without a probe
    #[arg(short = 'n', hide = true)]
    pub no_probe: bool,
    #[arg(short = 'f', hide = true)]
    pub format: Option<String>,
    #[arg(short = 'b', hide = true)]
    pub blocksize: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// This snapshot, read-only, beside the disk if that is open
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short = 'c', hide = true)]
    pub component: Option<String>,
    #[arg(short = 'q', hide = true)]
    pub quota: bool,
    #[arg(short = 'a', hide = true)]
    pub all: bool,
    /// The disk
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<PathBuf>,
    #[command(flatten)]
    pub serving: Serving,
}

/// `ploop generate`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop generate man /usr/share/man/man1
  ploop generate completions bash > /usr/share/bash-completion/completions/ploop")]
pub struct Generate {
    /// What to write.
    #[command(subcommand)]
    pub what: Generated,
}

/// What `ploop generate` writes.
#[derive(Debug, Subcommand)]
pub enum Generated {
    /// One page for ploop and one for each verb
    Man {
        /// Where to; it is made when it does not exist
        dir: PathBuf,
    },
    /// The completions of a shell, to stdout
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `ploop umount`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop umount -m /mnt
  ploop umount -d /dev/loop3
  ploop umount /vz/disk/DiskDescriptor.xml")]
pub struct Umount {
    /// The mount point
    #[arg(short = 'm', value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// The device
    #[arg(short = 'd', value_name = "DEV")]
    pub device: Option<String>,
    #[arg(short = 'c', hide = true)]
    pub component: Option<String>,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: Option<PathBuf>,
}

/// `ploop info`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop info /vz/disk       space and inodes of the file system
  ploop info -s /vz/disk    size, cluster size (sectors) and format version
  ploop info -d /vz/disk    the device it is attached to")]
pub struct Info {
    /// Size, cluster size and format version
    #[arg(short = 's')]
    pub size: bool,
    /// Device and partition
    #[arg(short = 'd')]
    pub device: bool,
    #[arg(short = 'b', hide = true)]
    pub bat: bool,
    #[command(flatten)]
    pub files: Reading,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop stat`
#[derive(Debug, Args)]
#[command(after_help = "\
Without --watch: everything since the disk was opened. With it: rates, every SECONDS, until the
disk is closed. Latency is from the hand-in of a request to its end, as seen by turns of its queue.
docs/stats.md explains every number. Exit code 40: the disk is not open.

Examples:
  ploop stat /vz/disk
  ploop stat -d /dev/loop3 --watch
  ploop stat /vz/disk --watch 5 --count 12
  ploop stat --json /vz/disk
  ploop stat --prometheus /vz/disk")]
pub struct Stat {
    /// The device
    #[arg(short = 'd', value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// Again and again, with rates [default: every second]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
    pub watch: Option<Option<String>>,
    /// Stop watching after so many times
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<u64>,
    /// OpenMetrics text, as --metrics serves it
    #[arg(long, conflicts_with = "watch")]
    pub prometheus: bool,
    /// The device, or the disk
    #[arg(value_name = "DEV|DISK")]
    pub target: Option<PathBuf>,
}

/// `ploop list`
#[derive(Debug, Args)]
#[command(after_help = "\
Columns: device, base image. --long adds the server, its exports and the mount point.

Examples:
  ploop list
  ploop list --long
  ploop list --json")]
pub struct List {
    /// The mount point too
    #[arg(short = 'a')]
    pub all: bool,
    /// Every delta
    #[arg(short = 'f')]
    pub files: bool,
    /// A table with everything
    #[arg(long)]
    pub long: bool,
}

/// `ploop snapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints nothing; with --json the new snapshot. The disk may be in use: its requests wait, and a
mounted file system is frozen for it. Several disks are frozen at one moment, or none is.

Examples:
  ploop snapshot /vz/disk
  ploop snapshot -u $(uuidgen) /vz/disk/DiskDescriptor.xml")]
pub struct Snapshot {
    /// Name of the snapshot [default: a random one]
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short = 'b', hide = true)]
    pub cbt: Option<String>,
    /// Accepted for the original's sake: an open disk stays open
    #[arg(short = 'o', hide = true)]
    pub offline: bool,
    /// Do not freeze the file system of a mounted disk
    #[arg(short = 'F')]
    pub no_freeze: bool,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Drop the dirty bitmap (change tracking) rather than refuse
    #[arg(long)]
    pub drop_cbt: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<PathBuf>,
}

/// `ploop snapshot-list`
#[derive(Debug, Args)]
#[command(after_help = "\
Fields: parent_uuid, current, uuid, fname.

Examples:
  ploop snapshot-list /vz/disk
  ploop snapshot-list -H -o uuid,fname /vz/disk")]
pub struct SnapshotList {
    /// No header line
    #[arg(short = 'H', long = "no-header")]
    pub no_header: bool,
    /// Which fields, in which order
    #[arg(short, long, value_name = "FIELD,FIELD...")]
    pub output: Option<String>,
    /// This image and its ancestors
    #[arg(short, long = "uuid", alias = "id", value_name = "UUID")]
    pub uuid: Option<String>,
    /// Leave out the top delta; the star is at its parent
    #[arg(short, long = "snapshot")]
    pub snapshots: bool,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop check`
#[derive(Debug, Args)]
#[command(after_help = "\
Reports and writes nothing. 0: fine. 11: damaged. 37: only the in-use mark is set (the server
was killed; opening the disk once puts it right). 17: a conversion was interrupted.

Examples:
  ploop check -f /vz/disk
  ploop check --json /vz/disk/root.hds")]
pub struct Check {
    /// Though the image is marked clean
    #[arg(short, long)]
    pub force: bool,
    /// Look for clusters used twice (always done)
    #[arg(short, long)]
    pub check: bool,
    /// Read-only (always so)
    #[arg(short, long)]
    pub ro: bool,
    /// Say nothing
    #[arg(short, long)]
    pub silent: bool,
    #[arg(short = 'F', long = "hard-force", hide = true)]
    pub hard_force: bool,
    #[arg(short = 'd', long = "drop-inuse", hide = true)]
    pub drop_inuse: bool,
    #[arg(short = 'R', long = "raw", hide = true)]
    pub raw: bool,
    #[arg(short = 'b', hide = true)]
    pub blocksize: Option<String>,
    #[arg(short = 'S', long = "repair-sparse", hide = true)]
    pub repair_sparse: bool,
    #[arg(short = 'D', long = "defrag", hide = true)]
    pub defrag: bool,
    #[arg(short = 'u', hide = true)]
    pub uuid: Option<String>,
    #[command(flatten)]
    pub files: Reading,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop restore-descriptor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop restore-descriptor /vz/disk /vz/disk/root.hds
  ploop restore-descriptor -f raw -b 2048 /vz/disk /vz/disk/root.raw")]
pub struct RestoreDescriptor {
    /// Format of the image [default: found out]
    #[arg(short, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Cluster size in sectors, for a raw image
    #[arg(short, value_name = "SECTORS")]
    pub blocksize: Option<String>,
    /// Where DiskDescriptor.xml goes
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
}

/// `ploop map`
#[derive(Debug, Args)]
#[command(after_help = "\
Shows the stored ranges: offset, length, level (base = 0) and file.

Examples:
  ploop map /vz/disk
  ploop map --json /vz/disk")]
pub struct Map {
    #[command(flatten)]
    pub files: Reading,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop bench`
#[derive(Debug, Args)]
#[command(after_help = "\
SIZE is in bytes; K, M, G, T are powers of 1024. Modes that write destroy what is stored.
--io null does no I/O at all: the cost of the software alone.

Examples:
  ploop bench /vz/disk --rw randread --depth 32 --time 10
  ploop bench /vz/disk --rw randwrite --lanes 16 --destroy
  ploop bench --raw /vz/file --rw randread --json")]
pub struct Bench {
    /// read, write, randread, randwrite or randrw
    #[arg(long, value_name = "MODE", default_value = "randread")]
    pub rw: String,
    /// Bytes of each request
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    pub bs: String,
    /// Requests in flight on each queue: 1 to 128
    #[arg(long, value_name = "N", default_value = "32")]
    pub depth: usize,
    /// Queues, each with a thread
    #[arg(long, alias = "jobs", value_name = "N", default_value = "1")]
    pub queues: usize,
    /// Seconds
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub time: f64,
    /// End after that many requests
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Each of the requests in flight flushes after every N of its own
    #[arg(long, value_name = "N")]
    pub flush_every: Option<u32>,
    /// N lanes on each queue that write, flush and wait: depth N, --flush-every 1
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Where on the disk it begins
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub offset: String,
    /// How much of the disk from there
    #[arg(long, value_name = "SIZE")]
    pub range: Option<String>,
    /// Seed of the random places
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Load the map first
    #[arg(long)]
    pub warm: bool,
    /// How files are read and written: auto, uring, threads or null
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub io: String,
    /// Space kept ready ahead of writes grows up to SIZE, as of `serve`
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub prealloc: String,
    /// Milliseconds a changed mapping may wait before it is written, as of `serve`
    #[arg(long, value_name = "MS", default_value = "250")]
    pub metadata_delay: u64,
    /// The file is loaded as it is, not as a disk
    #[arg(long)]
    pub raw: bool,
    /// What is stored may be lost; needed by modes that write
    #[arg(long)]
    pub destroy: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk, or the file for --raw
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}
