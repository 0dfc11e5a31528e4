//! What a killed server left on record, brought into the image (F2, I14).
//!
//! The record holds acknowledged changes of the top's BAT that no completed page write had. They
//! are checked together with the BAT as if they stood in it already, and written before anything
//! else is: the sync of the open covers the data they name, so pages follow data (I1).
//!
//! A record counts only with the in-use mark: when somebody has closed the image since, the image
//! is what they made of it.

use super::{Level, Note, OpenOptions};
use crate::error::{ErrorKind, ImageError, IoContext, Result};
use crate::head::Head;
use ploop_engine::record::{Left, Owner, RECORD_CHANGES, Record, RecordError, left, record_words};
use ploop_format::units::PAGE;
use ploop_format::{BatPage, GuestCluster, put_entry};
use ploop_io::planted::{Bug, synced};
use ploop_io::{Ident, Records};
use std::fmt;
use std::sync::Arc;

/// A record of this life, and how to take it away.
pub(crate) struct Kept {
    records: Arc<dyn Records>,
    name: String,
    pub record: Record,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.name)
    }
}

/// The name of a top's record.
fn name(top: Ident) -> String {
    format!("{:x}:{:x}", top.dev, top.ino)
}

fn owner(records: &dyn Records, level: &Level, head: &Head) -> Result<Owner> {
    let boot = records.boot().at(ErrorKind::System, "cannot tell the boot for", &level.path)?;
    let top = level.file.ident().at(ErrorKind::Stat, "cannot stat", &level.path)?;
    Ok(Owner { boot, top, session: records.session(), entries: head.entries() })
}

/// Changes of the BAT that a former server of this top left.
pub(crate) fn look(
    top: &Level,
    head: &Head,
    options: &OpenOptions,
    notes: &mut Vec<Note>,
) -> Result<Vec<(GuestCluster, u32)>> {
    let Some(records) = options.records.as_deref().filter(|_| head.dirty()) else {
        return Ok(Vec::new());
    };
    let owner = owner(records, top, head)?;
    let name = name(owner.top);
    let context = "cannot read what the last server left of";
    let Some(words) = records.open(&name).at(ErrorKind::System, context, &top.path)? else {
        return Ok(Vec::new());
    };
    let Left { changes, failed } = match left(&words, &owner) {
        Ok(left) => left,
        // Another boot: what was not durable went with the host.
        Err(RecordError::NoRecord | RecordError::OtherBoot) => return Ok(Vec::new()),
        Err(error) => return Err(unfit(top, &error.to_string())),
    };
    if failed {
        notes.push(Note::SyncFailedBefore(top.path.clone()));
    }
    if !changes.is_empty() {
        let (path, changes) = (top.path.clone(), changes.len());
        // One line about one thing (T5).
        notes.retain(|note| !matches!(note, Note::Crashed(_)));
        notes.push(Note::LeftOver { path, changes, written: !options.read_only });
    }
    Ok(changes)
}

/// The error of a record that cannot be followed.
pub(super) fn unfit(top: &Level, why: &str) -> ImageError {
    let record = top.file.ident().map_or_else(|_| "its record".into(), |top| name(top) + ".record");
    let text = format!(
        "{} was not closed, and what its server left in {record} does not fit it: {why}",
        top.path.display()
    );
    ImageError::new(ErrorKind::BadImage, text).hint(
        "another program has changed the image since; without that file it opens as it is, \
         less what was written last and not flushed",
    )
}

/// Writes the changes into the BAT, durably. Before the mark and everything else.
pub(super) fn apply(top: &Level, changes: &[(GuestCluster, u32)]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let path = &top.path;
    let mut bytes = vec![0u8; PAGE as usize];
    for group in changes.chunk_by(|a, b| a.0.slot().page == b.0.slot().page) {
        let BatPage(page) = group[0].0.slot().page;
        let got =
            top.file.read_at(&mut bytes, page * PAGE).at(ErrorKind::Read, "cannot read", path)?;
        for (cluster, entry) in group {
            put_entry(&mut bytes, cluster.slot().index, *entry);
        }
        top.file.write_at(&bytes[..got], page * PAGE).at(
            ErrorKind::Write,
            "cannot write the BAT of",
            path,
        )?;
    }
    synced(Bug::NoSyncReplay, || top.file.sync()).at(ErrorKind::Sync, "cannot sync", path)
}

/// A fresh record for the life that begins now; a note when there can be none.
pub(super) fn begin(top: &Level, options: &OpenOptions, notes: &mut Vec<Note>) -> Option<Kept> {
    let (records, head) = options.records.as_ref().zip(top.head.as_ref())?;
    let made = owner(&**records, top, head).map_err(|error| error.to_string()).and_then(|owner| {
        let name = name(owner.top);
        let words = records.create(&name, record_words(RECORD_CHANGES));
        let words = words.map_err(|error| error.to_string())?;
        Ok(Kept { records: Arc::clone(records), name, record: Record::new(words, &owner) })
    });
    match made {
        Ok(kept) => Some(kept),
        Err(why) => {
            notes.push(Note::NoRecord { path: top.path.clone(), why });
            None
        }
    }
}

impl Kept {
    /// The image is closed: there is nothing to keep.
    pub fn forget(&self) {
        // One that stays is harmless: it counts only with the in-use mark.
        let _ = self.records.remove(&self.name);
    }
}

/// The record of a top that was closed without being served.
pub(crate) fn forget(top: &Level, options: &OpenOptions) {
    if let (Some(records), Ok(ident)) = (&options.records, top.file.ident()) {
        // As above.
        let _ = records.remove(&name(ident));
    }
}
