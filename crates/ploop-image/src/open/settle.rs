//! A lower image that was not closed: an interrupted merge or grow left it marked. A writable open
//! checks it and clears the mark (C6, I13).

use super::attempt::Locked;
use super::{Level, OpenOptions};
use crate::close::finish;
use crate::error::{ErrorKind, IoContext, Result};
use crate::head::Head;
use crate::lock::{self, Mode};
use crate::scan::scan;
use ploop_io::planted::{Bug, synced};
use ploop_io::{Dir, OpenHow};
use std::path::{Path, PathBuf};

/// The lower images that carry the mark.
pub(super) fn marked(locked: &mut Locked, options: &OpenOptions) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    let lower = locked.files.len().saturating_sub(1);
    for (level, file) in locked.files.iter_mut().take(lower).enumerate() {
        if options.also_write.contains(&locked.plan.members[level].guid) {
            continue;
        }
        let head = file.head(&options.held)?;
        if head.is_some_and(|head| head.dirty() && !head.converting()) {
            found.push((level, file.path.clone()));
        }
    }
    Ok(found)
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
        let level = Level { path: path.to_owned(), file, head: Some(head), len, write: true };
        finish(&level, (end <= len).then_some(end), scan.mapped != 0)?;
        if held.file(path, true).is_none() {
            lock::release(&*level.file);
        }
    }
    Ok(())
}
