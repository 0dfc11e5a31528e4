//! What is mounted from a device: /proc/self/mountinfo.

use ploop_daemon::failure::OrFail;
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Result};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// What.
    pub source: PathBuf,
    /// `major:minor`.
    pub device: String,
}

/// All mounts this process sees, in the order they were made.
///
/// # Errors
/// /proc is not there.
pub fn all() -> Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo").or_fail(Code::System, "/proc/self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let target = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|&field| field != b"-");
    let source = unescape(rest.nth(2)?);
    Some(Mount { target, source, device })
}

/// Blanks and the like are written as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.unwrap_or(field[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(out).into()
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

#[cfg(test)]
mod tests {
    use super::{Mount, all, parse};
    use std::path::PathBuf;

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"36 35 7:3 / /mnt/a\\040b rw,noatime master:1 - ext4 /dev/loop3p1 rw";
        let want = Mount {
            target: PathBuf::from("/mnt/a b"),
            source: PathBuf::from("/dev/loop3p1"),
            device: "7:3".to_owned(),
        };
        assert_eq!(parse(line), Some(want));
        assert_eq!(parse(b"36 35 7:3"), None);
        assert!(all().unwrap().iter().any(|mount| mount.target == *"/"));
    }
}
