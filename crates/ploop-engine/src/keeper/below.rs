//! Space of the level under the top, given back as a merge takes its clusters: the file goes in the
//! end, but until then the host would hold everything twice.

use super::Keeper;
use super::ops::Task;
use crate::device::Shared;
use crate::limits::{CLEAN_BYTES, CLEANERS};
use ploop_format::Sector;
use ploop_io::{Io, OpKind};
use std::collections::BTreeSet;
use std::ptr;

/// Places that nothing reads or names any more.
pub(super) struct Below {
    free: BTreeSet<u64>,
    punching: usize,
    /// The host cannot; the file's end will do it.
    refused: bool,
}

impl Below {
    pub fn new(shared: &Shared, piece: usize) -> Self {
        let refused = shared.below(piece).is_none_or(|level| !level.file.caps().punch);
        Self { free: BTreeSet::new(), punching: 0, refused }
    }

    /// A place whose cluster is in the top for good.
    pub fn free(&mut self, at: Sector) {
        if !self.refused {
            self.free.insert(at.0);
        }
    }
}

impl<I: Io> Keeper<I> {
    pub(super) fn pump_below(&mut self) {
        for p in 0..self.below.len() {
            self.pump_below_of(p);
        }
    }

    fn pump_below_of(&mut self, p: usize) {
        let Some(file) = self.shared.below(p).map(|level| level.fid) else { return };
        let step = u64::from(self.cluster.sectors());
        while self.below[p].punching < CLEANERS && !self.closing {
            let below = &mut self.below[p];
            let Some(first) = below.free.pop_first() else { return };
            let mut end = first + step;
            while Sector(end - first).bytes() < CLEAN_BYTES && below.free.remove(&end) {
                end += step;
            }
            let (at, len) = (Sector(first).bytes(), Sector(end - first).bytes());
            below.punching += 1;
            self.push_to(Task::Below(p), file, OpKind::Punch, at, len, ptr::null_mut());
        }
    }

    /// Nothing depends on it: what was not given back goes with the file.
    pub(super) fn below_given(&mut self, p: usize, result: i32) {
        let below = &mut self.below[p];
        below.punching -= 1;
        if result < 0 {
            below.refused = true;
            below.free.clear();
        }
    }
}
