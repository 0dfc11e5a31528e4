//! What a killed server leaves: its entry, dead FUSE mounts, and its block device as long as
//! somebody has that mounted or open.

use crate::failure::OrFail;
use crate::registry::{Entry, Registry};
use crate::{Code, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

impl Registry {
    /// The entries of servers that ended without a stop, as long as they are there.
    ///
    /// # Errors
    /// The directory is there but cannot be read.
    pub fn dead(&self) -> Result<Vec<Entry>> {
        Ok(self.all()?.into_iter().filter(|entry| !entry.alive()).collect())
    }

    /// Takes away what is left of a dead server. `false`: its device is mounted or open, so all of
    /// it stays, to be found again; unless by `force`, which leaves the device to its users.
    #[must_use]
    pub fn clear(&self, entry: &Entry, force: bool) -> bool {
        // Under the lock and after a second look: a new server may have taken the name meanwhile.
        let Ok(_lock) = self.lock() else { return false };
        if self.load(&entry.id).is_none_or(|entry| entry.alive()) {
            return true;
        }
        let file = self.file(entry);
        // Parts of it that wait for their own device hold the connection: nobody else ends that.
        ploop_fuse::abort(&file);
        if entry.transport.as_deref() == Some("loop") {
            let device = entry.device.iter().map(Path::new);
            device.for_each(|device| ploop_fuse::free_dead(device, &absolute(&file)));
        }
        if !force && self.has_device(entry) {
            return false;
        }
        forget_name(entry);
        unmount(&file);
        if fs::symlink_metadata(&file).is_ok_and(|data| data.is_file() && data.len() == 0) {
            let _ = fs::remove_file(&file);
        }
        // Those files may be their owner's, so they stay.
        let exports = entry.exports.iter().filter_map(|words| words.strip_prefix("fuse "));
        exports.for_each(|file| unmount(Path::new(file)));
        self.remove(&entry.id);
        true
    }
}

impl Registry {
    /// Whether the block device of a dead server is still there. The kernel frees it with its last
    /// user; the number may be somebody else's by now.
    #[must_use]
    pub fn has_device(&self, entry: &Entry) -> bool {
        has_device(entry, &self.file(entry))
    }

    /// The FUSE file below a loop device.
    fn file(&self, entry: &Entry) -> PathBuf {
        self.dir().join(format!("{}.img", entry.id))
    }

    /// Held by whoever takes a temporary snapshot, until a server has it; waits for those who merge
    /// such snapshots away.
    ///
    /// # Errors
    /// The directory or the file cannot be had.
    pub fn lock_temporary(&self) -> Result<fs::File> {
        let file = self.temporary()?;
        flock(&file, FlockOperation::LockShared).or_fail(Code::Flock, "temporary snapshots")?;
        Ok(file)
    }

    /// Held by whoever merges temporary snapshots away; `None` while one is being taken.
    ///
    /// # Errors
    /// The directory or the file cannot be had.
    pub fn try_lock_temporary(&self) -> Result<Option<fs::File>> {
        let file = self.temporary()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).or_fail(Code::Flock, "temporary snapshots"),
        }
    }

    fn temporary(&self) -> Result<fs::File> {
        self.prepare()?;
        let path = self.dir().join(".temporary");
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.or_fail(Code::Flock, format!("cannot lock {}", path.display()))
    }
}

/// The links of a device that is gone: its number may be another disk's soon.
fn forget_name(entry: &Entry) {
    let (Some(name), Some(device)) = (&entry.name, &entry.device) else { return };
    let partition = entry.partition.as_deref().unwrap_or_default();
    for (link, now) in [(name.clone(), device.as_str()), (format!("{name}-part1"), partition)] {
        let link = Path::new("/dev/ploop").join(link);
        if fs::read_link(&link).is_ok_and(|to| to == Path::new(now)) {
            let _ = fs::remove_file(link);
        }
    }
}

fn has_device(entry: &Entry, file: &Path) -> bool {
    let name = entry.device.as_deref().and_then(|device| Path::new(device).file_name());
    let Some(name) = name else { return false };
    if entry.transport.as_deref() == Some("ublk") {
        // It waits for the disk's next server, with whatever is mounted on it.
        return Path::new("/sys/block").join(name).exists();
    }
    let below = Path::new("/sys/block").join(name).join("loop/backing_file");
    let Ok(below) = fs::read(below) else { return false };
    below.strip_suffix(b"\n").unwrap_or(&below) == absolute(file).as_os_str().as_bytes()
}

/// The file itself is a dead mount and cannot be asked.
fn absolute(file: &Path) -> PathBuf {
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, file.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}

fn unmount(file: &Path) {
    if let Err(error) = ploop_fuse::clear_stale(file) {
        tracing::info!("{error}");
    }
}
