//! Making a disk: an image file and the descriptor beside it.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::locate::DESCRIPTOR;
use crate::owner;
use crate::store;
use ploop_format::units::HEADER_WORDS;
use ploop_format::{ClusterSize, Descriptor, EMPTY, Header, ImageType, Sector, Version};
use ploop_io::planted::{Bug, synced};
use ploop_io::{Dir, Entropy, File, OpenHow, Owner, RawFile};
use std::path::{Path, PathBuf};

/// How the image stores the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// A ploop image that grows with what is written.
    #[default]
    Expanded,
    /// A ploop image with all space reserved and mapped.
    Preallocated,
    /// A plain file.
    Raw {
        /// Only its length is set; else zeros are written.
        sparse: bool,
    },
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Size of the device; rounded up to a cluster.
    pub size: Sector,
    /// Generation of the format.
    pub version: Version,
    /// Cluster size.
    pub cluster: ClusterSize,
    /// How it is stored.
    pub kind: Kind,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The image.
    pub image: PathBuf,
    /// The descriptor.
    pub descriptor: PathBuf,
    /// Size of the device after rounding.
    pub size: Sector,
}

/// Told how many bytes of how many are done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Bytes of one write of zeros.
const STEP: usize = 1 << 20;

/// Makes an image at `path` and `DiskDescriptor.xml` in its directory.
///
/// # Errors
/// A descriptor (17) or the image (38) exists, the size does not fit the format (38), or a step
/// failed; what was made is removed again.
pub fn create(
    dir: &dyn Dir,
    entropy: &dyn Entropy,
    path: &Path,
    options: &CreateOptions,
    progress: Progress<'_>,
) -> Result<Created> {
    let header = new_header(options)?;
    let home = home_of(path);
    let descriptor = home.join(DESCRIPTOR);
    if dir.stat(&descriptor).is_ok() {
        let text = format!("{} exists, a directory holds one disk", descriptor.display());
        return Err(ImageError::new(ErrorKind::DescriptorExists, text));
    }
    let name = store::file_name(path)?;
    let document = new_document(&header, options.kind, &name)?;
    let file = open_new(dir, path, owner::of_first(dir, &home))?;
    let made = fill(&*file, &header, options.kind, progress)
        .and_then(|()| {
            synced(Bug::NoSyncImageName, || dir.sync_dir(&home)).at(
                ErrorKind::Sync,
                "cannot sync",
                &home,
            )
        })
        .and_then(|()| store::store_new(dir, entropy, &descriptor, &document, path));
    if let Err(error) = made {
        drop(file);
        // The first error is the one to tell.
        let _ = dir.unlink(&descriptor);
        let _ = dir.unlink(path);
        let _ = synced(Bug::NoSyncUndo, || dir.sync_dir(&home));
        return Err(error);
    }
    Ok(Created { image: path.to_owned(), descriptor, size: header.size() })
}

fn new_header(options: &CreateOptions) -> Result<Header> {
    // Raw files have no header; their size is rounded as if they had.
    let version = match options.kind {
        Kind::Raw { .. } => Version::V2,
        _ => options.version,
    };
    Header::new(version, options.cluster, options.size).map_err(|e| {
        ImageError::new(ErrorKind::Param, "the image cannot have this size").because(e)
    })
}

fn new_document(header: &Header, kind: Kind, name: &str) -> Result<String> {
    let image = match kind {
        Kind::Raw { .. } => ImageType::Plain,
        _ => ImageType::Compressed,
    };
    let preallocated = kind == Kind::Preallocated;
    Descriptor::new(header.size(), header.cluster(), image, preallocated, name)
        .and_then(|new| new.to_xml())
        .map_err(|e| ImageError::new(ErrorKind::Descriptor, "no descriptor can be made").because(e))
}

/// The directory of a path, also when it is a bare name.
pub(crate) fn home_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Opens a file that must not exist yet.
pub(crate) fn open_new(dir: &dyn Dir, path: &Path, owner: Option<Owner>) -> Result<File> {
    let how = OpenHow { write: true, create_new: true, mode: 0o600, owner, ..OpenHow::default() };
    match dir.open(path, how) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(ImageError::new(ErrorKind::ImageExists, format!("{} exists", path.display())))
        }
        opened => opened.at(ErrorKind::Create, "cannot create", path),
    }
}

/// Writes the content of a new image and makes it durable.
pub(crate) fn fill(
    file: &dyn RawFile,
    header: &Header,
    kind: Kind,
    progress: Progress<'_>,
) -> Result<()> {
    match kind {
        Kind::Expanded => write_table(file, header, false)?,
        Kind::Preallocated => {
            reserve(file, header.preallocated_len(), progress)?;
            write_table(file, header, true)?;
        }
        Kind::Raw { sparse: true } => file.set_len(header.size().bytes()).at(
            ErrorKind::Truncate,
            "cannot set the length of",
            file.path(),
        )?,
        Kind::Raw { sparse: false } => write_zeros(file, header.size().bytes(), progress)?,
    }
    synced(Bug::NoSyncImage, || file.sync()).at(ErrorKind::Sync, "cannot sync", file.path())
}

/// Header and BAT as whole clusters: 1.x refuses an image with holes in them (C5).
fn write_table(file: &dyn RawFile, header: &Header, mapped: bool) -> Result<()> {
    let path = file.path();
    let mut buffer = vec![0u8; STEP];
    let mut at = 0;
    while at < header.data_start() {
        let len = (STEP as u64).min(header.data_start() - at) as usize;
        table_bytes(header, at, &mut buffer[..len], mapped)?;
        file.write_at(&buffer[..len], at).at(ErrorKind::Write, "cannot write", path)?;
        at += len as u64;
    }
    Ok(())
}

/// Bytes `at..` of header and BAT.
fn table_bytes(header: &Header, at: u64, out: &mut [u8], mapped: bool) -> Result<()> {
    out.fill(0);
    if at == 0 {
        let mut first = *header;
        first.set_flag(EMPTY, !mapped);
        out[..64].copy_from_slice(&first.encode());
    }
    if !mapped {
        return Ok(());
    }
    for (index, word) in out.chunks_exact_mut(4).enumerate() {
        let Some(slot) = (at / 4 + index as u64).checked_sub(HEADER_WORDS) else { continue };
        if slot >= header.entries() {
            break;
        }
        let entry = header.preallocated_entry(slot).ok_or_else(|| {
            let text = format!("cluster {slot} does not fit the format when all are mapped");
            ImageError::new(ErrorKind::Param, text)
        })?;
        word.copy_from_slice(&entry.to_le_bytes());
    }
    Ok(())
}

/// All blocks of a preallocated image; where the file system has no such thing, only its length.
fn reserve(file: &dyn RawFile, len: u64, progress: Progress<'_>) -> Result<()> {
    let path = file.path();
    if file.caps().reserve {
        // In steps, so that the caller sees it move and can stop it.
        let step = 4u64 << 30;
        let mut at = 0;
        while at < len {
            let piece = step.min(len - at);
            file.reserve(at, piece).at(ErrorKind::Reserve, "cannot reserve space for", path)?;
            at += piece;
            progress(at, len);
        }
    }
    // F14: the blocks first, then the length in one step.
    file.set_len(len).at(ErrorKind::Truncate, "cannot set the length of", path)
}

fn write_zeros(file: &dyn RawFile, len: u64, progress: Progress<'_>) -> Result<()> {
    let zeros = vec![0u8; STEP];
    let mut at = 0;
    while at < len {
        let piece = (STEP as u64).min(len - at) as usize;
        file.write_at(&zeros[..piece], at).at(ErrorKind::Write, "cannot write", file.path())?;
        at += piece as u64;
        progress(at, len);
    }
    Ok(())
}
