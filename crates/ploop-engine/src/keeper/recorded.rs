//! Changes on record: what acknowledged operations need after a kill (F2, I14).
//!
//! A change goes on record before its cell is set, and off it when a page write that holds it has
//! completed. The record has a fixed size: when it is nearly full pages are written at once, and
//! when it is full new changes wait.

use super::Keeper;
use crate::front::Errno;
use crate::message::{Answer, Caller, ToKeeper};
use crate::record::Record;
use ploop_format::{BatPage, GuestCluster};
use ploop_io::Io;
use std::collections::{HashMap, VecDeque};

/// The record and its free slots.
#[derive(Default)]
pub(super) struct Recorded {
    record: Option<Record>,
    free: Vec<u32>,
    /// Requests that wait for a slot.
    waiters: VecDeque<ToKeeper>,
}

/// Slots of the changes of one page, by index of the entry: slot, number of the change.
pub(super) type PageSlots = HashMap<usize, (u32, u64)>;

impl Recorded {
    pub fn new(record: Option<Record>) -> Self {
        let slots = record.as_ref().map_or(0, Record::slots);
        Self { record, free: (0..slots as u32).rev().collect(), waiters: VecDeque::new() }
    }

    /// Pages must be written, to make room.
    fn is_low(&self) -> bool {
        let slots = self.record.as_ref().map_or(0, Record::slots);
        self.record.is_some() && (self.free.len() < slots / 4 || !self.waiters.is_empty())
    }

    /// Puts change number `seq` of a cluster on record.
    pub fn put(&mut self, page: &mut PageSlots, cluster: GuestCluster, entry: u32, seq: u64) {
        let Some(record) = &self.record else { return };
        let index = cluster.slot().index;
        let slot = page.get(&index).map(|(slot, _)| *slot).or_else(|| self.free.pop());
        debug_assert!(slot.is_some(), "every change was given room before it began");
        let Some(slot) = slot else { return };
        record.put(slot, cluster, entry);
        page.insert(index, (slot, seq));
    }

    /// The file has the changes of a page up to this number.
    pub fn written(&mut self, page: &mut PageSlots, upto: u64) {
        let Some(record) = &self.record else { return };
        page.retain(|_, (slot, seq)| {
            let stays = *seq > upto;
            if !stays {
                record.clear(*slot);
                self.free.push(*slot);
            }
            stays
        });
    }
}

impl<I: Io> Keeper<I> {
    /// Pages must be written, to make room on some record.
    pub(super) fn record_is_low(&self) -> bool {
        self.recorded.iter().any(Recorded::is_low)
    }

    /// Whether one more change fits beside those that running copy-ups will make; else the message
    /// waits, holding nothing.
    pub(super) fn room_on_record(&mut self, message: ToKeeper) -> bool {
        let p = message.cluster().map_or(0, |cluster| self.shared.pieces.of(cluster));
        let recorded = &self.recorded[p];
        if recorded.record.is_none() || recorded.free.len() > self.copies.running() {
            return true;
        }
        self.recorded[p].waiters.push_back(message);
        self.pages.touched = true;
        false
    }

    pub(super) fn pump_recorded(&mut self) {
        if self.recorded.iter().all(|recorded| recorded.waiters.is_empty()) {
            return;
        }
        if self.shared.refuses_writes() {
            self.fail_record_waiters(Errno::IO);
        }
        for p in 0..self.recorded.len() {
            // Not every message takes a slot in the end; each gets one try.
            for _ in 0..self.recorded[p].waiters.len() {
                if self.recorded[p].free.len() <= self.copies.running() {
                    break;
                }
                if let Some(message) = self.recorded[p].waiters.pop_front() {
                    self.message(message);
                }
            }
        }
    }

    pub(super) fn fail_record_waiters(&mut self, errno: Errno) {
        let waiters: Vec<ToKeeper> =
            self.recorded.iter_mut().flat_map(|recorded| recorded.waiters.drain(..)).collect();
        for message in waiters {
            if let ToKeeper::AllocateAt(_, cluster, to) = message {
                self.not_mapped(cluster, to);
            }
            if let Some(caller) = changer(&message) {
                self.answer(caller, Answer::Failed(errno));
            }
        }
    }

    /// A page write with the changes up to `upto` has completed.
    pub(super) fn off_record(&mut self, at: BatPage, upto: u64) {
        if let Some(slots) = self.pages.slots(at) {
            self.recorded[self.shared.pieces.of_page(at)].written(slots, upto);
        }
    }
}

/// Who asks for a change of the map with this message.
fn changer(message: &ToKeeper) -> Option<Caller> {
    match message {
        ToKeeper::Allocate(caller, _)
        | ToKeeper::AllocateAt(caller, ..)
        | ToKeeper::MapClean(caller, _)
        | ToKeeper::Unmap(caller, _)
        | ToKeeper::CopyDown(caller, _)
        | ToKeeper::CopyUp { caller, .. } => Some(*caller),
        _ => None,
    }
}
