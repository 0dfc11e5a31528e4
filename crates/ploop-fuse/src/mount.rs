//! mount(2), umount(2) and what /proc/self/mountinfo says.
//! Without the right to mount, see `fusermount.rs`.

use crate::error::{Error, Result};
use crate::file::Owner;
use crate::fusermount;
use crate::protocol::LONGEST;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The type in mountinfo: how our mounts are told from others.
pub(crate) const TYPE: &str = "fuse.ploop";

/// Opens /dev/fuse and mounts it over `path`. The kernel checks the file's mode; who has no right
/// to mount serves their own processes only.
pub(crate) fn mount(path: &Path, owner: Owner, read_only: bool) -> Result<OwnedFd> {
    let device = Path::new("/dev/fuse");
    let fd = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::system("open", device, error))?;

    let options = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions,allow_other,max_read={}",
        fd.as_raw_fd(),
        libc::S_IFREG | (owner.mode & 0o777),
        owner.uid,
        owner.gid,
        LONGEST,
    );
    let options =
        CString::new(options).map_err(|error| Error::Invalid { what: error.to_string() })?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    flags |= MountFlags::NOATIME;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(fusermount::SOURCE, path, TYPE, flags, options.as_c_str()) {
        Ok(()) => Ok(fd),
        Err(Errno::PERM) => {
            drop(fd);
            fusermount::mount(path, read_only)
        }
        Err(error) => Err(Error::system("mount over", path, error)),
    }
}

/// How to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmount {
    /// Refused when somebody has the file open.
    Plain,
    /// Out of sight now, gone with the last user.
    Lazy,
    /// Out of sight now, users get errors.
    Abort,
}

/// Unmounts. Nothing mounted there is fine.
pub(crate) fn unmount(path: &Path, how: Unmount) -> Result<()> {
    let flags = UnmountFlags::NOFOLLOW
        | match how {
            Unmount::Plain => UnmountFlags::empty(),
            Unmount::Lazy => UnmountFlags::DETACH,
            Unmount::Abort => UnmountFlags::DETACH | UnmountFlags::FORCE,
        };
    match rustix::mount::unmount(path, flags) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => by_program(path, how),
        Err(error) => Err(Error::system("unmount", path, error)),
    }
}

/// Unmounts by the program that is allowed to.
fn by_program(path: &Path, how: Unmount) -> Result<()> {
    let option = if how == Unmount::Plain { "-qu" } else { "-quz" };
    let status = Command::new(fusermount::PROGRAM).arg(option).arg("--").arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) if how == Unmount::Plain => Err(Error::Busy { path: path.to_path_buf() }),
        Ok(_) => Err(Error::system("unmount", path, Errno::PERM)),
        Err(error) => Err(Error::system("run fusermount3 for", path, error)),
    }
}

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Unique while it is mounted.
    pub(crate) id: u64,
    pub(crate) kind: String,
}

/// The topmost mount at exactly this path.
pub(crate) fn mounted_at(path: &Path) -> Result<Option<Entry>> {
    let file = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(file).map_err(|error| Error::system("read", file, error))?;
    let mut entries = text.split(|&byte| byte == b'\n').filter_map(parse);
    Ok(entries.rfind(|(at, _)| at == path).map(|(_, entry)| entry))
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - type source options`.
fn parse(line: &[u8]) -> Option<(PathBuf, Entry)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescape(fields.nth(3)?);
    let kind = String::from_utf8_lossy(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some((
        PathBuf::from(std::ffi::OsString::from_vec(point)),
        Entry { id, kind: kind.into_owned() },
    ))
}

/// Spaces, tabs, newlines and backslashes are written as `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The path without links but in its last part, which may be a dead mount that cannot be looked at.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let system = |error| Error::system("find", path, error);
    match path.canonicalize() {
        Ok(path) => return Ok(path),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTCONN | libc::ECONNABORTED) => {}
            _ => return Err(system(error)),
        },
    }
    absolute_unasked(path)
}

/// The path without links but in its last part, which is not looked at.
fn absolute_unasked(path: &Path) -> Result<PathBuf> {
    let system = |error| Error::system("find", path, error);
    let Some(name) = path.file_name() else {
        return Err(Error::Invalid { what: format!("{} has no name", path.display()) });
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().map_err(system)?;
    debug_assert!(!name.as_bytes().is_empty());
    Ok(folder.join(name))
}

/// Detaches a mount of ours whose server has died. Returns whether there was one.
///
/// Looks at the mount: not for a thread that serves it (D8).
///
/// # Errors
/// [`Error::AlreadyServed`] when the server lives.
pub fn clear_stale(path: &Path) -> Result<bool> {
    let path = absolute(path)?;
    let mut found = false;
    // A few may lie on each other after several kills.
    for _ in 0..16 {
        match mounted_at(&path)? {
            Some(entry) if entry.kind == TYPE => {}
            _ => return Ok(found),
        }
        // statfs is never answered from the kernel's cache, unlike stat.
        match rustix::fs::statfs(&path) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => {}
            _ => return Err(Error::AlreadyServed { path }),
        }
        tracing::info!(path = %path.display(), "detaching the mount of a dead server");
        unmount(&path, Unmount::Lazy)?;
        found = true;
    }
    Err(Error::Busy { path })
}

/// Ends the connection of a FUSE file of ours whose server is dead: whoever waits for an answer
/// gets an error. Parts of a killed process may keep it while they wait for an answer themselves.
/// The mount stays as long as somebody uses it. Asks the server nothing.
pub fn abort(path: &Path) {
    let Ok(path) = absolute_unasked(path) else { return };
    if mounted_at(&path).is_ok_and(|entry| entry.is_some_and(|entry| entry.kind == TYPE)) {
        let flags = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE;
        if let Err(error) = rustix::mount::unmount(&path, flags) {
            tracing::debug!(path = %path.display(), %error, "a dead server's file is still in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let line = br"36 35 0:98 / /run/a\040b\134c rw,noatime shared:1 master:2 - fuse.ploop p rw";
        let (path, entry) = parse(line).unwrap();
        assert_eq!(path, Path::new(r"/run/a b\c"));
        assert_eq!(entry, Entry { id: 36, kind: TYPE.to_owned() });
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"36 35 0:98 /"), None);
        assert_eq!(unescape(br"\04"), br"\04");
    }

    #[test]
    fn proc_is_mounted_and_nothing_else_is() {
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().unwrap().kind, "proc");
        assert_eq!(mounted_at(Path::new("/no/such/place")).unwrap(), None);
    }
}
