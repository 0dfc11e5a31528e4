//! What lies on a block device, and what a block device or a file lies on.

use super::mounts;
use ploop_daemon::Result;
use ploop_daemon::registry::Entry;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A device, its partitions, and what the device mapper has made of them.
pub fn above(device: &Path) -> Vec<PathBuf> {
    let device = device.canonicalize().unwrap_or_else(|_| device.to_owned());
    let mut found = Vec::new();
    let mut next: Vec<String> =
        device.file_name().and_then(|name| Some(name.to_str()?.to_owned())).into_iter().collect();
    while let Some(name) = next.pop() {
        let path = Path::new("/dev").join(&name);
        if found.contains(&path) {
            continue;
        }
        found.push(path);
        let folder = Path::new("/sys/class/block").join(&name);
        next.extend(names(&folder.join("holders")));
        let partition = |name: &String| folder.join(name).join("partition").exists();
        next.extend(names(&folder).into_iter().filter(partition));
    }
    found
}

/// `major:minor` of a block device.
pub fn number(device: &Path) -> Option<String> {
    let data = fs::metadata(device).ok().filter(|data| data.file_type().is_block_device())?;
    Some(told(data.rdev()))
}

fn told(id: u64) -> String {
    format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The block devices, as `major:minor`, that a disk's images lie on: down through file systems,
/// partitions, device mapper, loop devices and the disks of other servers.
///
/// # Errors
/// /proc is not there.
pub fn below(entry: &Entry, others: &[Entry]) -> Result<BTreeSet<String>> {
    let mounts = mounts::all()?;
    let mut found = BTreeSet::new();
    let mut files: Vec<PathBuf> = entry.images.clone();
    files.push(entry.disk.clone());
    while let Some(file) = files.pop() {
        let Some(device) = under(&file, &mounts) else { continue };
        let mut next = vec![device];
        while let Some(number) = next.pop() {
            if !found.insert(number.clone()) {
                continue;
            }
            let folder = Path::new("/sys/dev/block").join(&number);
            let Ok(folder) = folder.canonicalize() else { continue };
            if folder.join("partition").exists() {
                next.extend(number_in(&folder.join("..")));
            }
            let slaves = folder.join("slaves");
            next.extend(names(&slaves).iter().filter_map(|name| number_in(&slaves.join(name))));
            let name = folder.file_name().map(|name| Path::new("/dev").join(name));
            let is = |entry: &&Entry| entry.device.as_deref().map(Path::new) == name.as_deref();
            if let Some(server) = others.iter().find(is) {
                files.extend(server.images.iter().cloned());
            } else if let Ok(text) = fs::read_to_string(folder.join("loop/backing_file")) {
                files.push(PathBuf::from(text.trim_end_matches('\n')));
            }
        }
    }
    Ok(found)
}

fn number_in(folder: &Path) -> Option<String> {
    Some(fs::read_to_string(folder.join("dev")).ok()?.trim().to_owned())
}

/// The block device that a file's file system is mounted from.
fn under(file: &Path, mounts: &[mounts::Mount]) -> Option<String> {
    let id = fs::metadata(file).ok()?.dev();
    if rustix::fs::major(id) != 0 {
        return Some(told(id));
    }
    // btrfs has a device number of its own for every subvolume: the mount says which device.
    let path = file.canonicalize().ok()?;
    let over = |mount: &&mounts::Mount| path.starts_with(&mount.target);
    let longest = |mount: &&mounts::Mount| mount.target.as_os_str().len();
    number(&mounts.iter().filter(over).max_by_key(longest)?.source)
}

/// Disks in an order in which each comes before those it lies on; as places in `entries`.
///
/// # Errors
/// /proc is not there.
pub fn inner_first(entries: &[Entry]) -> Result<Vec<usize>> {
    let mut below_all = Vec::with_capacity(entries.len());
    for entry in entries {
        below_all.push(below(entry, entries)?);
    }
    let own = |entry: &Entry| entry.device.as_deref().and_then(|path| number(Path::new(path)));
    let own: Vec<Option<String>> = entries.iter().map(own).collect();
    Ok(order(&below_all, &own))
}

fn order(below: &[BTreeSet<String>], own: &[Option<String>]) -> Vec<usize> {
    let lies_on =
        |inner: usize, outer: usize| own[outer].as_ref().is_some_and(|o| below[inner].contains(o));
    let mut left: Vec<usize> = (0..own.len()).collect();
    let mut done = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let free = |&at: &usize| left.iter().all(|&other| other == at || !lies_on(other, at));
        // Nothing lies on itself: there is one on which nothing lies.
        let next = left.iter().copied().find(free).unwrap_or(left[0]);
        left.retain(|&at| at != next);
        done.push(next);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::{above, order};
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn what_lies_on_another_comes_first() {
        let set = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<BTreeSet<_>>();
        let own: Vec<_> = ["7:0", "7:1", "7:2"].map(|w| Some(w.to_owned())).into();
        // 2 on 1 on 0.
        let below = [set(&["8:1"]), set(&["7:0", "8:1"]), set(&["7:1", "7:0", "8:1"])];
        assert_eq!(order(&below, &own), [2, 1, 0]);
        // Side by side: as they were named.
        let below = [set(&["8:1"]), set(&["8:1"]), set(&["8:1"])];
        assert_eq!(order(&below, &own), [0, 1, 2]);
        assert_eq!(order(&below[..1], &[None]), [0]);
    }

    #[test]
    fn a_device_lies_on_itself_at_least() {
        assert_eq!(above(Path::new("/dev/none-such")), [Path::new("/dev/none-such")]);
    }
}
