//! What killed servers and interrupted backups left of a disk: the next verb takes it away.
//!
//! A dead server's loop device gives errors for ever, so what is still mounted from it is
//! unmounted. A device of ublk or of the kernel's NBD client waits for the next server, with its
//! mounts, and is left alone. A temporary snapshot that no server has is merged away.

use super::{layers, online};
use crate::args::Files;
use crate::host::{mounts, server};
use crate::show::Output;
use ploop_daemon::registry::{Entry, Registry};
use ploop_daemon::{Code, Failure, Result, users};
use ploop_format::Guid;
use ploop_format::descriptor::{ImageType, Temporary};
use ploop_image::layers::{describe, image_of};
use ploop_image::locate::{Located, locate};
use ploop_io::RealDir;
use rustix::mount::UnmountFlags;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel frees a device a moment after its last user went.
const FREED: Duration = Duration::from_millis(500);

/// Before a verb works on a disk. What cannot be taken away is said, and the verb goes on.
pub fn before(disk: &Path, writes: bool, allow_outside: bool) {
    if let Err(failure) = clear_dead(disk) {
        tracing::warn!("{failure}");
    }
    if writes && let Err(failure) = merge_temporary(disk, None, allow_outside) {
        tracing::warn!("a temporary snapshot of {} stays: {failure}", disk.display());
    }
}

/// After the server of a disk, or of a snapshot, has gone.
pub fn after(entry: &Entry) -> Result<()> {
    let of_snapshot = entry.images.contains(&entry.disk);
    let home = if of_snapshot { entry.disk.parent() } else { Some(entry.disk.as_path()) };
    let Some(home) = home else { return Ok(()) };
    let gone = of_snapshot.then_some(entry.disk.as_path());
    match merge_temporary(home, gone, entry.allow_outside) {
        Err(failure) if of_snapshot => Err(Failure {
            message: format!("the temporary snapshot stays: {}", failure.message),
            ..failure
        }),
        Err(failure) => {
            tracing::warn!("a temporary snapshot of {} stays: {failure}", home.display());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// While this is held no temporary snapshot is taken for one that was left: it has no server yet.
pub fn taking() -> Result<File> {
    Registry::of_user().lock_temporary()
}

/// Merges a snapshot away, by the disk's server when it has one.
pub fn delete(disk: &Path, guid: Guid, files: Files) -> Result<()> {
    match server::of_disk(disk)? {
        Some(entry) => online::remove(&entry, guid, None, QUIET),
        None => layers::remove_closed(disk, guid, None, false, files).map(drop),
    }
}

const QUIET: Output = Output { json: false, verbosity: 0 };

/// Merges the temporary snapshots of a disk that nobody uses; `gone` is the one whose server has
/// just gone. A raw base is so marked while levels go into it, too: unless it is that one it waits
/// for the next merge, which goes on with that.
fn merge_temporary(disk: &Path, gone: Option<&Path>, allow_outside: bool) -> Result<()> {
    let mut left = temporary(disk);
    left.retain(|left| !left.raw || gone == Some(left.image.as_path()));
    if left.is_empty() {
        return Ok(());
    }
    let Some(_nobody_takes_one) = Registry::of_user().try_lock_temporary()? else { return Ok(()) };
    let living = Registry::of_user().entries()?;
    left.retain(|left| !is_served(&living, &left.image));
    let server = server::of_disk(disk)?.filter(|entry| !entry.read_only);
    let files = Files { allow_outside, change_shared: false };
    for Left { guid, image, .. } in left {
        let own = gone == Some(image.as_path());
        if !own {
            tracing::warn!("the temporary snapshot {guid} was left: it is merged away");
        }
        let merged = match &server {
            Some(entry) => online::remove(entry, guid, None, QUIET),
            None => layers::remove_closed(disk, guid, None, false, files).map(drop),
        };
        match merged {
            // Somebody else reads it.
            Err(failure) if failure.code == Code::InUse && !own => tracing::info!("{failure}"),
            other => other?,
        }
    }
    Ok(())
}

/// A temporary snapshot.
struct Left {
    guid: Guid,
    image: PathBuf,
    raw: bool,
}

/// Whether a server has a snapshot: it is on top of what that serves.
fn is_served(living: &[Entry], image: &Path) -> bool {
    living.iter().any(|entry| entry.read_only && entry.top().is_some_and(|top| top == image))
}

/// The temporary snapshots of a disk.
fn temporary(disk: &Path) -> Vec<Left> {
    // Not every image has a descriptor, and what is wrong with one the verb itself will say.
    let Ok(parsed) = describe(&RealDir, disk) else { return Vec::new() };
    let left = parsed
        .shots
        .iter()
        .filter(|shot| shot.guid != parsed.top && shot.temporary == Temporary::Yes);
    left.filter_map(|shot| {
        let image = image_of(&RealDir, disk, shot.guid).ok()?;
        let kind = parsed.image(shot.guid)?.kind;
        // Only a base's word means something.
        let raw = shot.parent == Guid::NONE && kind == ImageType::Plain;
        Some(Left { guid: shot.guid, image: image.canonicalize().unwrap_or(image), raw })
    })
    .collect()
}

/// Takes away what dead servers of the disk and of its snapshots left.
fn clear_dead(disk: &Path) -> Result<()> {
    let registry = Registry::of_user();
    let dead = registry.dead()?;
    if dead.is_empty() {
        return Ok(());
    }
    let own = names(disk);
    for entry in dead.iter().filter(|entry| own.contains(&entry.disk)) {
        if entry.transport.as_deref() == Some("loop") && registry.has_device(entry) {
            unmount_dead(entry)?;
        }
        let until = Instant::now() + FREED;
        while !registry.clear(entry, false) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if registry.has_device(entry) && entry.transport.as_deref() == Some("loop") {
            let device = entry.device.as_deref().unwrap_or_default();
            let users = users::told(&users::of_device(Path::new(device)));
            tracing::warn!("{device} of a killed server gives errors and is still in use: {users}");
        }
    }
    Ok(())
}

/// What servers of a disk, and of its snapshots, have noted as theirs: the descriptor, and images
/// in the disk's own directory. Others may be of another disk.
fn names(disk: &Path) -> Vec<PathBuf> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let home = match locate(&RealDir, disk) {
        Ok(Located::Descriptor(path)) => path,
        Ok(Located::Image(path)) => return vec![real(&path)],
        Err(_) => return Vec::new(),
    };
    let Ok(parsed) = describe(&RealDir, &home) else { return Vec::new() };
    let descriptor = real(&home);
    let home = descriptor.parent().unwrap_or(Path::new("/"));
    let images = parsed.images.iter().map(|image| real(&home.join(&image.file)));
    let own: Vec<_> = images.filter(|image| image.starts_with(home)).collect();
    own.into_iter().chain([descriptor.clone()]).collect()
}

fn unmount_dead(entry: &Entry) -> Result<()> {
    for mount in mounts::of_entry(entry)?.iter().rev() {
        let at = mount.target.display();
        let top = mounts::seen_at(&mount.target)?.is_some_and(|seen| seen.id == mount.id);
        let gone = top && rustix::mount::unmount(&mount.target, UnmountFlags::empty()).is_ok();
        if gone {
            tracing::warn!("{at}: its server was killed, what was mounted there is unmounted");
        } else {
            let users = users::told(&users::of_mount(&mount.target));
            let users = if users.is_empty() { String::new() } else { format!(": {users}") };
            tracing::warn!(
                "{at} is mounted from a killed server, gives errors and is in use{users}"
            );
        }
    }
    Ok(())
}
