//! `ploop info`: space and inodes, or size, or device.

use crate::host::mounting::{self, How};
use crate::host::statfs::Statfs;
use crate::host::{choice, mkfs, mounts, server};
use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::{Export, ServeSpec, open};
use ploop_daemon::{Code, Failure, Result};
use ploop_image::locate::{Located, locate};
use ploop_io::RealDir;
use serde::Serialize;
use std::path::{Path, PathBuf};

const SIZE_ALONE: &str = "`ploop info -s` shows the size of the disk, which needs no device";

#[derive(Default, Serialize)]
struct Shown {
    disk: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<Usage>,
}

#[derive(Clone, Copy, Serialize)]
struct Size {
    size_bytes: u64,
    cluster_bytes: u64,
    /// 0 for raw.
    version: u32,
    levels: usize,
    /// 1 of most disks.
    pieces: usize,
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    size_bytes: u64,
    used_bytes: u64,
    inodes: u64,
    inodes_used: u64,
}

/// Without an option: the table of the original, mounting the disk for a moment if need be.
pub fn run(args: &args::Info, output: Output) -> Result<()> {
    plan::not_yet("info", &[("-b", args.bat)])?;
    let disk = match locate(&RealDir, &args.disk)? {
        Located::Descriptor(path) | Located::Image(path) => plan::absolute(&path)?,
    };
    super::leftovers::before(&disk, true, args.files.allow_outside);
    let entry = server::of_disk(&disk)?;
    let mut shown = Shown { disk: disk.clone(), ..Shown::default() };
    if args.device {
        let entry = entry.as_ref().filter(|entry| entry.device.is_some()).ok_or_else(|| {
            Failure::new(Code::NotMounted, format!("{} is not attached", args.disk.display()))
        })?;
        shown.device.clone_from(&entry.device);
        shown.partition = Some(server::mountable(entry)?.to_owned());
    }
    if args.size {
        shown.size = Some(size(&disk, args.files)?);
    }
    if !args.size && !args.device {
        shown.file_system = Some(usage(statfs(&disk, entry.as_ref(), args.files, output)?));
    }
    if output.json {
        json::print(&shown);
    } else {
        print(&shown);
    }
    Ok(())
}

fn print(shown: &Shown) {
    if let Some(size) = shown.size {
        show::line(format!("size:\t\t{}", size.size_bytes >> 9));
        show::line(format!("blocksize:\t{}", size.cluster_bytes >> 9));
        show::line(format!("fmt_version:\t{}", size.version));
        // The original knows no others, and these three lines of them.
        if size.pieces > 1 {
            show::line(format!("pieces:\t\t{}", size.pieces));
            show::line(format!("levels:\t\t{}", size.levels));
        }
    }
    if let (Some(device), Some(partition)) = (&shown.device, &shown.partition) {
        show::line(format!("device:\t\t{device}"));
        show::line(format!("partition:\t{partition}"));
    }
    if let Some(usage) = shown.file_system {
        let (size, used) = (usage.size_bytes >> 10, usage.used_bytes >> 10);
        show::line(format!("{:>11} {:>14} {:>14}", "resource", "Size", "Used"));
        show::line(format!("{:>11} {size:>14} {used:>14}", "1k-blocks"));
        let (inodes, used) = (usage.inodes, usage.inodes_used);
        show::line(format!("{:>11} {inodes:>14} {used:>14}", "inodes"));
    }
}

fn usage(stat: Statfs) -> Usage {
    let bytes = |blocks: u64| blocks.saturating_mul(stat.block_bytes);
    Usage {
        size_bytes: bytes(stat.blocks),
        used_bytes: bytes(stat.blocks.saturating_sub(stat.free_blocks)),
        inodes: stat.inodes,
        inodes_used: stat.inodes.saturating_sub(stat.free_inodes),
    }
}

/// From the headers; they can be read while the disk is open.
fn size(disk: &Path, files: args::Reading) -> Result<Size> {
    let how = open::options(&plan::reading(disk.to_owned(), files));
    let info = ploop_image::info(&RealDir, disk, &how)?;
    Ok(Size {
        size_bytes: info.size << 9,
        cluster_bytes: u64::from(info.blocksize) << 9,
        version: info.fmt_version,
        levels: info.levels,
        pieces: info.pieces,
    })
}

fn statfs(
    disk: &Path,
    entry: Option<&Entry>,
    files: args::Reading,
    output: Output,
) -> Result<Statfs> {
    if let Some(entry) = entry.filter(|entry| entry.device.is_some()) {
        if let Some(mount) = mounts::of_entry(entry)?.first() {
            return Statfs::of_mount(&mount.target);
        }
        return from_device(&choice::unasked(entry)?.path);
    }
    // Two that only read can have a disk at once.
    if let Some(entry) = entry.filter(|entry| !entry.read_only) {
        let message = format!(
            "{} is open, not as a block device ({}): what is on it is not known here",
            disk.display(),
            entry.exports.join(", ")
        );
        return Err(Failure::new(Code::InUse, message).hint(SIZE_ALONE));
    }
    // What was stored at the last unmount may be of another day: whoever else has mounted the disk
    // since then has not written it.
    let reading = plan::reading(disk.to_owned(), files);
    let spec = ServeSpec { exports: vec![Export::Loop], for_a_moment: true, ..reading };
    let server = server::start(&spec, output).map_err(|failure| server::or(failure, SIZE_ALONE))?;
    let entry = server.entry.clone();
    let stat = choice::unasked(&entry).and_then(|node| from_device(&node.path));
    let stopped = server::stop(&entry, stat.is_err());
    stat.and_then(|stat| stopped.map(|()| stat))
}

/// Mounts it read-only for a moment; a journal that was not replayed is left alone.
fn from_device(device: &str) -> Result<Statfs> {
    if mkfs::detect(device).is_none() {
        return Err(Failure::new(Code::Mount, format!("{device} has no known file system"))
            .hint(SIZE_ALONE));
    }
    let how = How { frozen: true, ..How::default() };
    mounting::for_a_moment(device, how, Statfs::of_mount)
}
