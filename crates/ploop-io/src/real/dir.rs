//! Names on the real file system.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RealFile;
use crate::{Dir, File, Ident, OpenHow, Stat};

/// The host's file system. `list` returns bare names; std opens everything `O_CLOEXEC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDir;

impl Dir for RealDir {
    fn open(&self, path: &Path, how: OpenHow) -> io::Result<File> {
        let writable = how.write || how.create || how.create_new;
        // `O_DIRECT` is switched on afterwards: a file system that refuses it at open has already
        // created the file by then, and `O_EXCL` would fail the second try.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(writable)
            .create(how.create)
            .create_new(how.create_new)
            .mode(if how.mode == 0 { 0o600 } else { how.mode })
            .open(path)?;
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
            is_file: meta.is_file(),
            is_dir: meta.is_dir(),
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
        fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let name = path.display();
            let text = format!("{name} is longer than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(bytes)
    }
}

/// `Path::parent` of a bare name is empty and means the current directory.
fn current_if_empty(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}
