//! A lower image that an interrupted merge or grow of ours left marked. A writable open that has
//! accepted the whole chain checks it and clears the mark (C6, I13). The in-use word alone is no
//! proof of that, nor is a word nobody knows: such an image is only read, as it is.

use super::{Level, OpenOptions, Prepared};
use crate::close::finish;
use crate::error::{ErrorKind, IoContext, Result};
use crate::head::Head;
use crate::lock::{self, Mode};
use crate::scan::scan;
use ploop_io::planted::{Bug, on, synced};
use ploop_io::{Dir, OpenHow};
use std::path::{Path, PathBuf};

/// The lower images that carry the mark of our operations, and that nobody else may have.
pub(super) fn marked(prepared: &Prepared, options: &OpenOptions) -> Vec<(usize, PathBuf)> {
    if options.read_only {
        return Vec::new();
    }
    let lower = prepared.levels.len().saturating_sub(1);
    let left = |level: &Level| {
        let head = level.head.as_ref().filter(|head| head.dirty() && !head.converting());
        let ours = |head: &Head| level.own && head.header.is_marked_below();
        let for_later = level.write && !options.also_write.is_empty();
        !for_later && head.is_some_and(|head| ours(head) || on(Bug::BaseCutAtOpen))
    };
    let levels = prepared.levels.iter().take(lower).enumerate();
    levels.filter(|(_, l)| left(l)).map(|(n, level)| (n, level.path.clone())).collect()
}

/// Checks one image and clears its mark. Leaves it alone when somebody else has it, or when its BAT
/// is not good: then it is only read, as it is (T5).
pub(super) fn settle(dir: &dyn Dir, path: &Path, base: bool, options: &OpenOptions) -> Result<()> {
    let how = OpenHow { write: true, direct: options.direct, ..OpenHow::default() };
    let held = &options.held;
    let opened = held.file(path, true).map_or_else(|| dir.open(path, how), Ok);
    let Ok(file) = opened else { return Ok(()) };
    let locked = held.try_level(path, &file, Mode::Exclusive, base);
    if !locked.at(ErrorKind::System, "cannot lock", path)? {
        return Ok(());
    }
    synced(Bug::NoSyncOpen, || file.sync()).at(ErrorKind::Sync, "cannot sync", path)?;
    let head = Head::read(&*file, path)?;
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let table = head.table(len);
    let scan = scan(&*file, &table, &[], &mut |_| {}).at(
        ErrorKind::Read,
        "cannot read the BAT of",
        path,
    )?;
    if scan.bad == 0 && head.check_writable(path).is_ok() {
        let end = scan.end(head.cluster());
        let (path, head) = (path.to_owned(), Some(head));
        let level = Level { path, file, head, len, write: true, own: true };
        match finish(&level, (end <= len).then_some(end), scan.mapped != 0) {
            // A host without space: it is read as it is, and settled by a later open.
            Err(error) if error.kind().is_refusal() => {}
            done => done?,
        }
        if held.file(&level.path, true).is_none() {
            lock::release(&*level.file);
        }
    }
    Ok(())
}
