//! `ploop mount`: attach, then mount(8).

use crate::host::mounting::{self, How};
use crate::host::{choice, mkfs, mounts, server, statfs};
use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::failure::OrFail;
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result};
use ploop_io::RealDir;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Mounted<'a> {
    device: &'a str,
    partition: Option<&'a str>,
    mountpoint: Option<String>,
    read_only: bool,
    images: &'a [std::path::PathBuf],
}

/// Attaches and mounts; what was attached here is detached when the mount fails.
pub fn run(args: &args::Mount, output: Output) -> Result<()> {
    plan::not_yet(
        "mount",
        &[
            ("-f", args.format.is_some()),
            ("-b", args.blocksize.is_some()),
            ("-d", args.device.is_some()),
            ("-c", args.component.is_some()),
            ("-q", args.quota),
            ("-a", args.all),
            ("BASE...TOP", args.disks.len() > 1),
        ],
    )?;
    let [disk] = args.disks.as_slice() else {
        return Err(Failure::parameter("which disk?"));
    };
    super::leftovers::before(
        disk,
        !args.read_only && !args.serving.ro,
        args.serving.files.allow_outside,
    );
    let target = args.mountpoint.as_deref().map(absolute_dir).transpose()?;
    let (entry, started) = attached(disk, args, output)?;
    let device = match mount(&entry, args, target.as_deref()) {
        Ok(device) => device,
        Err(failure) => {
            if started {
                // The first error is the one to tell.
                let _ = server::stop(&entry, false);
            }
            return Err(failure);
        }
    };
    if output.json {
        json::print(&Mounted {
            device: &device,
            partition: Some(&*device).filter(|device| entry.device.as_deref() != Some(device)),
            mountpoint: target.map(|target| target.display().to_string()),
            read_only: entry.read_only,
            images: &entry.images,
        });
    }
    Ok(())
}

fn absolute_dir(dir: &Path) -> Result<std::path::PathBuf> {
    let dir = dir.canonicalize().or_fail(Code::Mount, format!("mount point {}", dir.display()))?;
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(Failure::new(Code::Mount, format!("{} is not a directory", dir.display())))
    }
}

/// A server of a snapshot, beside the one of the disk if there is one.
fn snapshot(disk: &Path, uuid: &str, args: &args::Mount, output: Output) -> Result<(Entry, bool)> {
    let guid = plan::guid(uuid)?;
    let disk = plan::absolute(disk)?;
    let found = ploop_image::layers::image_of(&RealDir, &disk, guid)?;
    let mut spec = plan::attach(&found, "auto", &args.serving)?;
    (spec.read_only, spec.to_mount, spec.snapshot) = (true, true, true);
    let entry = server::start(&spec, output)?.entry;
    if !output.json {
        adding(&entry);
    }
    Ok((entry, true))
}

/// The server of the disk: one that runs with nothing mounted from it, else a new one.
fn attached(disk: &Path, args: &args::Mount, output: Output) -> Result<(Entry, bool)> {
    if let Some(uuid) = &args.uuid {
        if !args.read_only && !args.serving.ro {
            return Err(Failure::parameter("a snapshot is only read: add -r"));
        }
        return snapshot(disk, uuid, args, output);
    }
    if let Some(entry) = server::of_disk(disk)?.filter(|entry| entry.device.is_some()) {
        let device = entry.device.as_deref().unwrap_or_default();
        if let Some(mount) = mounts::of_entry(&entry)?.first() {
            let at = mount.target.display();
            let message = format!("{} is mounted on {at} ({device})", disk.display());
            return Err(Failure::new(Code::Busy, message).hint(format!("ploop umount -m {at}")));
        }
        if args.mountpoint.is_none() {
            let message = format!("{} is attached as {device}", disk.display());
            return Err(Failure::new(Code::Busy, message).hint(format!("ploop detach {device}")));
        }
        return Ok((entry, false));
    }
    let mut spec = plan::attach(disk, "auto", &args.serving)?;
    spec.read_only |= args.read_only;
    spec.to_mount = true;
    let entry = server::start(&spec, output)?.entry;
    if !output.json {
        adding(&entry);
    }
    Ok((entry, true))
}

/// The lines of the original; scripts read the device from them.
fn adding(entry: &Entry) {
    let device = entry.device.as_deref().unwrap_or_default();
    let top = entry.images.len().saturating_sub(entry.pieces);
    for (level, image) in entry.images.iter().enumerate() {
        let mode = if level >= top && !entry.read_only { "rw" } else { "ro" };
        show::line(format!("Adding delta dev={device} img={} ({mode})", image.display()));
    }
}

/// Mounts what was chosen; returns its device.
fn mount(entry: &Entry, args: &args::Mount, target: Option<&Path>) -> Result<String> {
    let node = choice::to_mount(entry, args.partition)?;
    let device = &*node.path;
    if args.fsck && !entry.read_only {
        mkfs::fsck(device, args.fstype.as_deref())?;
    }
    let Some(target) = target else { return Ok(node.stays()) };
    let how = How {
        frozen: entry.read_only,
        read_only: args.read_only,
        fstype: args.fstype.as_deref(),
        options: args.options.as_deref(),
    };
    mounting::mount(device, target, how)?;
    statfs::forget(&entry.disk);
    // Only a note for `list`; what is mounted is in /proc.
    let noted = server::connect(entry)
        .and_then(|mut client| client.set_mountpoint(Some(target.display().to_string())));
    if let Err(failure) = noted {
        tracing::info!("{failure}");
    }
    Ok(node.stays())
}
