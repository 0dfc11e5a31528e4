//! Facts about a disk, without changing anything.

use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::locate::{self, Located};
use crate::open::plan::Document;
use crate::open::{OpenOptions, plan};
use ploop_format::{Guid, Temporary};
use ploop_io::{Dir, OpenHow};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What `info -s` shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Info {
    /// Sectors of the device.
    pub size: u64,
    /// Sectors of a cluster.
    pub blocksize: u32,
    /// Version of the format; 0 for raw.
    pub fmt_version: u32,
    /// Images in the chain; of a split disk in that of each piece.
    pub levels: usize,
    /// In how many pieces the disk is split: 1 for most.
    pub pieces: usize,
    /// The top's file; of a split disk that of its first piece.
    pub top: PathBuf,
}

/// What is in `.statfs`: written when a file system was unmounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

/// One line of `snapshot-list`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SnapshotEntry {
    /// Its name in braces.
    pub uuid: String,
    /// What it lies on; empty for the base.
    pub parent_uuid: String,
    /// It is the writable top.
    pub current: bool,
    /// The file, absolute.
    pub fname: PathBuf,
    /// It waits to be merged.
    pub temporary: bool,
}

/// Name of the file with the numbers of the file system.
pub const STATFS: &str = ".statfs";

/// Size, cluster size and version of a disk. Works while it is open elsewhere: the few header
/// fields it reads change only with a grow.
///
/// # Errors
/// As opening it read-only, locks aside.
pub fn info(dir: &dyn Dir, target: &Path, options: &OpenOptions) -> Result<Info> {
    let mut all = info_of(dir, target, options)?;
    for piece in 1..all.pieces {
        all.size += info_of(dir, target, &OpenOptions { piece, ..options.clone() })?.size;
    }
    Ok(all)
}

fn info_of(dir: &dyn Dir, target: &Path, options: &OpenOptions) -> Result<Info> {
    let plan = plan::Plan::make(dir, target, options, None)?;
    let Some(top) = plan.members.last() else {
        return Err(ImageError::new(ErrorKind::Descriptor, "a disk without images"));
    };
    let parsed = plan.document.as_ref().map(|d| &d.parsed);
    let pieces = plan.document.as_ref().map_or(1, |d| d.disk.pieces());
    let levels = plan.members.len();
    if top.claim == plan::Claim::Raw {
        let len = dir.stat(&top.path).at(ErrorKind::Stat, "cannot stat", &top.path)?.len;
        let said = parsed.map_or(0, |d| d.size_sectors);
        return Ok(Info {
            size: if said == 0 { len >> 9 } else { said },
            blocksize: parsed.map_or(0, |d| d.cluster.sectors()),
            fmt_version: 0,
            levels,
            pieces,
            top: top.path.clone(),
        });
    }
    let file =
        dir.open(&top.path, OpenHow::default()).at(ErrorKind::Open, "cannot open", &top.path)?;
    let head = crate::head::Head::read(&*file, &top.path)?;
    Ok(Info {
        size: head.size().0,
        blocksize: head.cluster().sectors(),
        fmt_version: head.version_number(),
        levels,
        pieces,
        top: top.path.clone(),
    })
}

/// The numbers of the file system on the disk, when it was unmounted by ploop.
///
/// # Errors
/// The file is there and not 40 bytes long, or cannot be read.
pub fn statfs(dir: &dyn Dir, target: &Path) -> Result<Option<StatFs>> {
    let path = match locate::locate(dir, target)? {
        Located::Descriptor(path) => path.with_file_name(STATFS),
        Located::Image(_) => return Ok(None),
    };
    if dir.stat(&path).is_err() {
        return Ok(None);
    }
    let bytes = dir.read_small(&path, 4096).at(ErrorKind::Read, "cannot read", &path)?;
    let (words, rest) = bytes.as_chunks::<8>();
    let ([a, b, c, d, e], []) = (words, rest) else {
        let text = format!("{} has {} bytes, expected 40", path.display(), bytes.len());
        return Err(ImageError::new(ErrorKind::Read, text));
    };
    Ok(Some(StatFs {
        block_size: u64::from_ne_bytes(*a),
        blocks: u64::from_ne_bytes(*b),
        free_blocks: u64::from_ne_bytes(*c),
        inodes: u64::from_ne_bytes(*d),
        free_inodes: u64::from_ne_bytes(*e),
    }))
}

/// Snapshots in the order of the descriptor; `only` lists one image and its ancestors.
///
/// # Errors
/// No descriptor, or no such snapshot (43).
pub fn snapshots(dir: &dyn Dir, target: &Path, only: Option<Guid>) -> Result<Vec<SnapshotEntry>> {
    let Located::Descriptor(path) = locate::locate(dir, target)? else {
        let text = format!("{} is a lone image: it has no snapshots", target.display());
        return Err(ImageError::new(ErrorKind::Param, text));
    };
    let document = Document::read(dir, &path)?;
    let parsed = &document.parsed;
    let wanted = match only {
        None => None,
        Some(guid) => Some(parsed.chain_of(guid).map_err(|e| {
            ImageError::new(ErrorKind::NoSnapshot, format!("no snapshot {guid}")).because(e)
        })?),
    };
    let mut list = Vec::with_capacity(parsed.shots.len());
    for shot in &parsed.shots {
        let Some(image) = parsed.image(shot.guid) else { continue };
        if wanted.as_ref().is_some_and(|chain| chain.iter().all(|i| i.guid != shot.guid)) {
            continue;
        }
        let base = shot.parent == Guid::NONE;
        list.push(SnapshotEntry {
            uuid: shot.guid.to_string(),
            parent_uuid: if base { String::new() } else { shot.parent.to_string() },
            current: shot.guid == parsed.top,
            fname: document.home().join(&image.file),
            temporary: shot.temporary != Temporary::No,
        });
    }
    Ok(list)
}
