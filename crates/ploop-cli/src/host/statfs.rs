//! `.statfs` beside the image: what `info` says about a disk that is not mounted.
//!
//! Five native u64: block size, blocks, free blocks, inodes, free inodes. Written at umount,
//! removed at mount.

use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Result};
use ploop_io::{Dir, OpenHow, RealDir};
use std::fs;
use std::path::{Path, PathBuf};

/// Space and inodes of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statfs {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

impl Statfs {
    /// Of the file system mounted here.
    ///
    /// # Errors
    /// It does not answer.
    pub fn of_mount(target: &Path) -> Result<Self> {
        let stat = rustix::fs::statvfs(target);
        let stat = stat.or_fail(Code::Examine, format!("statfs {}", target.display()))?;
        Ok(Self {
            block_bytes: stat.f_frsize,
            blocks: stat.f_blocks,
            free_blocks: stat.f_bfree,
            inodes: stat.f_files,
            free_inodes: stat.f_ffree,
        })
    }

    /// What was stored for a disk.
    pub fn stored(disk: &Path) -> Option<Self> {
        let bytes: [u8; 40] = fs::read(path(disk)?).ok()?.try_into().ok()?;
        let mut words = bytes.chunks_exact(8).map(|chunk| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        let mut next = || words.next();
        let stat = Self {
            block_bytes: next()?,
            blocks: next()?,
            free_blocks: next()?,
            inodes: next()?,
            free_inodes: next()?,
        };
        (stat.block_bytes > 0 && stat.free_blocks <= stat.blocks).then_some(stat)
    }

    /// Stores it for a disk; a directory that is read-only is no error.
    pub fn store(self, disk: &Path) {
        let Some(path) = path(disk) else { return };
        let words =
            [self.block_bytes, self.blocks, self.free_blocks, self.inodes, self.free_inodes];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let staged = path.with_extension("tmp");
        let stored = put(disk, &staged, &bytes).and_then(|()| fs::rename(&staged, &path));
        if let Err(error) = stored {
            tracing::info!("{}: {error}", path.display());
        }
    }
}

/// A new file, so that no link is followed; the disk's user owns it as the rest of the disk.
fn put(disk: &Path, staged: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match fs::remove_file(staged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let owner = Some(RealDir.stat(disk)?.owner);
    let how = OpenHow { write: true, create_new: true, mode: 0o644, owner, ..OpenHow::default() };
    RealDir.open(staged, how)?.write_at(bytes, 0)
}

/// Removes what was stored: it is about to become wrong.
pub fn forget(disk: &Path) {
    if let Some(path) = path(disk) {
        let _ = fs::remove_file(path);
    }
}

fn path(disk: &Path) -> Option<PathBuf> {
    Some(disk.parent()?.join(".statfs"))
}

#[cfg(test)]
mod tests {
    use super::{Statfs, forget};

    #[test]
    fn stored_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("DiskDescriptor.xml");
        let stat = Statfs::of_mount(dir.path()).unwrap();
        assert_eq!(Statfs::stored(&disk), None);
        stat.store(&disk);
        assert_eq!(Statfs::stored(&disk), Some(stat));
        assert_eq!(std::fs::metadata(dir.path().join(".statfs")).unwrap().len(), 40);
        forget(&disk);
        assert_eq!(Statfs::stored(&disk), None);
    }
}
