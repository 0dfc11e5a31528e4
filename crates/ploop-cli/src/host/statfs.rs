//! `.statfs` beside the image: what a file system had when it was last unmounted, for other tools.
//!
//! Five native u64: block size, blocks, free blocks, inodes, free inodes. Written at umount,
//! removed at mount, never read here: nobody knows what has changed since.

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
        std::fs::write(&disk, "").unwrap();
        let stat = Statfs::of_mount(dir.path()).unwrap();
        let file = dir.path().join(".statfs");
        stat.store(&disk);
        let words = std::fs::read(&file).unwrap();
        assert_eq!(words.len(), 40);
        assert_eq!(words[..8], stat.block_bytes.to_ne_bytes());
        forget(&disk);
        assert!(!file.exists());
    }
}
