//! The gate every file named by a descriptor passes before it is opened.
//!
//! A descriptor comes from whoever made the disk. Without the gate it could name any file of the
//! host as its base, and a guest would read it.
//!
//! The gate is about reading. To change a file takes more: see `whose`.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use ploop_io::Dir;
use std::fmt;
use std::path::Path;

/// Says whether a disk may open a file. An image opens another file only through it.
pub trait OpenGate: Send + Sync + fmt::Debug {
    /// `home` is the directory of the descriptor and `file` the file it names, both canonical.
    ///
    /// # Errors
    /// The file may not be opened; the text says why.
    fn allow(&self, home: &Path, file: &Path) -> Result<(), String>;
}

/// The default: files below the disk's own directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct InsideDirectory;

impl OpenGate for InsideDirectory {
    fn allow(&self, home: &Path, file: &Path) -> Result<(), String> {
        if file.starts_with(home) && file != home {
            Ok(())
        } else {
            Err("it lies outside the directory of the disk".to_owned())
        }
    }
}

/// Any file the process may open. For disks whose maker is trusted (clones of a common base).
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyFile;

impl OpenGate for AnyFile {
    fn allow(&self, _home: &Path, _file: &Path) -> Result<(), String> {
        Ok(())
    }
}

/// Resolves `file` and asks the gate; returns the canonical path, which is what must be opened.
pub(crate) fn pass(
    dir: &dyn Dir,
    gate: &dyn OpenGate,
    home: &Path,
    file: &Path,
) -> Result<std::path::PathBuf> {
    let real = dir.canonical(file).map_err(|e| {
        ImageError::new(ErrorKind::Open, format!("cannot find {}", file.display())).because(e)
    })?;
    gate.allow(home, &real).map_err(|why| {
        let text = format!(
            "the disk in {} names {}, which is refused: {why}",
            home.display(),
            real.display()
        );
        ImageError::new(ErrorKind::Gate, text)
    })?;
    Ok(real)
}

/// Why a file may be another disk's too: such a file is read, and changed only when the caller
/// says so. `None`: it is the disk's own. Both paths are canonical.
pub(crate) fn whose(dir: &dyn Dir, home: &Path, file: &Path) -> Result<Option<String>> {
    if !file.starts_with(home) {
        return Ok(Some(format!("it lies outside the directory of the disk, {}", home.display())));
    }
    let links = dir.stat(file).at(ErrorKind::Open, "cannot find", file)?.links;
    Ok((links > 1).then(|| format!("the file has {links} names (hard links)")))
}

/// The error of a file that is not the disk's alone and would have to change.
pub(crate) fn not_own(file: &Path, why: &str) -> ImageError {
    let text = format!("{} would change, and it may belong to others: {why}", file.display());
    ImageError::new(ErrorKind::Shared, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_below_the_home_pass() {
        let home = Path::new("/vz/disk");
        let ok = |p: &str| InsideDirectory.allow(home, Path::new(p)).is_ok();
        assert!(ok("/vz/disk/root.hds"));
        assert!(ok("/vz/disk/deltas/a"));
        assert!(!ok("/vz/disk"));
        assert!(!ok("/vz/disk2/root.hds"));
        assert!(!ok("/etc/shadow"));
        assert!(AnyFile.allow(home, Path::new("/etc/shadow")).is_ok());
    }
}
