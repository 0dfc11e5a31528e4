//! What is mounted from a device.

use super::stack;
use ploop_daemon::failure::OrFail;
use ploop_daemon::mountinfo;
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::path::{Path, PathBuf};

pub use ploop_daemon::mountinfo::Mount;

/// All mounts this process sees, in the order they were made.
///
/// # Errors
/// /proc is not there.
pub fn all() -> Result<Vec<Mount>> {
    mountinfo::of(None).or_fail(Code::System, "/proc/self/mountinfo")
}

/// The same of every mount namespace that some process is in, this one's first.
///
/// # Errors
/// As [`all`].
pub fn everywhere() -> Result<Vec<Mount>> {
    mountinfo::everywhere().or_fail(Code::System, "/proc")
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

/// The mounts of a served disk's device and its partitions that this process sees.
///
/// # Errors
/// As [`all`].
pub fn of_entry(entry: &Entry) -> Result<Vec<Mount>> {
    let named = entry.device.iter().chain(&entry.partition).map(PathBuf::from);
    let devices: Vec<PathBuf> = match &entry.device {
        Some(device) => stack::above(Path::new(device)).into_iter().chain(named).collect(),
        None => named.collect(),
    };
    Ok(from_devices(all()?, &devices))
}

/// Those of them that are mounted from one of the devices.
pub fn from_devices(mounts: Vec<Mount>, devices: &[PathBuf]) -> Vec<Mount> {
    let numbers: Vec<String> = devices.iter().filter_map(|device| stack::number(device)).collect();
    // btrfs has a device number of its own, so the name counts too.
    let from = |mount: &Mount| numbers.contains(&mount.device) || devices.contains(&mount.source);
    mounts.into_iter().filter(from).collect()
}
