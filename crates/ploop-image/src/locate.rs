//! What a path on the command line means: a descriptor, its directory, or a lone image.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::moved;
use crate::open::plan::Document;
use ploop_io::{Dir, OpenHow};
use std::io;
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
/// Nothing is there, it is neither a descriptor nor a ploop image, or the descriptor beside it
/// cannot be used, so that nobody knows what it is a part of.
pub fn locate(dir: &dyn Dir, target: &Path) -> Result<Located> {
    match locate_file(dir, target)? {
        Located::Image(image) => match beside(dir, &image)? {
            Some(descriptor) => Ok(Located::Descriptor(descriptor)),
            None => Ok(Located::Image(image)),
        },
        found => Ok(found),
    }
}

/// As [`locate`], but an image stays an image (`check` of one file).
///
/// # Errors
/// As [`locate`]; of an image the descriptor beside it is not looked at.
pub fn locate_file(dir: &dyn Dir, target: &Path) -> Result<Located> {
    let stat = dir.stat(target).at(ErrorKind::Open, "cannot find", target)?;
    if stat.is_dir {
        return in_directory(dir, target);
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
    if has_signature(dir, &path)? {
        return Ok(Located::Image(path));
    }
    let descriptor = path.with_file_name(DESCRIPTOR);
    if is_placeholder(&path, stat.len) && dir.stat(&descriptor).is_ok_and(|stat| stat.is_file) {
        return Ok(Located::Descriptor(descriptor));
    }
    match beside(dir, &path)? {
        Some(_) => Ok(Located::Image(path)),
        None => Err(neither(dir, &path, stat.len)),
    }
}

/// Parallels Desktop puts an empty file of the bundle's name into it.
fn is_placeholder(path: &Path, len: u64) -> bool {
    len == 0 && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("hdd"))
}

fn in_directory(dir: &dyn Dir, target: &Path) -> Result<Located> {
    let descriptor = target.join(DESCRIPTOR);
    let found = dir.stat(&descriptor).at(ErrorKind::Descriptor, "cannot find", &descriptor);
    let found = found.map_err(|error| match inner(dir, target) {
        Some(disk) => error.hint(format!("{} holds a disk", disk.display())),
        None => moved::with_backup(dir, &descriptor, error),
    })?;
    if !found.is_file {
        let text = format!("{} is not a file", descriptor.display());
        return Err(ImageError::new(ErrorKind::Descriptor, text));
    }
    Ok(Located::Descriptor(descriptor))
}

/// The first directory below with a descriptor: people name the virtual machine, not its disk.
fn inner(dir: &dyn Dir, target: &Path) -> Option<PathBuf> {
    const LOOKED_AT: usize = 256;
    let names = dir.list(target).ok()?.into_iter().take(LOOKED_AT);
    let is_disk = |path: &PathBuf| dir.stat(&path.join(DESCRIPTOR)).is_ok_and(|s| s.is_file);
    names.map(|name| target.join(name)).find(is_disk)
}

/// The error of a file that is nothing we know, with a hint that works for this very file.
fn neither(dir: &dyn Dir, path: &Path, len: u64) -> ImageError {
    let home = path.parent().unwrap_or(Path::new("/"));
    let has_disk = dir.stat(&home.join(DESCRIPTOR)).is_ok_and(|stat| stat.is_file);
    let name = path.display();
    let what = match len {
        0 => "is empty: no",
        _ => "is not a",
    };
    let text = format!("{name} {what} ploop image and not a descriptor");
    let error = ImageError::new(ErrorKind::BadImage, text);
    if has_disk {
        return error.hint(format!("the disk beside it is {}", home.display()));
    }
    if moved::is_backup(path) {
        let home = home.join(DESCRIPTOR);
        return error.hint(format!("it is the other copy of {}, which is missing", home.display()));
    }
    // Whole sectors, as a disk's.
    if len != 0 && len.is_multiple_of(512) {
        let home = home.display();
        let command = format!("ploop restore-descriptor -f raw {home} {name}");
        return error.hint(format!("a raw disk needs a descriptor: {command}"));
    }
    error
}

/// Whether the file begins with a ploop signature. Opens it read-only.
pub(crate) fn has_signature(dir: &dyn Dir, path: &Path) -> Result<bool> {
    let file = dir.open(path, OpenHow::default()).at(ErrorKind::Open, "cannot open", path)?;
    let mut start = [0u8; 16];
    let got = file.read_at(&mut start, 0).at(ErrorKind::Read, "cannot read", path)?;
    Ok(got == start.len() && ploop_format::Version::of_signature(&start).is_some())
}

/// What can be done with an image whose descriptor cannot be used. One with a snapshot's name may
/// lie on others, and would read as zeros without them.
fn by_itself(image: &Path) -> String {
    let name = image.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if name.contains(".{") {
        let image = image.display();
        return format!(
            "only the descriptor says what {image} lies on, so that has to be repaired; \
             `ploop check -f {image}` looks at this file alone"
        );
    }
    format!("in a directory of its own {} is opened as it is", image.display())
}

/// A descriptor in the same directory that names the image. One that cannot be used is not taken
/// for none: the image may be a part of its disk, and what lies below would read as zeros.
fn beside(dir: &dyn Dir, image: &Path) -> Result<Option<PathBuf>> {
    let Some(path) = image.parent().map(|home| home.join(DESCRIPTOR)) else { return Ok(None) };
    match dir.stat(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A link that leads nowhere is none either; what else is there is asked for its content.
        _ => {}
    }
    let document = Document::read(dir, &path).map_err(|error| {
        let text = format!("{} may be a part of the disk beside it", image.display());
        let hint = error.hint_text().map_or_else(|| by_itself(image), str::to_owned);
        ImageError::new(error.kind(), text).because(error).hint(hint)
    })?;
    let home = document.home();
    let named = document.parsed.all_images().any(|entry| {
        dir.canonical(&home.join(&entry.file)).is_ok_and(|canonical| canonical == image)
    });
    Ok(named.then_some(path))
}
