//! A block device with its partitions, by name and number.

use crate::mountinfo::Mount;
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};
use std::fs;
use std::path::{Path, PathBuf};

/// The devices that are asked about.
pub(super) struct Target {
    /// `loop4`, `loop4p1`.
    pub names: Vec<String>,
    /// Major and minor, in the same order.
    pub numbers: Vec<(u32, u32)>,
}

impl Target {
    /// Of a device's path; `None` when the kernel does not know it.
    pub fn of(device: &Path) -> Option<Self> {
        let real = fs::canonicalize(device).ok()?;
        let name = real.file_name()?.to_str()?.to_owned();
        let folder = Path::new("/sys/class/block").join(&name);
        let mut target = Self { names: Vec::new(), numbers: Vec::new() };
        target.add(name, &folder)?;
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            let partition = entry.path();
            if partition.join("partition").exists()
                && let Ok(name) = entry.file_name().into_string()
            {
                let _ = target.add(name, &partition);
            }
        }
        Some(target)
    }

    fn add(&mut self, name: String, folder: &Path) -> Option<()> {
        let text = fs::read_to_string(folder.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        self.numbers.push((major.parse().ok()?, minor.parse().ok()?));
        self.names.push(name);
        Some(())
    }

    /// Whether a device number is one of them.
    pub fn has(&self, number: (u32, u32)) -> bool {
        self.numbers.contains(&number)
    }

    /// Whether a path, as the kernel writes it, names one of them.
    pub fn is_at(&self, path: &Path) -> bool {
        block_number(path).is_some_and(|number| self.has(number))
            || self.paths().any(|own| own == path)
    }

    /// Whether a mount is of one of them. btrfs has a number of its own, so the name counts too.
    pub fn is_source_of(&self, mount: &Mount) -> bool {
        let number = mount.device.split_once(':');
        let number =
            number.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        number.is_some_and(|number| self.has(number)) || self.paths().any(|own| own == mount.source)
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.names.iter().map(|name| Path::new("/dev").join(name))
    }
}

/// What the kernel knows of a file. Nothing is asked for, so that no file system is: it may be our
/// own FUSE file, whose requests are held, or the directory of a server that is gone.
pub(super) fn unasked(path: &Path) -> Option<Statx> {
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty()).ok()
}

/// The number of the block device that a path is.
pub(super) fn block_number(path: &Path) -> Option<(u32, u32)> {
    let found = unasked(path)?;
    let block = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    block.then_some((found.stx_rdev_major, found.stx_rdev_minor))
}
