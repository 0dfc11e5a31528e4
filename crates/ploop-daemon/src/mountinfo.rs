//! What is mounted: `/proc/PID/mountinfo`, of this process or of one in another mount namespace.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Its number, as long as it is there.
    pub id: u64,
    /// Where.
    pub target: PathBuf,
    /// What.
    pub source: PathBuf,
    /// `major:minor`.
    pub device: String,
    /// The file system takes no writes.
    pub read_only: bool,
    /// A process that sees it, when this one does not: it is in another mount namespace.
    pub seen_by: Option<u32>,
}

impl Mount {
    /// A path to it from here.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let Some(pid) = self.seen_by else { return self.target.clone() };
        let inner = self.target.strip_prefix("/").unwrap_or(&self.target);
        Path::new("/proc").join(pid.to_string()).join("root").join(inner)
    }
}

impl std::fmt::Display for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.target.display())?;
        match self.seen_by {
            None => Ok(()),
            Some(pid) => write!(f, " in the mount namespace of pid {pid}"),
        }
    }
}

/// All mounts that a process sees, this one if none is named, in the order they were made.
///
/// # Errors
/// /proc is not there, the process is gone, or there is no right to look.
pub fn of(pid: Option<u32>) -> io::Result<Vec<Mount>> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let text = fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// The mounts of every mount namespace that some process is in, this one's first. A process that
/// ends meanwhile, or may not be looked at, is left out.
///
/// # Errors
/// /proc is not there.
pub fn everywhere() -> io::Result<Vec<Mount>> {
    let mut mounts = of(None)?;
    let mut seen = vec![fs::read_link("/proc/self/ns/mnt")?];
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Some(pid), Ok(namespace)) = (pid, fs::read_link(entry.path().join("ns/mnt"))) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        let Ok(found) = of(Some(pid)) else { continue };
        seen.push(namespace);
        mounts.extend(found.into_iter().map(|mount| Mount { seen_by: Some(pid), ..mount }));
    }
    Ok(mounts)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    let target = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|&field| field != b"-");
    let source = unescape(rest.nth(2)?);
    let read_only = rest.next()?.split(|&byte| byte == b',').any(|option| option == b"ro");
    Some(Mount { id, target, source, device, read_only, seen_by: None })
}

/// Blanks and the like are written as octal numbers.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
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

#[cfg(test)]
mod tests {
    use super::{Mount, of, parse};
    use std::path::PathBuf;

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"36 35 7:3 / /mnt/a\\040b rw,noatime master:1 - ext4 /dev/loop3p1 rw";
        let want = Mount {
            id: 36,
            target: PathBuf::from("/mnt/a b"),
            source: PathBuf::from("/dev/loop3p1"),
            device: "7:3".to_owned(),
            read_only: false,
            seen_by: None,
        };
        assert_eq!(parse(line), Some(want));
        assert_eq!(parse(b"36 35 7:3"), None);
        assert!(of(None).unwrap().iter().any(|mount| mount.target == *"/"));
    }
}
