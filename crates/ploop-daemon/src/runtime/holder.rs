//! Who has an image open (T6): from the registry, else from the locks of all processes.

use crate::registry::{Entry, Registry};
use ploop_io::Ident;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The other process that has the file open and locked, in words.
#[must_use]
pub fn holder(file: Ident) -> Option<String> {
    from_registry(file).or_else(|| from_locks(file))
}

fn from_registry(file: Ident) -> Option<String> {
    let entries = Registry::of_user().entries().ok()?;
    // A server that merges may have the disk itself.
    let other = |entry: &Entry| entry.pid != std::process::id();
    entries.iter().find(|entry| other(entry) && has(entry, file)).map(describe)
}

/// Whether a server that goes on has the file: waiting for it is of no use.
#[must_use]
pub fn stays(file: Ident) -> bool {
    let other = |entry: &Entry| entry.pid != std::process::id() && !entry.stopping;
    let entries = Registry::of_user().entries().unwrap_or_default();
    entries.iter().any(|entry| other(entry) && has(entry, file))
}

fn has(entry: &Entry, file: Ident) -> bool {
    entry.images.iter().any(|image| {
        fs::metadata(image).is_ok_and(|meta| meta.dev() == file.dev && meta.ino() == file.ino)
    })
}

/// A server in words: `ploop, pid 77 (/dev/loop3)`.
#[must_use]
pub fn describe(entry: &Entry) -> String {
    let mut what: Vec<&str> = entry.device.iter().map(String::as_str).collect();
    what.extend(entry.exports.iter().map(String::as_str));
    if what.is_empty() {
        format!("ploop, pid {}", entry.pid)
    } else {
        format!("ploop, pid {} ({})", entry.pid, what.join(", "))
    }
}

/// Open-file-description locks have no owner in /proc/locks; `fdinfo` of the owner shows them.
fn from_locks(file: Ident) -> Option<String> {
    let major = rustix::fs::major(file.dev);
    let minor = rustix::fs::minor(file.dev);
    let name = format!(" {major:02x}:{minor:02x}:{} ", file.ino);
    let me = std::process::id();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_str().and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid.filter(|&pid| pid != me) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fdinfo")) else { continue };
        for fd in files.flatten() {
            let Ok(text) = fs::read_to_string(fd.path()) else { continue };
            if text.lines().any(|line| line.starts_with("lock:") && line.contains(&name)) {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{}, pid {pid}", command.trim()));
            }
        }
    }
    None
}
