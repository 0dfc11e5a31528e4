//! What is mounted from a device: /proc/self/mountinfo.

use ploop_daemon::failure::OrFail;
use ploop_daemon::mountinfo;
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use ploop_daemon::mountinfo::Mount;

/// All mounts this process sees, in the order they were made.
///
/// # Errors
/// /proc is not there.
pub fn all() -> Result<Vec<Mount>> {
    mountinfo::of(None).or_fail(Code::System, "/proc/self/mountinfo")
}

/// The mount that is seen at a directory: the last one, when several lie on each other. `None` when
/// nothing is mounted there.
///
/// # Errors
/// As [`all`].
pub fn seen_at(dir: &Path) -> Result<Option<Mount>> {
    let here: Vec<Mount> = all()?.into_iter().filter(|mount| mount.target == dir).collect();
    let id = statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID);
    let id = id.ok().filter(|at| at.stx_mask & StatxFlags::MNT_ID.bits() != 0);
    let by_id = id.and_then(|at| here.iter().find(|mount| mount.id == at.stx_mnt_id));
    Ok(by_id.or(here.last()).cloned())
}

/// The mounts of a served disk's device and partition.
///
/// # Errors
/// As [`all`].
pub fn of_entry(entry: &Entry) -> Result<Vec<Mount>> {
    let devices: Vec<&String> = entry.device.iter().chain(&entry.partition).collect();
    let numbers: Vec<String> = devices.iter().filter_map(|device| number(device)).collect();
    let mounts = all()?.into_iter().filter(|mount| {
        // btrfs has a device number of its own, so the name counts too.
        numbers.contains(&mount.device)
            || devices.iter().any(|device| mount.source == Path::new(device))
    });
    Ok(mounts.collect())
}

fn number(device: &str) -> Option<String> {
    let id = fs::metadata(device).ok()?.rdev();
    Some(format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id)))
}
