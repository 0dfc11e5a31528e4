//! Changes of one cell: allocate, unmap, map clean. The keeper alone makes them.

use super::Keeper;
use crate::front::Errno;
use crate::map::{Cell, Place};
use crate::message::{Answer, Caller, ToKeeper};
use ploop_format::units::SECTOR_SHIFT;
use ploop_format::{FileCluster, GuestCluster, Sector};
use ploop_io::Io;
use ploop_io::planted::{Bug, on};

impl<I: Io> Keeper<I> {
    /// A hole is written: map a clean cluster; the queue then finds it and writes.
    pub(super) fn allocate(&mut self, caller: Caller, cluster: GuestCluster) {
        match self.cell(cluster) {
            Some(cell) if cell.claimed => self.wait_for_claim(caller, cluster),
            Some(Cell { place: Place::Hole, .. }) => {
                if !self.room_on_record(ToKeeper::Allocate(caller, cluster)) {
                    return;
                }
                let p = self.shared.pieces.of(cluster);
                let Some(file_cluster) = self.take_clean_for(caller.queue, p) else {
                    self.spaces[p].waiters.push_back(ToKeeper::Allocate(caller, cluster));
                    return;
                };
                let at = self.position(file_cluster);
                self.map_top(cluster, at, false, None);
                self.shared.keeper_stats.allocated.add(1);
                self.answer(caller, Answer::Retry);
                self.fill_stock(caller.queue, p);
            }
            _ => self.answer(caller, Answer::Retry),
        }
    }

    /// A hole is being written to a clean cluster of the queue's stock: map that.
    pub(super) fn allocate_at(&mut self, caller: Caller, cluster: GuestCluster, to: FileCluster) {
        let p = self.shared.pieces.of(cluster);
        let hole = |cell: &Cell| cell.place == Place::Hole && !cell.claimed;
        if self.cell(cluster).as_ref().is_some_and(hole) {
            if !self.room_on_record(ToKeeper::AllocateAt(caller, cluster, to)) {
                return;
            }
            let at = self.position(to);
            self.map_top(cluster, at, false, None);
            self.spaces[p].taken(self.now);
            self.shared.keeper_stats.allocated.add(1);
            self.answer(caller, Answer::Done);
        } else {
            // Another request was first.
            self.not_mapped(cluster, to);
            let lost = on(Bug::AllocateLostDone);
            self.answer(caller, if lost { Answer::Done } else { Answer::Retry });
        }
        self.fill_stock(caller.queue, p);
    }

    /// A cluster that a queue writes to and that is not mapped after all: the write is still under
    /// way, and registered.
    pub(super) fn not_mapped(&mut self, cluster: GuestCluster, to: FileCluster) {
        let p = self.shared.pieces.of(cluster);
        self.spaces[p].unmapped(to);
        if on(Bug::AllocateLostClean) {
            self.spaces[p].free_clean(to);
        } else if on(Bug::AllocateUnregistered) {
            self.spaces[p].free_dirty(to);
        } else {
            self.quarantine_add(to, cluster);
        }
    }

    /// Zeros over a whole cluster of a lower level: a clean cluster is all of it.
    pub(super) fn map_clean(&mut self, caller: Caller, cluster: GuestCluster) {
        match self.cell(cluster) {
            Some(cell) if cell.claimed => self.wait_for_claim(caller, cluster),
            Some(Cell { place: Place::At { level, .. }, .. })
                if !self.shared.chain.is_top(level) =>
            {
                if !self.room_on_record(ToKeeper::MapClean(caller, cluster)) {
                    return;
                }
                let p = self.shared.pieces.of(cluster);
                let Some(file_cluster) = self.take_clean(p) else {
                    self.spaces[p].waiters.push_back(ToKeeper::MapClean(caller, cluster));
                    return;
                };
                let at = self.position(file_cluster);
                self.map_top(cluster, at, true, None);
                self.shared.keeper_stats.allocated.add(1);
                self.answer(caller, Answer::Done);
            }
            _ => self.answer(caller, Answer::Retry),
        }
    }

    /// Takes a mapping away. Later readers see a hole; the file cluster goes to the quarantine.
    pub(super) fn unmap(&mut self, caller: Caller, cluster: GuestCluster) {
        match self.cell(cluster) {
            Some(cell) if cell.claimed => self.wait_for_claim(caller, cluster),
            // F11: only where no lower level has it.
            Some(Cell { place: Place::At { level, at }, has_lower, .. })
                if self.shared.chain.is_top(level)
                    && (!has_lower || on(Bug::UnmapAll))
                    && self.version.is_some() =>
            {
                if !self.room_on_record(ToKeeper::Unmap(caller, cluster)) {
                    return;
                }
                let file_cluster = FileCluster(at.bytes() >> self.cluster.log2());
                self.change(cluster, Cell::HOLE, 0, None);
                let p = self.shared.pieces.of(cluster);
                self.spaces[p].unmapped(file_cluster);
                if on(Bug::ReuseNow) {
                    self.spaces[p].free_dirty(file_cluster);
                } else {
                    self.quarantine_add(file_cluster, cluster);
                }
                self.shared.keeper_stats.unmapped.add(1);
                self.answer(caller, Answer::Done);
            }
            _ => self.answer(caller, Answer::Retry),
        }
    }

    /// The present cell; `None` when its page is not loaded (then the queue asks for that first).
    pub(super) fn cell(&self, cluster: GuestCluster) -> Option<Cell> {
        self.shared.map.get(cluster)
    }

    pub(super) fn set_cell(&self, cluster: GuestCluster, cell: Cell) {
        let slot = cluster.slot();
        if let Some(page) = self.shared.map.page(slot.page) {
            page.set(slot.index, cell);
        }
    }

    /// Position of a cluster of the top, in sectors.
    pub(super) fn position(&self, cluster: FileCluster) -> Sector {
        Sector(self.cluster.file_start(cluster) >> SECTOR_SHIFT)
    }

    /// Maps a cluster of the top. `after_sync`: the entry may become durable only after this sync
    /// (a copy-up, F1); `None` for a clean cluster, whose zeros are durable already.
    pub(super) fn map_top(
        &mut self,
        cluster: GuestCluster,
        at: Sector,
        has_lower: bool,
        after_sync: Option<u64>,
    ) {
        let entry = self.version.and_then(|v| v.entry(at, self.cluster));
        debug_assert!(entry.is_some(), "take_clean gives only clusters that an entry can name");
        let top = self.shared.chain.top_of(self.shared.pieces.of(cluster));
        let cell = Cell::at(top.id, at, has_lower);
        self.change(cluster, cell, entry.unwrap_or(0), after_sync);
    }

    /// Gives a cluster of the top up for the plain file under it, which has what it has. The
    /// entry goes only after this sync: until then it hides nothing but the same bytes.
    pub(super) fn map_base(
        &mut self,
        cluster: GuestCluster,
        was: FileCluster,
        after_sync: Option<u64>,
    ) {
        let p = self.shared.pieces.of(cluster);
        let Some(below) = self.shared.below(p) else { return };
        let own = self.shared.pieces.own(cluster);
        let at = Sector(self.cluster.guest_start(own) >> SECTOR_SHIFT);
        let (fid, cell) = (below.fid, Cell::at(below.id, at, false));
        self.shared.written(fid);
        self.change(cluster, cell, 0, after_sync);
        self.spaces[p].unmapped(was);
        self.quarantine_add(was, cluster);
    }

    /// The one place where a mapping changes: record, dirty mark, staged image, then the cell.
    fn change(&mut self, cluster: GuestCluster, cell: Cell, entry: u32, after_sync: Option<u64>) {
        self.seq += 1;
        self.shared.changes();
        self.shared.map.own(cluster.slot().page);
        self.stage(cluster, entry, after_sync);
        self.set_cell(cluster, cell);
    }

    /// The metadata cannot change any more.
    pub(super) fn refuse(&self, caller: Caller) -> bool {
        let refused = self.shared.refuses_writes();
        if refused {
            self.answer(caller, Answer::Failed(Errno::IO));
        }
        refused
    }
}
