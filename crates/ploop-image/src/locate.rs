//! What a path on the command line means: a descriptor, its directory, or a lone image.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::open::plan::Document;
use ploop_io::{Dir, OpenHow};
use std::path::{Path, PathBuf};

/// The name every descriptor has.
pub const DESCRIPTOR: &str = "DiskDescriptor.xml";

/// What a path stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Located {
    /// A disk: the path of its descriptor.
    Descriptor(PathBuf),
    /// A ploop image that no descriptor beside it names: its canonical path. Of one file that was
    /// asked for also any that a descriptor names.
    Image(PathBuf),
}

/// Finds out what `target` means. An image that a descriptor beside it names stands for the disk.
///
/// # Errors
/// Nothing is there, or it is neither a descriptor nor a ploop image.
pub fn locate(dir: &dyn Dir, target: &Path) -> Result<Located> {
    match locate_file(dir, target)? {
        Located::Image(image) => match beside(dir, &image) {
            Some(descriptor) => Ok(Located::Descriptor(descriptor)),
            None => Ok(Located::Image(image)),
        },
        found => Ok(found),
    }
}

/// As [`locate`], but an image stays an image (`check` of one file).
///
/// # Errors
/// As [`locate`].
pub fn locate_file(dir: &dyn Dir, target: &Path) -> Result<Located> {
    let stat = dir.stat(target).at(ErrorKind::Open, "cannot find", target)?;
    if stat.is_dir {
        let descriptor = target.join(DESCRIPTOR);
        let found = dir.stat(&descriptor).at(ErrorKind::Descriptor, "cannot find", &descriptor)?;
        if !found.is_file {
            let text = format!("{} is not a file", descriptor.display());
            return Err(ImageError::new(ErrorKind::Descriptor, text));
        }
        return Ok(Located::Descriptor(descriptor));
    }
    if !stat.is_file {
        let text = format!("{} is neither a file nor a directory", target.display());
        return Err(ImageError::new(ErrorKind::Open, text));
    }
    if target.extension().is_some_and(|e| e.eq_ignore_ascii_case("xml")) {
        return Ok(Located::Descriptor(target.to_owned()));
    }
    let path = dir.canonical(target).at(ErrorKind::Open, "cannot find", target)?;
    // Whether it is a raw image is for its owner to say: a raw is never recognised by content.
    if has_signature(dir, &path)? || beside(dir, &path).is_some() {
        return Ok(Located::Image(path));
    }
    let text = format!("{} is not a ploop image and not a descriptor", target.display());
    Err(ImageError::new(ErrorKind::BadImage, text)
        .hint("a raw file needs a descriptor: ploop restore-descriptor -f raw DIR IMAGE"))
}

/// Whether the file begins with a ploop signature. Opens it read-only.
pub(crate) fn has_signature(dir: &dyn Dir, path: &Path) -> Result<bool> {
    let file = dir.open(path, OpenHow::default()).at(ErrorKind::Open, "cannot open", path)?;
    let mut start = [0u8; 16];
    let got = file.read_at(&mut start, 0).at(ErrorKind::Read, "cannot read", path)?;
    Ok(got == start.len() && ploop_format::Version::of_signature(&start).is_some())
}

/// A descriptor in the same directory that names the image.
fn beside(dir: &dyn Dir, image: &Path) -> Option<PathBuf> {
    let path = image.parent()?.join(DESCRIPTOR);
    let document = Document::read(dir, &path).ok()?;
    let home = document.home();
    let named = document.parsed.images.iter().any(|entry| {
        dir.canonical(&home.join(&entry.file)).is_ok_and(|canonical| canonical == image)
    });
    named.then_some(path)
}
