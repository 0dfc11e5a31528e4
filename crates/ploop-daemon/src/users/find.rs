//! Looks for those who use a device.

use super::User;
use super::target::{Target, block_number, unasked};
use crate::mountinfo::{self, Mount};
use rustix::fs::Statx;
use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts of this namespace first, then those that only others have.
pub(super) fn mounts(target: &Target) -> Vec<User> {
    let mut found: Vec<User> = Vec::new();
    let mut add = |mounts: Vec<Mount>, seen_by: Option<(String, u32)>| {
        for mount in mounts.into_iter().filter(|mount| target.is_source_of(mount)) {
            let device = mount.source.display().to_string();
            let known = found.iter().any(|user| {
                matches!(user, User::Mount { at, device: other, .. }
                    if *at == mount.target && *other == device)
            });
            if !known {
                let (at, seen_by) = (mount.target, seen_by.clone());
                found.push(User::Mount { device, at, seen_by });
            }
        }
    };
    add(mountinfo::of(None).unwrap_or_default(), None);
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen: HashSet<PathBuf> = own.into_iter().collect();
    for pid in all_pids() {
        let Ok(space) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if seen.insert(space)
            && let Ok(mounts) = mountinfo::of(Some(pid))
        {
            add(mounts, Some((name_of(pid), pid)));
        }
    }
    found
}

pub(super) fn swaps(target: &Target) -> Vec<User> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(|&byte| byte == b' ').next());
    let paths = paths.filter(|path| !path.is_empty()).map(mountinfo::unescape);
    paths.filter(|path| target.is_at(path)).map(|p| User::Swap(p.display().to_string())).collect()
}

/// Devices made of it: those the kernel has noted as its holders, and loop devices over it.
pub(super) fn above(target: &Target) -> Vec<User> {
    let mut names: Vec<String> = Vec::new();
    for name in &target.names {
        let holders = fs::read_dir(format!("/sys/class/block/{name}/holders"));
        let holders = holders.into_iter().flatten().flatten();
        names.extend(holders.filter_map(|holder| holder.file_name().into_string().ok()));
    }
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let backing = entry.path().join("loop/backing_file");
        if !name.starts_with("loop") || target.names.contains(&name) {
            continue;
        }
        let Ok(text) = fs::read(backing) else { continue };
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let file = Path::new(std::ffi::OsStr::from_bytes(text));
        if target.is_at(file) {
            names.push(name);
        }
    }
    names.dedup();
    names.into_iter().map(describe_above).collect()
}

fn describe_above(name: String) -> User {
    let alias = fs::read_to_string(format!("/sys/class/block/{name}/dm/name")).ok();
    let alias = alias.map(|alias| alias.trim().to_owned());
    let target = Target::of(&Path::new("/dev").join(&name));
    let mounted = target.and_then(|target| {
        mounts(&target).into_iter().find_map(|user| match user {
            User::Mount { at, .. } => Some(at),
            _ => None,
        })
    });
    User::Above { name, alias, mounted }
}

/// Processes that have one of the devices open, by its number: whatever name they opened it by.
pub(super) fn processes(target: &Target) -> Vec<User> {
    let mut found = Vec::new();
    for pid in all_pids().filter(|pid| !is_dying(*pid)) {
        let open = tables(pid).into_iter().find_map(|table| {
            let files = fs::read_dir(table).ok()?;
            let paths = files.flatten().map(|file| file.path());
            let mut open =
                paths.filter(|path| block_number(path).is_some_and(|number| target.has(number)));
            open.next()
        });
        if let Some(open) = open {
            let path = fs::read_link(&open).unwrap_or(open);
            found.push(User::Process { name: name_of(pid), pid, path });
        }
    }
    found
}

/// Processes that use the file system on a directory.
pub(super) fn in_file_system(at: &Path) -> Vec<User> {
    let Some(device) = unasked(at).map(home) else { return Vec::new() };
    let inside = |path: &Path| unasked(path).is_some_and(|found| home(found) == device);
    let mut users = Vec::new();
    for pid in all_pids() {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let own = ["cwd", "root", "exe"].map(|name| process.join(name));
        let files = tables(pid).into_iter().filter_map(|table| fs::read_dir(table).ok());
        let files = files.flatten().flatten().map(|file| file.path());
        if let Some(used) = own.into_iter().chain(files).find(|path| inside(path)) {
            let path = fs::read_link(&used).unwrap_or(used);
            users.push(User::Process { name: name_of(pid), pid, path });
        }
    }
    users
}

/// The number of the file system a file is in.
fn home(found: Statx) -> (u32, u32) {
    (found.stx_dev_major, found.stx_dev_minor)
}

/// The processes of the system but this one.
fn all_pids() -> impl Iterator<Item = u32> {
    let me = std::process::id();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|name| name.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| *pid != me)
}

/// The descriptors of a process: of its first thread, and of those that have a table of their own,
/// which has another length then (Linux 6.2 tells it).
fn tables(pid: u32) -> Vec<PathBuf> {
    let main = PathBuf::from(format!("/proc/{pid}/fd"));
    let len = |table: &Path| fs::metadata(table).map(|data| data.len()).ok();
    let first = len(&main);
    let mut tables = vec![main];
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tables.extend(tasks.map(|task| task.path().join("fd")).filter(|table| len(table) != first));
    tables
}

/// A process that was killed uses nothing any more: it only waits for a call to end, one that the
/// device holds perhaps.
fn is_dying(pid: u32) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().filter_map(|line| {
        let set = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(set.trim(), 16).ok()
    });
    pending.fold(0, |all, set| all | set) & KILL != 0
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}
