//! `ploop umount`: unmount what is mounted from a disk, then detach it.

use crate::args;
use crate::host::command::{program, run as run_program};
use crate::host::mounts::{self, Mount};
use crate::host::server;
use crate::host::statfs::Statfs;
use crate::plan;
use crate::show::{Output, json};
use ploop_daemon::registry::{Entry, Registry};
use ploop_daemon::{Code, Failure, Result, users};
use serde::Serialize;
use std::path::Path;

/// Code 40 when it is not mounted.
pub fn run(args: &args::Umount, output: Output) -> Result<()> {
    plan::not_yet("umount", &[("-c", args.component.is_some())])?;
    let entry = entry(args)?;
    let mounts = mounts::of_entry(&entry)?;
    let lives = entry.alive();
    if let Some(mount) = mounts.last().filter(|_| lives) {
        match Statfs::of_mount(&mount.target) {
            Ok(stat) => stat.store(&entry.disk),
            Err(failure) => tracing::info!("{failure}"),
        }
    }
    // The last one first: one may lie on another.
    for mount in mounts.iter().rev() {
        unmount(mount)?;
    }
    if lives {
        server::stop(&entry, false)?;
    } else {
        server::clear(&entry, false)?;
    }
    super::leftovers::after(&entry)?;
    if output.json {
        json::print(&Unmounted {
            device: entry.device.as_deref(),
            disk: &entry.disk,
            mountpoints: mounts.iter().map(|mount| &*mount.target).collect(),
        });
    }
    Ok(())
}

#[derive(Serialize)]
struct Unmounted<'a> {
    device: Option<&'a str>,
    disk: &'a Path,
    mountpoints: Vec<&'a Path>,
}

fn unmount(mount: &Mount) -> Result<()> {
    use rustix::mount::UnmountFlags;
    let target = mount.target.display();
    // By its directory the kernel unmounts what lies on top there.
    if let Some(seen) = mounts::seen_at(&mount.target)?.filter(|seen| seen.id != mount.id) {
        let (over, source) = (seen.source.display(), mount.source.display());
        let message = format!("{over} is mounted over {source} on {target}");
        return Err(Failure::new(Code::DeviceBusy, message).hint(format!("umount {target} first")));
    }
    match rustix::mount::unmount(&mount.target, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => {
            let users = users::of_mount(&mount.target);
            let Some(first) = users.first() else {
                return Err(Failure::new(Code::DeviceBusy, format!("{target} is in use"))
                    .hint("something is mounted below it, or the kernel uses it"));
            };
            let message = format!("{target} is in use: {}", users::told(&users));
            Err(Failure::new(Code::DeviceBusy, message).hint(first.hint()))
        }
        // Perhaps mounted by a helper that knows more.
        Err(_) => run_program(program("umount", [&mount.target]), Code::Umount),
    }
}

/// The attached disk that was meant.
fn entry(args: &args::Umount) -> Result<Entry> {
    let given = [args.mountpoint.is_some(), args.device.is_some(), args.disk.is_some()];
    if given.iter().filter(|&&given| given).count() != 1 {
        return Err(Failure::parameter("one of -m DIR, -d DEV and DISK is needed"));
    }
    let (entry, what) = if let Some(dir) = &args.mountpoint {
        (at_mountpoint(dir)?, dir.display().to_string())
    } else if let Some(device) = &args.device {
        (Registry::of_user().by_device(device)?, device.clone())
    } else {
        let disk = args.disk.as_deref().unwrap_or(Path::new(""));
        (server::of_disk(disk)?, disk.display().to_string())
    };
    let entry = match (entry, args.device.as_deref().map(Path::new).or(args.disk.as_deref())) {
        // A killed server's, while its file system is still mounted.
        (None, Some(target)) => server::dead_of_target(target)?,
        (entry, _) => entry,
    };
    entry.filter(|entry| entry.device.is_some()).ok_or_else(|| {
        Failure::new(Code::NotMounted, format!("{what} is not mounted"))
            .hint("`ploop list -a` shows what is")
    })
}

fn at_mountpoint(dir: &Path) -> Result<Option<Entry>> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mut noted = None;
    let seen = mounts::seen_at(&dir)?;
    let registry = Registry::of_user();
    let living = registry.entries()?;
    // Of the dead there are left those whose device is mounted or open.
    for entry in living.into_iter().chain(registry.dead()?) {
        let mounts = mounts::of_entry(&entry)?;
        // The one that is seen there: mounts of several disks may lie on each other.
        if let Some(seen) = &seen
            && mounts.iter().any(|mount| mount.id == seen.id)
        {
            return Ok(Some(entry));
        }
        // Unmounted by other means: it still waits to be detached.
        if mounts.is_empty() && seen.is_none() && entry.mountpoint.as_ref() == Some(&dir) {
            noted = Some(entry);
        }
    }
    Ok(noted)
}
