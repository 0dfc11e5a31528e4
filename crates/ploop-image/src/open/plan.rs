//! What a disk consists of, before any image is opened.

use super::pieces::refuse_piece;
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::gate::{self, OpenGate};
use crate::locate::{self, Located};
use crate::moved;
use crate::open::OpenOptions;
use ploop_format::descriptor::Temporary;
use ploop_format::{Descriptor, Guid, ImageRef, ImageType};
use ploop_io::Dir;
use ploop_io::planted::{Bug, on};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest chain (T12).
pub const MAX_LEVELS: usize = 253;
/// The original tools refuse a chain of this length.
pub const ORIGINAL_LEVELS: usize = 127;
/// A descriptor longer than this is none.
pub(crate) const MAX_DESCRIPTOR: u64 = 4 << 20;

/// What the descriptor says of an image file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// A ploop image.
    Ploop,
    /// A raw file: its content says nothing about its format.
    Raw,
    /// A base that is not marked, under images marked raw: the signature decides.
    Either,
}

/// One image file of the chain.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its name; [`Guid::NONE`] of a lone image.
    pub guid: Guid,
    /// The canonical path, passed by the gate.
    pub path: PathBuf,
    /// What it is said to be.
    pub claim: Claim,
    /// It is written, when the disk is.
    pub write: bool,
    /// Why it may be another disk's too ([`gate::whose`]); `None`: it is this disk's own.
    pub shared: Option<String>,
    /// A former life may have written it, though this one may only read it: a raw base that levels
    /// were going into.
    pub written: bool,
}

/// The part of the tree that an operation on layers works on.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    /// The last image of the chain.
    pub tip: Guid,
    /// The images that are written.
    pub write: Vec<Guid>,
    /// The last image is to become larger: it may be smaller than what is below it.
    pub grows: bool,
}

impl Reach {
    /// An operation that leaves sizes as they are.
    pub fn of(tip: Guid, write: Vec<Guid>) -> Self {
        Self { tip, write, grows: false }
    }
}

/// A descriptor as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes: compared again under the locks.
    pub bytes: Vec<u8>,
    /// Its meaning: of the disk, or of the piece of a split disk that is worked on; of a bundle
    /// that was moved with the names of the files beside it.
    pub parsed: Descriptor,
    /// Its meaning for the whole disk.
    pub disk: Arc<Descriptor>,
    /// First sector of the piece.
    pub start: u64,
    /// What it names and is not there, and what beside it is used instead.
    pub moved: Vec<(String, PathBuf)>,
}

/// The files of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The descriptor; none for a lone image.
    pub document: Option<Document>,
    /// Base first.
    pub members: Vec<Member>,
    /// The image that was asked for, when it is not the top: the disk as it was when that image
    /// froze, which is only read (I6).
    pub frozen: Option<PathBuf>,
}

impl Document {
    /// Reads and parses the descriptor at a path.
    pub fn read(dir: &dyn Dir, path: &Path) -> Result<Self> {
        let path = dir.canonical(path).at(ErrorKind::Descriptor, "cannot find", path)?;
        let bytes = dir.read_small(&path, MAX_DESCRIPTOR).at(
            ErrorKind::Descriptor,
            "cannot read",
            &path,
        )?;
        let mut parsed = Descriptor::parse(&bytes).map_err(|e| {
            let text = format!("{} cannot be used", path.display());
            moved::with_backup(dir, &path, ImageError::new(ErrorKind::Descriptor, text).because(e))
        })?;
        let moved = moved::find(dir, &path, &mut parsed)?;
        let disk = Arc::new(parsed.clone());
        Ok(Self { path, bytes, parsed, disk, start: 0, moved })
    }

    /// As what it says of piece `n`.
    pub fn of_piece(mut self, n: usize) -> Self {
        self.parsed = self.disk.piece(n);
        self.start = self.disk.bounds().get(n).copied().unwrap_or(0);
        self
    }

    /// Whether the file still holds the same bytes.
    pub fn unchanged(&self, dir: &dyn Dir) -> bool {
        dir.read_small(&self.path, MAX_DESCRIPTOR).is_ok_and(|now| now == self.bytes)
    }

    /// The directory files are relative to.
    pub fn home(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// A chain that is not too long, counted in all pieces (T12).
fn check_count(document: &Document, chain: usize) -> Result<()> {
    let pieces = document.disk.pieces();
    if chain > 0 && chain.saturating_mul(pieces) <= MAX_LEVELS {
        return Ok(());
    }
    let each = if pieces > 1 { format!(" in each of {pieces} pieces") } else { String::new() };
    let text = format!(
        "{} has a chain of {chain} images{each}, 1 to {MAX_LEVELS} can be opened",
        document.path.display()
    );
    Err(ImageError::new(ErrorKind::Descriptor, text))
}

impl Plan {
    /// Finds the files of what `target` means, each passed by the gate.
    pub fn make(
        dir: &dyn Dir,
        target: &Path,
        options: &OpenOptions,
        reach: Option<&Reach>,
    ) -> Result<Self> {
        let asked = match locate::locate_file(dir, target)? {
            Located::Image(path) => Some(path),
            Located::Descriptor(_) => None,
        };
        match locate::locate(dir, target)? {
            Located::Descriptor(path) => {
                let document = Document::read(dir, &path)?;
                if !options.snapshot {
                    refuse_piece(dir, target, &document)?;
                }
                let document = document.of_piece(options.piece);
                Self::of_document(dir, &*options.gate, document, asked.as_deref(), reach)
            }
            Located::Image(path) => {
                let shared = gate::whose(dir, path.parent().unwrap_or(&path), &path)?;
                let members = vec![Member {
                    guid: Guid::NONE,
                    path,
                    claim: Claim::Ploop,
                    write: true,
                    shared,
                    written: true,
                }];
                Ok(Self { document: None, members, frozen: None })
            }
        }
    }

    /// The chain up to the image that was asked for, else up to the top.
    fn of_document(
        dir: &dyn Dir,
        gate: &dyn OpenGate,
        document: Document,
        asked: Option<&Path>,
        reach: Option<&Reach>,
    ) -> Result<Self> {
        let parsed = &document.parsed;
        let is_asked = |image: &&ImageRef| {
            let canonical = dir.canonical(&document.home().join(&image.file));
            asked.is_some_and(|asked| canonical.is_ok_and(|path| path == asked))
        };
        // Of a split disk it may be that of another piece.
        let named = document.disk.all_images().find(is_asked).map(|image| image.guid);
        let frozen = named.filter(|guid| *guid != parsed.top && reach.is_none());
        let tip = match (reach, frozen) {
            (Some(reach), _) => reach.tip,
            (None, Some(guid)) => guid,
            (None, None) => parsed.top,
        };
        let chain = parsed.chain_of(tip);
        let frozen = frozen.and(asked).map(Path::to_owned);
        let chain = chain.map_err(|e| {
            let text = format!("{} describes no chain", document.path.display());
            ImageError::new(ErrorKind::Descriptor, text).because(e)
        })?;
        check_count(&document, chain.len())?;
        // The level that was the top before a merge turned the chain is written in place.
        let turned = frozen.is_none() && parsed.turned().is_ok_and(|turned| !turned.is_empty());
        let in_place = chain.len() - 1 - usize::from(turned);
        let marked = chain.iter().any(|image| image.kind == ImageType::Plain);
        let mut members = Vec::with_capacity(chain.len());
        for (level, image) in chain.iter().enumerate() {
            // Only the base may be raw; `Plain` on another image is a habit of the original.
            let claim = match (level, &image.kind) {
                (0, ImageType::Plain) => Claim::Raw,
                (0, _) if marked && chain.len() > 1 => Claim::Either,
                _ => Claim::Ploop,
            };
            let path = gate::pass(dir, gate, document.home(), &document.home().join(&image.file))?;
            if members.iter().any(|m: &Member| m.path == path) {
                let text = format!("{} is named twice in the chain", path.display());
                return Err(ImageError::new(ErrorKind::Descriptor, text));
            }
            let write = match reach {
                Some(reach) => reach.write.contains(&image.guid),
                None => level >= in_place,
            };
            let shot = parsed.shot(image.guid).filter(|_| claim != Claim::Ploop);
            let written = shot.is_some_and(|shot| shot.temporary != Temporary::No);
            let shared = gate::whose(dir, document.home(), &path)?;
            members.push(Member { guid: image.guid, path, claim, write, shared, written });
        }
        Ok(Self { document: Some(document), members, frozen })
    }

    /// Nobody may read what is encrypted as if it were plain.
    pub fn check_plain(&self) -> Result<()> {
        let Some(document) = &self.document else { return Ok(()) };
        let Some(how) = document.parsed.encryption() else { return Ok(()) };
        let text = format!("{} says that the disk is encrypted: {how}", document.path.display());
        Err(ImageError::new(ErrorKind::Encrypted, text)
            .hint("only the program that encrypted it can open it; check and info still work"))
    }

    /// What is not the disk's own is not written, unless the caller says so: an operation that has
    /// to is refused, as is a disk whose top is such a file. The level under the top of a chain
    /// that was turned is then only read; the merge copies from it all the same.
    pub fn keep_to_own(
        &mut self,
        writable: bool,
        reach: Option<&Reach>,
        options: &OpenOptions,
    ) -> Result<()> {
        if !writable || options.change_shared || on(Bug::SharedWritten) {
            return Ok(());
        }
        let top = self.members.len().saturating_sub(1);
        for (level, member) in self.members.iter_mut().enumerate().filter(|(_, m)| m.write) {
            let Some(why) = &member.shared else { continue };
            let must = level == top || reach.is_some();
            if must || options.also_write.contains(&member.guid) {
                return Err(gate::not_own(&member.path, why));
            }
            member.write = false;
        }
        Ok(())
    }

    /// The file of the disk's top, though only a part of its tree may be meant.
    pub fn disk_top(&self) -> Option<PathBuf> {
        let document = self.document.as_ref()?;
        let image = document.parsed.image(document.parsed.top)?;
        Some(document.home().join(&image.file))
    }

    /// The top's path.
    pub fn top(&self) -> &Path {
        self.members.last().map_or(Path::new(""), |m| &m.path)
    }
}
