//! Acknowledged changes of the map that are in no completed page write yet, in memory that
//! outlives the process (F2, I14).
//!
//! ```text
//! word 0  "PLOOPREC"      word 4  st_dev of the top    word 8  state: bit 0 = a sync failed
//! word 1  layout          word 5  st_ino of the top    word 9  entries of the BAT
//! words 2, 3  boot id     word 6  session              word 16.. one change each, 0 = free:
//!                         word 7  changes that fit       !(guest cluster << 32 | BAT entry)
//! ```
//! A change is one store, so a kill leaves it whole or not at all. A cluster has at most one slot:
//! a later change of it takes the slot over. A slot is free again when a page write with its
//! change has completed, for then the next process reads it in the file.

use ploop_format::GuestCluster;
use ploop_io::{Ident, Words};
use std::sync::atomic::Ordering;
use thiserror::Error;

const MAGIC: u64 = u64::from_le_bytes(*b"PLOOPREC");
const LAYOUT: u64 = 1;
const HEAD: usize = 16;
const STATE: usize = 8;
const FAILED: u64 = 1;

/// Changes a record holds: as many as 64 whole pages of the BAT.
pub const RECORD_CHANGES: usize = 1 << 16;

/// What a record belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The boot of the host.
    pub boot: u128,
    /// The top.
    pub top: Ident,
    /// This life of the server.
    pub session: u64,
    /// Entries of the top's BAT.
    pub entries: u64,
}

/// Why a memory is not a record that can be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// It was never finished, or is something else.
    #[error("it has no record in it")]
    NoRecord,
    /// Made by another version.
    #[error("its layout is {0}, this version reads {LAYOUT}")]
    Layout(u64),
    /// The host has started again since: what was not durable is gone (and that is fine).
    #[error("the host has started again since")]
    OtherBoot,
    /// Another file has the name now.
    #[error("it belongs to file {0:?}")]
    OtherFile(Ident),
    /// The BAT had another size.
    #[error("it was made for {there} BAT entries, the image has {here}")]
    OtherSize {
        /// In the record.
        there: u64,
        /// In the image.
        here: u64,
    },
    /// A change that no image of this size can have.
    #[error("slot {slot} changes BAT entry {cluster}, there are {entries}")]
    Change {
        /// Which slot.
        slot: usize,
        /// Which entry.
        cluster: u64,
        /// Entries of the BAT.
        entries: u64,
    },
}

/// What a former life left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Changes of the BAT, by guest cluster.
    pub changes: Vec<(GuestCluster, u32)>,
    /// A sync had failed.
    pub failed: bool,
}

/// Words that a record of `changes` changes takes.
#[must_use]
pub const fn record_words(changes: usize) -> usize {
    HEAD + changes
}

/// Reads what a former life left in a memory.
///
/// # Errors
/// It is no record of this image and this boot.
pub fn left(words: &Words, owner: &Owner) -> Result<Left, RecordError> {
    let get = |n: usize| words[n].load(Ordering::Acquire);
    if words.len() <= HEAD || get(0) != MAGIC {
        return Err(RecordError::NoRecord);
    }
    if get(1) != LAYOUT {
        return Err(RecordError::Layout(get(1)));
    }
    let boot = u128::from(get(2)) << 64 | u128::from(get(3));
    if boot != owner.boot {
        return Err(RecordError::OtherBoot);
    }
    let top = Ident { dev: get(4), ino: get(5) };
    if top != owner.top {
        return Err(RecordError::OtherFile(top));
    }
    if get(9) != owner.entries {
        return Err(RecordError::OtherSize { there: get(9), here: owner.entries });
    }
    let mut changes = Vec::new();
    for (slot, word) in words[HEAD..].iter().enumerate() {
        let word = word.load(Ordering::Acquire);
        if word == 0 {
            continue;
        }
        let cluster = !word >> 32;
        if cluster >= owner.entries {
            return Err(RecordError::Change { slot, cluster, entries: owner.entries });
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the entry")]
        changes.push((GuestCluster(cluster), !word as u32));
    }
    changes.sort_unstable_by_key(|(cluster, _)| *cluster);
    Ok(Left { changes, failed: get(STATE) & FAILED != 0 })
}

/// The record of the present life.
#[derive(Clone, Debug)]
pub struct Record {
    words: Words,
}

impl Record {
    /// Makes a record of zeroed words.
    #[must_use]
    pub fn new(words: Words, owner: &Owner) -> Self {
        let set = |n: usize, value: u64| words[n].store(value, Ordering::Relaxed);
        set(1, LAYOUT);
        #[expect(clippy::cast_possible_truncation, reason = "halves")]
        for (n, half) in [(2, (owner.boot >> 64) as u64), (3, owner.boot as u64)] {
            set(n, half);
        }
        set(4, owner.top.dev);
        set(5, owner.top.ino);
        set(6, owner.session);
        set(7, (words.len() - HEAD) as u64);
        set(9, owner.entries);
        words[0].store(MAGIC, Ordering::Release);
        Self { words }
    }

    /// Changes that fit.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.words.len() - HEAD
    }

    /// Stores a change; before its cell is set, and so before anybody hears of it.
    pub fn put(&self, slot: u32, cluster: GuestCluster, entry: u32) {
        let word = cluster.0 << 32 | u64::from(entry);
        self.words[HEAD + slot as usize].store(!word, Ordering::Release);
    }

    /// Frees a slot: the file has its change.
    pub fn clear(&self, slot: u32) {
        self.words[HEAD + slot as usize].store(0, Ordering::Release);
    }

    /// A sync failed: the next life hears of it (I10).
    pub fn fail(&self) {
        self.words[STATE].fetch_or(FAILED, Ordering::Release);
    }

    /// This life, for front ends whose clients outlive the server.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.words[6].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner =
        Owner { boot: 7 << 70 | 9, top: Ident { dev: 1, ino: 2 }, session: 3, entries: 1 << 32 };

    #[test]
    fn changes_are_found_by_the_next_life() {
        let words = Words::local(record_words(4));
        let record = Record::new(words.clone(), &OWNER);
        assert_eq!((record.slots(), record.session()), (4, 3));
        assert_eq!(left(&words, &OWNER), Ok(Left::default()));
        record.put(3, GuestCluster(0), 0);
        record.put(0, GuestCluster(u64::from(u32::MAX) - 1), u32::MAX);
        record.put(1, GuestCluster(5), 6);
        record.put(1, GuestCluster(5), 7);
        record.put(2, GuestCluster(8), 1);
        record.clear(2);
        record.fail();
        let found = left(&words, &OWNER).unwrap();
        let wanted = [(0, 0), (5, 7), (u64::from(u32::MAX) - 1, u32::MAX)];
        assert_eq!(found.changes, wanted.map(|(cluster, entry)| (GuestCluster(cluster), entry)));
        assert!(found.failed);
    }

    #[test]
    fn records_of_others_are_told_apart() {
        let words = Words::local(record_words(2));
        assert_eq!(left(&words, &OWNER), Err(RecordError::NoRecord), "never finished");
        assert_eq!(left(&Words::local(3), &OWNER), Err(RecordError::NoRecord));
        let record = Record::new(words.clone(), &OWNER);
        let other = Owner { boot: 1, ..OWNER };
        assert_eq!(left(&words, &other), Err(RecordError::OtherBoot));
        let other = Owner { top: Ident { dev: 1, ino: 9 }, ..OWNER };
        assert_eq!(left(&words, &other), Err(RecordError::OtherFile(OWNER.top)));
        let small = Owner { entries: 10, ..OWNER };
        let size = RecordError::OtherSize { there: 1 << 32, here: 10 };
        assert_eq!(left(&words, &small), Err(size));
        let words = Words::local(record_words(2));
        Record::new(words.clone(), &small).put(1, GuestCluster(10), 1);
        let change = RecordError::Change { slot: 1, cluster: 10, entries: 10 };
        assert_eq!(left(&words, &small), Err(change));
        words[1].store(2, Ordering::Relaxed);
        assert_eq!(left(&words, &small), Err(RecordError::Layout(2)));
        drop(record);
    }
}
