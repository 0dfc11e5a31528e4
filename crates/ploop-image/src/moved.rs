//! A bundle that is not where it was made: files that the descriptor names by absolute paths, and
//! the second copy of the descriptor that Parallels Desktop keeps.

use crate::error::{ErrorKind, ImageError, Result};
use ploop_format::Descriptor;
use ploop_io::Dir;
use std::io;
use std::path::{Path, PathBuf};

/// What the other copy is called.
const BACKUP: &str = "DiskDescriptor.xml.Backup";

/// Lets the descriptor name the file beside it instead of one that is not there any more, also
/// when it is written again. Tells which.
///
/// # Errors
/// Both are there, so that nobody knows which one is meant.
pub(crate) fn find(
    dir: &dyn Dir,
    descriptor: &Path,
    parsed: &mut Descriptor,
) -> Result<Vec<(String, PathBuf)>> {
    let home = descriptor.parent().unwrap_or(Path::new("/"));
    let mut moved = Vec::new();
    let pieces = parsed.more.iter_mut().flat_map(|piece| &mut piece.images);
    for image in parsed.images.iter_mut().chain(pieces) {
        let named = PathBuf::from(&image.file);
        let Some(name) = named.file_name().filter(|_| named.is_absolute()) else { continue };
        let beside = home.join(name);
        let Ok(here) = dir.canonical(&beside) else { continue };
        match dir.canonical(&named) {
            Ok(there) if there == here => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let Some(name) = name.to_str() else { continue };
                let old = std::mem::replace(&mut image.file, name.to_owned());
                moved.push((old, beside));
            }
            Ok(_) | Err(_) => return Err(both(descriptor, &named, &beside)),
        }
    }
    Ok(moved)
}

fn both(descriptor: &Path, named: &Path, beside: &Path) -> ImageError {
    let text = format!(
        "{} names {}, but {} lies beside it: nobody can tell which one is meant",
        descriptor.display(),
        named.display(),
        beside.display()
    );
    ImageError::new(ErrorKind::Descriptor, text).hint(
        "rename the one that is not meant; or write the name of the right one, without its \
         directory, into <File>",
    )
}

/// Adds that there is another copy of a descriptor, when that one can be used.
pub(crate) fn with_backup(dir: &dyn Dir, descriptor: &Path, error: ImageError) -> ImageError {
    let backup = descriptor.with_file_name(BACKUP);
    let usable = dir
        .read_small(&backup, crate::open::plan::MAX_DESCRIPTOR)
        .is_ok_and(|bytes| Descriptor::parse(&bytes).is_ok());
    match usable {
        true => error.hint(format!(
            "{} can be used, if no snapshot was taken or merged since it was written: copy it \
             over the other",
            backup.display()
        )),
        false => error,
    }
}

/// Whether a path is the other copy of a descriptor.
pub(crate) fn is_backup(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == BACKUP)
}
