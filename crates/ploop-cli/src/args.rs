//! What was said: the command line as clap reads it. What it means is in [`crate::plan`].

use crate::layer_args::{
    Convert, Grow, Jobs, Resize, SnapshotDelete, SnapshotMerge, SnapshotSwitch, TemporarySnapshot,
};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Verbs of the original tool that do not exist here yet (T18).
pub const NOT_YET: &[&str] = &[
    "fscheck",
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

/// Create, serve, attach, mount, snapshot and check ploop disks on any Linux
#[derive(Debug, Parser)]
#[command(
    name = "ploop",
    version,
    disable_help_subcommand = true,
    after_help = "\
DISK is a DiskDescriptor.xml, its directory, or an image file on its own.

Examples:
  ploop init -s 10G /vz/disk/root.hds             create a disk with an ext4 file system
  ploop mount -m /mnt /vz/disk                    attach and mount it
  ploop umount -m /mnt                            unmount and detach it
  ploop serve /vz/disk --nbd unix:/run/disk.sock  export it over NBD
  ploop check /vz/disk                            check all its images

Exit codes: 0 done, 11 bad image, 17 busy, 37 in use, 38 bad option, 39 bad descriptor,
40 not mounted; the others as in the original tool."
)]
pub struct Cli {
    /// Increase verbosity; only before the verb (-v, -vvv, -v5)
    #[arg(short, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print one JSON object on stdout, and errors as JSON on stderr
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
    /// Attach a disk as a block device, served in the background
    Attach(Attach),
    /// Remove the block device of a disk and close the disk
    Detach(Detach),
    /// Export an open disk, or a snapshot of it, at another NBD address
    Export(Export),
    /// Attach a disk and mount its file system
    Mount(Mount),
    /// Unmount the file system of a disk and detach it
    Umount(Umount),
    /// Show space and inodes in use, or size, or device
    Info(Info),
    /// Show statistics of an open disk: requests, latencies, dirty pages
    Stat(Stat),
    /// List the disks that are open on this host
    List(List),
    /// Take a snapshot of a disk, or of several at the same point in time
    Snapshot(Snapshot),
    /// List the snapshots of a disk
    SnapshotList(SnapshotList),
    /// Switch a disk back to a snapshot
    SnapshotSwitch(SnapshotSwitch),
    /// Delete a snapshot
    SnapshotDelete(SnapshotDelete),
    /// Merge a snapshot, or the top delta, into its parent
    SnapshotMerge(SnapshotMerge),
    /// Show, cancel and throttle long operations of an open disk
    Jobs(Jobs),
    /// Mount a temporary snapshot read-only; it is deleted when it is unmounted
    Tsnapshot(TemporarySnapshot),
    /// Resize a disk with its partition and file system
    Resize(Resize),
    /// Grow a disk, without its partition and file system
    Grow(Grow),
    /// Convert a disk that is split into pieces to one piece
    Convert(Convert),
    /// Check the images of a disk without changing them
    #[command(alias = "fsck")]
    Check(Check),
    /// Write a DiskDescriptor.xml for an image that has none
    RestoreDescriptor(RestoreDescriptor),
    /// Show which image stores which part of a disk
    Map(Map),
    /// Measure the speed of a disk, or of a plain file under the same load
    Bench(Bench),
    /// Write man pages or shell completions
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
    /// Set the size of the disk
    #[arg(short)]
    pub size: String,
    /// Select the format: ploop1 (= expanded), preallocated or raw
    #[arg(short, default_value = "expanded")]
    pub format: String,
    /// Select the version of the image format: 1 or 2
    #[arg(short = 'v', value_name = "VERSION", default_value = "2")]
    pub version: String,
    /// Set the cluster size in sectors: a power of two, 64 to 131072
    #[arg(short, value_name = "SECTORS", default_value = "2048")]
    pub blocksize: String,
    /// Make this file system: none, ext4 or xfs
    #[arg(short = 't', value_name = "FSTYPE", default_value = "ext4")]
    pub fstype: String,
    /// Put the file system on the bare device, without a partition table
    #[arg(short = 'P')]
    pub no_partition: bool,
    /// Set the block size of the file system in bytes
    #[arg(short = 'B', value_name = "BYTES", default_value = "4096")]
    pub fs_block: String,
    /// Set the label of the file system
    #[arg(short = 'L', value_name = "LABEL")]
    pub label: Option<String>,
    /// Initialize the inode tables now, not lazily (ext4)
    #[arg(short, long)]
    pub nolazy: bool,
    /// Make a raw image as a sparse file
    #[arg(short = 'S', long)]
    pub sparse: bool,
    #[arg(short = 'k', hide = true)]
    pub key: Option<String>,
    #[arg(short = 'T', hide = true)]
    pub kind: Option<String>,
    /// The image file to create, with a DiskDescriptor.xml beside it
    pub image: PathBuf,
}

/// Which files a disk may have, of a verb that only reads.
#[derive(Clone, Copy, Debug, Args)]
pub struct Reading {
    /// Accept images outside the directory of the descriptor
    #[arg(long)]
    pub allow_outside: bool,
}

/// Which files a disk may have and change.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Files {
    /// Accept images outside the directory of the descriptor; they are only read
    #[arg(long)]
    pub allow_outside: bool,
    /// Also change such images and those with several hard links, which other disks may share
    #[arg(long)]
    pub change_shared: bool,
}

/// How a disk is served.
#[derive(Debug, Args)]
pub struct Serving {
    /// Open read-only
    #[arg(long, alias = "read-only")]
    pub ro: bool,
    /// Use N queue threads [default: one per CPU, at most 4]
    #[arg(long, value_name = "N")]
    pub queues: Option<usize>,
    /// Select what happens when the host has no space: hold requests and retry, or return an error
    #[arg(long, value_name = "hold|error", default_value = "hold")]
    pub on_enospc: String,
    /// Select how files are read and written: auto, uring or threads
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub io_engine: String,
    /// Write changed mappings after at most MS milliseconds; a flush writes them at once
    #[arg(long, value_name = "MS", default_value = "250")]
    pub metadata_delay: u64,
    /// Preallocate at most SIZE ahead of writes, never over 1% of the free space of the host
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub prealloc: String,
    /// Drop the change-tracking bitmap of the image instead of refusing to write
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
    /// Allow NBD and --metrics, which have no password and no encryption, on other addresses than
    /// loopback
    #[arg(long)]
    pub insecure_listen: bool,
}

/// `ploop serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints `ready EXPORT` on stdout when an export answers. SIGTERM stops the server cleanly.

Examples:
  ploop serve /vz/disk --nbd unix:/run/disk.sock
  ploop serve /vz/disk --nbd tcp:127.0.0.1:10809 --export-name disk --ro
  ploop serve /vz/disk --fuse /tmp/disk.raw
  ploop serve /vz/disk --vhost-user /run/disk.vhost
  ploop serve /vz/disk --nbd unix:/run/disk.sock --metrics tcp:127.0.0.1:9100")]
pub struct Serve {
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
    /// Export over NBD: unix:PATH, tcp:ADDR or tcp:ADDR:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<String>,
    /// Export the disk as one file, mounted over FILE
    #[arg(long, value_name = "FILE")]
    pub fuse: Vec<PathBuf>,
    /// Export to a virtual machine: vhost-user-blk on the unix socket PATH
    #[arg(long, value_name = "PATH")]
    pub vhost_user: Vec<PathBuf>,
    /// Set the name of the NBD export
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
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
    /// Select the kind of device: ublk, nbd (the kernel's client), loop (FUSE + loop device), or
    /// auto, the first that works; ublk-copy, ublk-user-copy and ublk-zero-copy also select how
    /// data is moved
    #[arg(long, value_name = "TRANSPORT", default_value = "auto")]
    pub via: String,
    /// Link the device as /dev/ploop/NAME; NAME is by default that of the directory of the disk
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true,
        default_missing_value = "")]
    pub name: Option<String>,
    /// Serve in this process until SIGTERM or detach, and notify a service manager (Type=notify)
    #[arg(long)]
    pub foreground: bool,
    #[command(flatten)]
    pub serving: Serving,
}

/// `ploop export`
#[derive(Debug, Args)]
#[command(after_help = "\
The disk must be open. A snapshot is served by a process of its own, which ends when its address is
removed.

Examples:
  ploop export /vz/disk unix:/run/backup.sock --ro
  ploop export /vz/disk tcp:127.0.0.1:10810 -u UUID
  ploop export --remove /vz/disk unix:/run/backup.sock")]
pub struct Export {
    /// The disk, or its device
    #[arg(value_name = "DISK|DEV")]
    pub target: PathBuf,
    /// The address to listen on: unix:PATH, tcp:ADDR or tcp:ADDR:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// Set the name of the NBD export
    #[arg(long, value_name = "NAME", default_value = "")]
    pub export_name: String,
    /// Export read-only
    #[arg(long)]
    pub ro: bool,
    /// Export this snapshot of the disk, read-only
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    /// Stop listening on the address
    #[arg(long, conflicts_with_all = ["export_name", "ro", "uuid"])]
    pub remove: bool,
    /// Stop listening even if there are clients; they are disconnected
    #[arg(long, requires = "remove")]
    pub force: bool,
}

/// `ploop detach`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ploop detach /dev/loop3
  ploop detach /vz/disk/DiskDescriptor.xml
  ploop detach --keep /dev/ublkb0        the next `attach` takes it over")]
pub struct Detach {
    /// The device, or the disk
    #[arg(value_name = "DEV|DISK")]
    pub target: PathBuf,
    /// Detach even if the device is in use; its users get I/O errors
    #[arg(long)]
    pub force: bool,
    /// Close the disk but keep its device (ublk, Linux 6.16) for the next `attach`; requests wait
    /// meanwhile
    #[arg(long, conflicts_with = "force")]
    pub keep: bool,
}

/// `ploop mount`
#[derive(Debug, Args)]
#[command(after_help = "\
Without -m the disk is only attached. With mount(8), --partition, --allow-outside, --change-shared
and --visible-to are options behind -o: mount -t ploop -o partition=2 /vz/disk /mnt.

Examples:
  ploop mount -m /mnt /vz/disk
  ploop mount -r -o noatime -m /mnt /vz/disk/DiskDescriptor.xml
  ploop mount --partition 2 -m /mnt /vz/disk")]
pub struct Mount {
    /// Mount read-only, and open the disk read-only
    #[arg(short = 'r')]
    pub read_only: bool,
    /// Check the file system first, and repair what is safe to repair
    #[arg(short = 'F')]
    pub fsck: bool,
    /// Mount on this directory
    #[arg(short = 'm', value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Set the type of the file system [default: detected]
    #[arg(short = 't', value_name = "FSTYPE")]
    pub fstype: Option<String>,
    /// Mount this partition [default: the first one with a file system]
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// Pass options to mount(8)
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Option<String>,
    /// Accepted for compatibility, without effect: partitions are added without a probe
    #[arg(short = 'n', hide = true)]
    pub no_probe: bool,
    #[arg(short = 'f', hide = true)]
    pub format: Option<String>,
    #[arg(short = 'b', hide = true)]
    pub blocksize: Option<String>,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Mount this snapshot read-only, also while the disk is open
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short = 'c', hide = true)]
    pub component: Option<String>,
    #[arg(short = 'q', hide = true)]
    pub quota: bool,
    #[arg(short = 'a', hide = true)]
    pub all: bool,
    /// The disk: DiskDescriptor.xml, its directory, or an image
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
    /// What to write
    #[command(subcommand)]
    pub what: Generated,
}

/// What `ploop generate` writes.
#[derive(Debug, Subcommand)]
pub enum Generated {
    /// Write a man page for ploop and one for each verb
    Man {
        /// The directory to write to; it is created when it does not exist
        dir: PathBuf,
    },
    /// Write the completions of a shell to stdout
    Completions {
        /// The shell
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
    /// Unmount what is mounted here
    #[arg(short = 'm', value_name = "DIR")]
    pub mountpoint: Option<PathBuf>,
    /// Unmount what is on this device
    #[arg(short = 'd', value_name = "DEV")]
    pub device: Option<String>,
    #[arg(short = 'c', hide = true)]
    pub component: Option<String>,
    /// The disk: DiskDescriptor.xml, its directory, or an image
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
    /// Show size, cluster size and format version
    #[arg(short = 's')]
    pub size: bool,
    /// Show device and partition
    #[arg(short = 'd')]
    pub device: bool,
    #[arg(short = 'b', hide = true)]
    pub bat: bool,
    #[command(flatten)]
    pub files: Reading,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop stat`
#[derive(Debug, Args)]
#[command(after_help = "\
Without --watch, prints totals since the disk was opened. With --watch, prints rates every SECONDS
until the disk is closed. Latency is the time from the submission of a request to its completion,
measured once per pass of its queue. docs/stats.md explains every number. Exit code 40: the disk is
not open.

Examples:
  ploop stat /vz/disk
  ploop stat -d /dev/loop3 --watch
  ploop stat /vz/disk --watch 5 --count 12
  ploop stat --json /vz/disk
  ploop stat --prometheus /vz/disk")]
pub struct Stat {
    /// Show the disk of this device
    #[arg(short = 'd', value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// Repeat every SECONDS seconds, with rates [default: 1]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1)]
    pub watch: Option<Option<String>>,
    /// Stop watching after N times
    #[arg(long, value_name = "N", requires = "watch")]
    pub count: Option<u64>,
    /// Print OpenMetrics text, as --metrics serves it
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
    /// Show the mount point too
    #[arg(short = 'a')]
    pub all: bool,
    /// Show every delta
    #[arg(short = 'f')]
    pub files: bool,
    /// Show a table with everything
    #[arg(long)]
    pub long: bool,
}

/// `ploop snapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints nothing; with --json, prints the new snapshot. The disk may be in use: requests wait for a
moment, and a mounted file system is frozen meanwhile. With several disks, either all snapshots are
taken at the same point in time, or none is.

Examples:
  ploop snapshot /vz/disk
  ploop snapshot -u $(uuidgen) /vz/disk/DiskDescriptor.xml")]
pub struct Snapshot {
    /// Set the UUID of the snapshot [default: a random one]
    #[arg(short = 'u', value_name = "UUID")]
    pub uuid: Option<String>,
    #[arg(short = 'b', hide = true)]
    pub cbt: Option<String>,
    /// Accepted for compatibility, without effect: an open disk stays open
    #[arg(short = 'o', hide = true)]
    pub offline: bool,
    /// Do not freeze the file system of a mounted disk
    #[arg(short = 'F')]
    pub no_freeze: bool,
    #[arg(short = 'd', hide = true)]
    pub device: Option<String>,
    /// Drop the change-tracking bitmap of the image instead of refusing
    #[arg(long)]
    pub drop_cbt: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk: DiskDescriptor.xml, its directory, or an image
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
    /// Omit the header line
    #[arg(short = 'H', long = "no-header")]
    pub no_header: bool,
    /// Select the fields and their order
    #[arg(short, long, value_name = "FIELD,FIELD...")]
    pub output: Option<String>,
    /// Show only this image and its ancestors
    #[arg(short, long = "uuid", alias = "id", value_name = "UUID")]
    pub uuid: Option<String>,
    /// Omit the top delta, and put the star at its parent
    #[arg(short, long = "snapshot")]
    pub snapshots: bool,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop check`
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing. Exit code 0: the images are good. 11: an image is damaged. 37: only the in-use mark
is set (the server was killed; opening the disk once repairs it). 17: a conversion was interrupted.

Examples:
  ploop check -f /vz/disk
  ploop check --json /vz/disk/root.hds")]
pub struct Check {
    /// Check even if the image is marked clean
    #[arg(short, long)]
    pub force: bool,
    /// Look for clusters used twice; accepted for compatibility, always done
    #[arg(short, long)]
    pub check: bool,
    /// Check read-only; accepted for compatibility, always so
    #[arg(short, long)]
    pub ro: bool,
    /// Print nothing
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
    /// The disk: DiskDescriptor.xml, its directory, or an image
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
    /// Set the format of the image [default: detected]
    #[arg(short, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Set the cluster size in sectors, for a raw image
    #[arg(short, value_name = "SECTORS")]
    pub blocksize: Option<String>,
    /// The directory to write DiskDescriptor.xml to
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
}

/// `ploop map`
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the ranges that are stored: offset, length, level (the base is 0) and file.

Examples:
  ploop map /vz/disk
  ploop map --json /vz/disk")]
pub struct Map {
    #[command(flatten)]
    pub files: Reading,
    /// The disk: DiskDescriptor.xml, its directory, or an image
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}

/// `ploop bench`
#[derive(Debug, Args)]
#[command(after_help = "\
SIZE is in bytes; K, M, G, T are powers of 1024. Loads that write destroy what is stored. With
--io null no I/O is done, which measures the cost of the software alone.

Examples:
  ploop bench /vz/disk --rw randread --depth 32 --time 10
  ploop bench /vz/disk --rw randwrite --lanes 16 --destroy
  ploop bench --raw /vz/file --rw randread --json")]
pub struct Bench {
    /// Select the load: read, write, randread, randwrite or randrw
    #[arg(long, value_name = "MODE", default_value = "randread")]
    pub rw: String,
    /// Set the size of each request in bytes
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    pub bs: String,
    /// Keep N requests in flight on each queue: 1 to 128
    #[arg(long, value_name = "N", default_value = "32")]
    pub depth: usize,
    /// Use N queues, each with a thread
    #[arg(long, alias = "jobs", value_name = "N", default_value = "1")]
    pub queues: usize,
    /// Run for so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    pub time: f64,
    /// Stop after N requests
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Issue a flush on each in-flight slot after N of its own requests
    #[arg(long, value_name = "N")]
    pub flush_every: Option<u32>,
    /// Run N independent write+flush loops on each queue: the same as --depth N --flush-every 1
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Begin at this offset of the disk
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub offset: String,
    /// Use so much of the disk from there
    #[arg(long, value_name = "SIZE")]
    pub range: Option<String>,
    /// Set the seed of the random offsets
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Load the whole map first
    #[arg(long)]
    pub warm: bool,
    /// Select how files are read and written: auto, uring, threads or null
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub io: String,
    /// Preallocate at most SIZE ahead of writes, as for `serve`
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub prealloc: String,
    /// Write changed mappings after at most MS milliseconds, as for `serve`
    #[arg(long, value_name = "MS", default_value = "250")]
    pub metadata_delay: u64,
    /// Put the load on a plain file, not on a disk
    #[arg(long)]
    pub raw: bool,
    /// Allow the load to overwrite what is stored; needed by loads that write
    #[arg(long)]
    pub destroy: bool,
    #[command(flatten)]
    pub files: Files,
    /// The disk, or the file for --raw
    #[arg(value_name = "DISK")]
    pub disk: PathBuf,
}
