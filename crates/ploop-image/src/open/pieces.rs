//! The pieces of a split disk: each is opened as a disk of its own, all under one descriptor and
//! one `.lck` file. What they must have in common is checked here.

use super::plan::{Document, Reach};
use super::{Level, Note, OpenOptions, Prepared, recover};
use crate::error::{ErrorKind, ImageError, Result};
use crate::locate::{self, Located};
use ploop_engine::PieceSpec;
use ploop_format::GuestCluster;
use ploop_io::Dir;
use std::path::Path;

/// A piece behind the first one of an open disk.
#[derive(Debug)]
pub(crate) struct Part {
    pub prepared: Prepared,
    /// As of [`super::Disk`].
    pub kept: Option<recover::Kept>,
}

impl Part {
    /// What the engine is told beside the levels.
    pub fn spec(&self, start: u64) -> PieceSpec {
        let p = &self.prepared;
        let top = p.levels.last().and_then(|level| level.head.as_ref());
        PieceSpec {
            start: GuestCluster(start),
            used: p.scan.as_ref().map(|scan| scan.used.clone()).unwrap_or_default(),
            header: top.map_or([0; 64], |head| head.header.encode()),
            refused: p.refused.clone(),
            record: self.kept.as_ref().map(|kept| kept.record.clone()),
        }
    }
}

/// Opens every piece of a disk, of most disks one: locks, reads and checks; writes nothing.
pub(crate) fn open_all(
    dir: &dyn Dir,
    target: &Path,
    options: &OpenOptions,
    reach: Option<&Reach>,
) -> Result<Vec<Prepared>> {
    let first = Prepared::open_reach(dir, target, options, reach)?;
    let count = first.document.as_ref().map_or(1, |document| document.disk.pieces());
    let mut held = options.held.clone();
    held.lck = held.lck.or_else(|| first._lck.clone());
    let mut all = vec![first];
    for piece in 1..count {
        let options = OpenOptions { piece, held: held.clone(), ..options.clone() };
        let next = Prepared::open_reach(dir, target, &options, reach)?;
        check_beside(&all[0], &next)?;
        all.push(next);
    }
    if count > 1 {
        check_ends(&all)?;
    }
    Ok(all)
}

/// The pieces of a disk that share a place: one generation, images of one kind at each depth.
fn check_beside(first: &Prepared, next: &Prepared) -> Result<()> {
    if first.document.as_ref().map(|d| &d.bytes) != next.document.as_ref().map(|d| &d.bytes) {
        let text = format!("the descriptor of {} keeps changing", first.top()?.path.display());
        return Err(ImageError::new(ErrorKind::InUse, text).hint("try again"));
    }
    for (a, b) in first.levels.iter().zip(&next.levels) {
        let version = |level: &Level| level.head.as_ref().map_or(0, |head| head.version_number());
        let (one, other) = (version(a), version(b));
        if one != other {
            let word = |n| if n == 0 { "raw".to_owned() } else { format!("version {n}") };
            let text = format!(
                "{} is {}, {} of the next piece is {}",
                a.path.display(),
                word(one),
                b.path.display(),
                word(other)
            );
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
    }
    Ok(())
}

/// Each piece but the last is as large as the descriptor says, or the next one would not begin
/// where its data does. Of the last one the header rules, as of any disk (F20).
fn check_ends(all: &[Prepared]) -> Result<()> {
    let last = all.len() - 1;
    for (n, piece) in all.iter().enumerate().take(last) {
        let said = piece.document.as_ref().map_or(0, |document| document.parsed.size_sectors);
        if piece.size.0 != said {
            let text = format!(
                "{} has {} sectors, the descriptor gives piece {n} {said}",
                piece.top()?.path.display(),
                piece.size.0
            );
            return Err(ImageError::new(ErrorKind::BadImage, text));
        }
    }
    Ok(())
}

/// What the pieces have to say, each thing once.
pub(crate) fn join_notes(all: &mut [Prepared]) {
    let Some((first, more)) = all.split_first_mut() else { return };
    for note in more.iter_mut().flat_map(|piece| std::mem::take(&mut piece.notes)) {
        let buffered =
            |have: &Note| matches!((have, &note), (Note::Buffered(_), Note::Buffered(_)));
        if !first.notes.iter().any(|have| *have == note || buffered(have)) {
            first.notes.push(note);
        }
    }
}

/// As [`join_notes`], and they are the caller's.
pub(crate) fn take_notes(all: &mut [Prepared]) -> Vec<Note> {
    join_notes(all);
    all.first_mut().map(|first| std::mem::take(&mut first.notes)).unwrap_or_default()
}

/// A piece of a split disk is not a disk: whoever names one is told what to name.
pub(crate) fn refuse_piece(dir: &dyn Dir, target: &Path, document: &Document) -> Result<()> {
    let count = document.disk.pieces();
    if count == 1 {
        return Ok(());
    }
    let Located::Image(image) = locate::locate_file(dir, target)? else { return Ok(()) };
    let is = |file: &str| {
        dir.canonical(&document.home().join(file)).is_ok_and(|canonical| canonical == image)
    };
    let found = (0..count)
        .find(|n| document.disk.piece_images(*n).iter().any(|image| is(&image.file)))
        .unwrap_or(0);
    let text = format!("{} is of piece {found} of a disk in {count} pieces", image.display());
    Err(ImageError::new(ErrorKind::Param, text)
        .hint(format!("name the disk: {}", document.path.display())))
}
