//! Names on the real file system.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RealFile;
use crate::{Dir, File, Ident, OpenHow, Owner, Stat};

/// The host's file system. `list` returns bare names; std opens everything `O_CLOEXEC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDir;

impl Dir for RealDir {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<File> {
        let writable = how.write || how.create || how.create_new;
        // `O_DIRECT` is switched on afterwards: a file system that refuses it at open has already
        // created the file by then, and `O_EXCL` would fail the second try.
        let mut options = fs::OpenOptions::new();
        options.read(true).write(writable).mode(if how.mode == 0 { 0o600 } else { how.mode });
        let file = if how.create || how.create_new {
            match options.clone().create_new(true).open(path) {
                Ok(file) => given(file, path, how.owner)?,
                Err(e) if how.create && e.kind() == io::ErrorKind::AlreadyExists => {
                    opened(options, path)?
                }
                Err(e) => return Err(e),
            }
        } else {
            opened(options, path)?
        };
        Ok(Arc::new(RealFile::new(file, path, writable, how.direct)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(current_if_empty(dir))?.sync_all()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let meta = fs::metadata(path)?;
        Ok(Stat {
            ident: Ident { dev: meta.dev(), ino: meta.ino() },
            len: meta.len(),
            links: meta.nlink(),
            is_file: meta.is_file(),
            is_dir: meta.is_dir(),
            owner: Owner { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 },
        })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = fs::read_dir(current_if_empty(dir))?
            .map(|entry| entry.map(|e| PathBuf::from(e.file_name())))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn read_small(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut options = fs::OpenOptions::new();
        options.read(true);
        opened(options, path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let name = path.display();
            let text = format!("{name} is longer than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(bytes)
    }
}

/// Opens a file or a block device. The open of a FIFO, or of a device without its medium, would
/// wait for somebody, so nothing else is opened, and this never waits.
fn opened(mut options: fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    let plain = |kind: fs::FileType| kind.is_file() || kind.is_block_device();
    let refused = || {
        let text = format!("{} is not a regular file", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    if !plain(fs::metadata(path)?.file_type()) {
        return refused();
    }
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if !plain(file.metadata()?.file_type()) {
        return refused();
    }
    // io_uring would answer EAGAIN where it has to wait for the disk.
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// A file that was just made, given away; removed again when that fails.
fn given(file: fs::File, path: &Path, owner: Option<Owner>) -> io::Result<fs::File> {
    if let Some(owner) = owner
        && let Err(error) = give(&file, owner)
    {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// What this process may not do, or the file system has no place for, is left out.
fn give(file: &fs::File, owner: Owner) -> io::Result<()> {
    let left_out = |done: io::Result<()>| match done {
        Ok(()) => Ok(true),
        Err(e)
            if [libc::EPERM, libc::EINVAL, libc::ENOTSUP].map(Some).contains(&e.raw_os_error()) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    };
    let now = file.metadata()?;
    let mut mode = owner.mode & 0o777;
    let both = (now.uid(), now.gid()) == (owner.uid, owner.gid)
        || left_out(fchown(file, Some(owner.uid), Some(owner.gid)))?;
    let group = both || now.gid() == owner.gid || left_out(fchown(file, None, Some(owner.gid)))?;
    if !group {
        // Another group gets no more than everybody.
        mode = (mode & !0o070) | (mode & (mode << 3) & 0o070);
    }
    left_out(file.set_permissions(fs::Permissions::from_mode(mode))).map(drop)
}

/// `Path::parent` of a bare name is empty and means the current directory.
fn current_if_empty(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}
