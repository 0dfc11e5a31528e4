//! Copy-up: a cluster of a lower level is brought to the top before it is changed (F4, F13). And
//! its like of a merge into a plain file, which brings the top's clusters down.
//!
//! The keeper claims the cluster and takes a clean one. It reads the lower cluster, lays the
//! guest's bytes over it and writes both at once; a guest that covers all of the cluster is written
//! by its queue meanwhile. Then the keeper publishes the mapping and answers; the entry is staged
//! only after a sync (F1).
//!
//! Order of what is taken: buffer, then claim, then cluster; nobody waits holding a later one (D4).

use super::Keeper;
use super::ops::Task;
use crate::blocks::{Over, lay_over};
use crate::chain::Chain;
use crate::front::Errno;
use crate::limits::{COPY_BUFFER, COPY_BUFFERS};
use crate::map::{Cell, Place};
use crate::message::{Answer, Caller, ToKeeper};
use crate::sync::Ordering;
use ploop_format::is_zero;
use ploop_format::units::PAGE;
use ploop_format::{FileCluster, GuestCluster, Sector};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, FileId, Io, Op, OpKind};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// What a copy is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// The cluster could be written where it is: those who do must end first.
    Grace,
    /// Reading a part of this chunk of the cluster; so many bytes are there.
    Read { chunk: Range<u64>, part: Range<u64>, done: u64 },
    /// Writing a part of a chunk.
    Write { chunk: Range<u64>, part: Range<u64>, done: u64 },
    /// Cutting what the plain file got behind its end with this chunk.
    Trim { chunk: Range<u64> },
    /// Giving a chunk's blocks back: it is zeros, in a file that has other bytes there.
    Punch { chunk: Range<u64> },
    /// The keeper's part is done.
    Done,
}

/// Where a copy goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    /// To a clean cluster of the top.
    Top {
        /// That one.
        cluster: FileCluster,
        /// Its place in the level that is written in place and goes when a merge is over.
        below: Option<Sector>,
    },
    /// From this cluster of the top to its place in the plain file under it.
    Base(FileCluster),
}

struct Copy {
    caller: Caller,
    /// Where the cluster was: file, place, where the file ends for it.
    from: (FileId, Sector, u64),
    to: To,
    /// What the guest covers, and with what.
    guest: Range<u64>,
    over: Over,
    /// No queue writes to it, not any more.
    guest_done: bool,
    step: Step,
    buffer: Option<AlignedBuf>,
    error: Option<Errno>,
    waiters: Vec<Caller>,
}

/// Memory that the next keeper goes on with: it takes longer to touch it anew than a pause may.
#[derive(Default)]
pub struct Spare(Vec<AlignedBuf>);

/// Copy-ups under way.
pub(super) struct Copies {
    running: HashMap<u64, Copy>,
    buffers: Vec<AlignedBuf>,
    /// Wait for a buffer.
    queue: VecDeque<ToKeeper>,
}

impl Copies {
    /// Copy-ups that will change the map.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn new(chain: &Chain, Spare(mut buffers): Spare) -> Self {
        // One level has nothing to copy from.
        let count = if chain.levels.len() > chain.pieces { COPY_BUFFERS } else { 0 };
        let len = COPY_BUFFER.min(chain.cluster.bytes()) as usize;
        buffers.retain(|buffer| buffer.len() == len);
        buffers.resize_with(count, || crate::memory::buffer(len));
        Self { running: HashMap::new(), buffers, queue: VecDeque::new() }
    }

    pub fn take_spare(&mut self) -> Spare {
        Spare(std::mem::take(&mut self.buffers))
    }
}

impl<I: Io> Keeper<I> {
    pub(super) fn wait_for_claim(&mut self, caller: Caller, cluster: GuestCluster) {
        match self.copies.running.get_mut(&cluster.0) {
            Some(copy) => copy.waiters.push(caller),
            None => match self.patches.waiters(cluster) {
                Some(waiters) => waiters.push(caller),
                None => self.answer(caller, Answer::Retry),
            },
        }
    }

    /// Where a cluster is that nobody copies; else the caller is answered.
    fn unclaimed(&mut self, caller: Caller, cluster: GuestCluster) -> Option<(u8, Sector)> {
        if self.shared.pausing.load(Ordering::SeqCst) {
            // A pause waits for what is under way, and this is a whole cluster.
            self.answer(caller, Answer::Retry);
            return None;
        }
        match self.cell(cluster) {
            Some(cell) if cell.claimed => self.wait_for_claim(caller, cluster),
            Some(Cell { place: Place::At { level, at }, .. }) => return Some((level, at)),
            _ => self.answer(caller, Answer::Retry),
        }
        None
    }

    pub(super) fn copy_up(&mut self, message: ToKeeper) {
        let ToKeeper::CopyUp { caller, cluster, from, len, zero, data, odd } = message else {
            return;
        };
        if self.refuse(caller) {
            return;
        }
        let Some((level, at)) = self.unclaimed(caller, cluster) else { return };
        if self.shared.chain.is_top(level) {
            return self.answer(caller, Answer::Retry);
        }
        if !self.room_on_record(message) {
            return;
        }
        let covered = from == 0 && len == self.cluster.bytes() && (zero || !odd);
        let buffer = if covered { None } else { self.copies.buffers.pop() };
        if !covered && buffer.is_none() {
            self.copies.queue.push_back(message);
            return;
        }
        let p = self.shared.pieces.of(cluster);
        let Some(to) = self.take_clean(p) else {
            self.copies.buffers.extend(buffer);
            self.spaces[p].waiters.push_back(message);
            return;
        };
        self.set_cell(cluster, Cell { claimed: true, ..Cell::at(level, at, false) });
        let source = self.shared.chain.level(level);
        let over = match (zero, covered) {
            (true, _) => Over::Zeros,
            (false, true) => Over::ByQueue,
            (false, false) => Over::Bytes(data),
        };
        // I11: nobody begins to write to a claimed cluster.
        let written = level >= self.shared.in_place && !covered && !on(Bug::BelowNoGrace);
        let copy = Copy {
            caller,
            from: (source.fid, at, source.len),
            to: To::Top { cluster: to, below: (level >= self.shared.in_place).then_some(at) },
            guest: from..from + len,
            over,
            guest_done: !matches!(over, Over::ByQueue),
            step: if written { Step::Grace } else { Step::Done },
            buffer,
            error: None,
            waiters: Vec::new(),
        };
        self.copies.running.insert(cluster.0, copy);
        if on(Bug::CopyUpEarly) {
            let start = self.position(to);
            self.map_top(cluster, start, true, Some(self.syncs.next()));
        }
        if matches!(over, Over::ByQueue) {
            let start = self.cluster.file_start(to);
            self.answer(caller, Answer::WriteAt(start));
        }
        match written {
            true => self.quarantine.claims.push(cluster),
            false => self.copy_from(cluster, 0),
        }
    }

    /// A merge into a plain file: what the top has of the cluster goes to its place there.
    pub(super) fn copy_down(&mut self, caller: Caller, cluster: GuestCluster) {
        if self.refuse(caller) {
            return;
        }
        let (size, pieces) = (self.cluster.bytes(), &self.shared.pieces);
        let guest = pieces.guest(cluster);
        let top = self.shared.chain.top_of(pieces.of(cluster));
        let (top, file) = (top.id, top.fid);
        let Some((level, at)) = self.unclaimed(caller, cluster) else { return };
        if level != top {
            return self.answer(caller, Answer::Retry);
        }
        let message = ToKeeper::CopyDown(caller, cluster);
        if !self.room_on_record(message) {
            return;
        }
        let Some(buffer) = self.copies.buffers.pop() else {
            return self.copies.queue.push_back(message);
        };
        self.set_cell(cluster, Cell { claimed: true, ..Cell::at(level, at, true) });
        // The plain file ends with the device.
        let left = self.shared.limits.size - self.cluster.guest_start(guest);
        let copy = Copy {
            caller,
            from: (file, at, at.bytes() + left.min(size)),
            to: To::Base(FileCluster(at.bytes() >> self.cluster.log2())),
            guest: 0..0,
            over: Over::Zeros,
            guest_done: true,
            step: Step::Grace,
            buffer: Some(buffer),
            error: None,
            waiters: Vec::new(),
        };
        self.copies.running.insert(cluster.0, copy);
        // I11: nobody begins to write to a claimed cluster; who does must end first.
        match on(Bug::DownNoGrace) {
            false => self.quarantine.claims.push(cluster),
            true => self.copy_from(cluster, 0),
        }
    }

    /// Goes on with the copy at byte `pos` of the cluster.
    pub(super) fn copy_from(&mut self, cluster: GuestCluster, pos: u64) {
        let size = self.cluster.bytes();
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let (_, at, len) = copy.from;
        // F18: behind the end of the lower file there are zeros, and the target has them already.
        let lower = len.saturating_sub(at.bytes());
        let lower = match copy.to {
            To::Top { .. } => lower.next_multiple_of(PAGE).min(size),
            To::Base(_) => lower,
        };
        // Whole pages are moved: direct I/O takes no less everywhere.
        let end = lower.max(copy.guest.end).next_multiple_of(PAGE).min(size);
        if pos >= end || copy.error.is_some() || copy.buffer.is_none() {
            copy.step = Step::Done;
            self.finish_copy(cluster);
            return;
        }
        let chunk = pos..end.min(pos + COPY_BUFFER);
        let part = outside(&chunk, &copy.guest);
        let part = part.start..part.end.min(lower);
        if part.is_empty() {
            self.copy_there(cluster, chunk, 0..0);
        } else {
            let pages = part.start / PAGE * PAGE..part.end.next_multiple_of(PAGE).min(chunk.end);
            self.read_step(cluster, chunk, pages, 0);
        }
    }

    fn read_step(&mut self, cluster: GuestCluster, chunk: Range<u64>, part: Range<u64>, done: u64) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let Some(buffer) = &mut copy.buffer else { return };
        let (file, at, _) = copy.from;
        let skip = part.start - chunk.start + done;
        let buf = buffer.as_mut_ptr().wrapping_add(skip as usize);
        let op = Op {
            token: self.tasks.add(Task::Copy(cluster)),
            kind: OpKind::Read,
            file,
            offset: at.bytes() + part.start + done,
            len: part.end - part.start - done,
            buf,
            lent: None,
        };
        copy.step = Step::Read { chunk, part, done };
        // SAFETY: the buffer holds a chunk and stays in `running` until this has completed; the
        // chain keeps the file open.
        unsafe { self.io.push(op) };
    }

    pub(super) fn copy_completed(&mut self, cluster: GuestCluster, result: i32) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let step = copy.step.clone();
        if let Step::Trim { chunk } = step {
            return match result < 0 {
                true => self.copy_failed(cluster, Errno::from_raw_os_error(-result)),
                false => self.copy_from(cluster, chunk.end),
            };
        }
        if let Step::Punch { chunk } = step {
            return match result < 0 {
                true => self.write_step(cluster, chunk.clone(), chunk, 0),
                false => self.copy_from(cluster, chunk.end),
            };
        }
        if result < 0 {
            return self.copy_failed(cluster, Errno::from_raw_os_error(-result));
        }
        let align = &self.shared.align;
        match step {
            Step::Read { chunk, part, done: before } => {
                let done = before + result as u64;
                let (_, at, len) = copy.from;
                let there = len.saturating_sub(at.bytes() + part.start);
                let there = there.min(part.end - part.start);
                if done >= there {
                    self.copy_there(cluster, chunk, part.start..part.start + there);
                } else if result == 0 {
                    self.copy_failed(cluster, Errno::IO);
                } else {
                    let done = align.going_on(before, done);
                    self.read_step(cluster, chunk, part, done);
                }
            }
            Step::Write { chunk, part, done: before } => {
                let done = before + result as u64;
                if done >= part.end - part.start {
                    self.copy_written(cluster, chunk);
                } else if result == 0 {
                    self.copy_failed(cluster, Errno::IO);
                } else {
                    let done = align.going_on(before, done);
                    self.write_step(cluster, chunk, part, done);
                }
            }
            Step::Done | Step::Grace | Step::Punch { .. } | Step::Trim { .. } => {}
        }
    }

    /// A chunk is written; the plain file ends where it did.
    fn copy_written(&mut self, cluster: GuestCluster, chunk: Range<u64>) {
        let pieces = &self.shared.pieces;
        let start = self.cluster.guest_start(pieces.own(cluster));
        let below = self.shared.below(pieces.of(cluster));
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let shown = start + (copy.from.2 - copy.from.1.bytes().min(copy.from.2));
        match below.filter(|_| matches!(copy.to, To::Base(_))) {
            Some(below) if start + chunk.end > below.len.max(shown) => {
                let (file, keep) = (below.fid, below.len.max(shown));
                copy.step = Step::Trim { chunk };
                let none = std::ptr::null_mut();
                self.push_to(Task::Copy(cluster), file, OpKind::Truncate, keep, 0, none);
            }
            _ => self.copy_from(cluster, chunk.end),
        }
    }

    fn copy_failed(&mut self, cluster: GuestCluster, errno: Errno) {
        if let Some(copy) = self.copies.running.get_mut(&cluster.0) {
            copy.error = Some(errno);
            copy.step = Step::Done;
            self.finish_copy(cluster);
        }
    }

    /// The lower level's part of a chunk is in the buffer: what it lacks are zeros, and the guest's
    /// bytes come over both.
    fn copy_there(&mut self, cluster: GuestCluster, chunk: Range<u64>, read: Range<u64>) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let Some(buffer) = &mut copy.buffer else { return };
        let place = |pos: u64| (pos.clamp(chunk.start, chunk.end) - chunk.start) as usize;
        let bytes = &mut buffer[..place(chunk.end)];
        if read.is_empty() {
            bytes.fill(0);
        } else if !on(Bug::CopyUpTailStale) {
            bytes[..place(read.start)].fill(0);
            bytes[place(read.end)..].fill(0);
        }
        let (from, to) = (place(copy.guest.start), place(copy.guest.end));
        let skip = chunk.start.saturating_sub(copy.guest.start);
        if !lay_over(copy.over, skip, &mut bytes[from..to.max(from)]) {
            return self.copy_failed(cluster, Errno::IO);
        }
        if matches!(copy.to, To::Base(_)) && !on(Bug::DownDropsZeros) {
            // It has other bytes there.
            let zero = is_zero(bytes) && bytes.len().is_multiple_of(PAGE as usize);
            return match zero {
                true => self.punch_step(cluster, chunk),
                false => self.write_step(cluster, chunk.clone(), chunk, 0),
            };
        }
        // All-zero parts are not written: the target is clean.
        let blocks = bytes.chunks(PAGE as usize);
        let Some(first) = blocks.clone().position(|b| !is_zero(b)) else {
            self.copy_from(cluster, chunk.end);
            return;
        };
        let last = blocks.enumerate().filter(|(_, b)| !is_zero(b)).map(|(i, _)| i).next_back();
        let from = chunk.start + first as u64 * PAGE;
        let to = (chunk.start + (last.unwrap_or(first) as u64 + 1) * PAGE).min(chunk.end);
        self.write_step(cluster, chunk, from..to, 0);
        if on(Bug::CopyUpAnswerEarly) {
            self.finish_copy(cluster);
        }
    }

    fn write_step(
        &mut self,
        cluster: GuestCluster,
        chunk: Range<u64>,
        part: Range<u64>,
        done: u64,
    ) {
        let (size, shared) = (self.cluster, &self.shared);
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let Some(buffer) = &mut copy.buffer else { return };
        let skip = part.start - chunk.start + done;
        let buf = buffer.as_mut_ptr().wrapping_add(skip as usize);
        let (file, start) = match copy.to {
            To::Top { cluster: to, .. } => {
                (shared.chain.top_of(shared.pieces.of(cluster)).fid, size.file_start(to))
            }
            To::Base(_) => match shared.below(shared.pieces.of(cluster)) {
                Some(below) => (below.fid, size.guest_start(shared.pieces.own(cluster))),
                None => return,
            },
        };
        let (offset, len) = (start + part.start + done, part.end - part.start - done);
        copy.step = Step::Write { chunk, part, done };
        self.push_to(Task::Copy(cluster), file, OpKind::Write, offset, len, buf);
    }

    /// Zeros for a part of the plain file; a host that cannot gets them written.
    fn punch_step(&mut self, cluster: GuestCluster, chunk: Range<u64>) {
        let pieces = &self.shared.pieces;
        let start = self.cluster.guest_start(pieces.own(cluster));
        let below = self.shared.below(pieces.of(cluster));
        let file = below.filter(|below| below.file.caps().punch).map(|b| b.fid);
        let Some(file) = file else { return self.write_step(cluster, chunk.clone(), chunk, 0) };
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let (offset, len) = (start + chunk.start, chunk.end - chunk.start);
        copy.step = Step::Punch { chunk };
        self.push_to(Task::Copy(cluster), file, OpKind::Punch, offset, len, std::ptr::null_mut());
    }

    /// The queue has written the guest's part, or could not.
    pub(super) fn copy_up_written(
        &mut self,
        _caller: Caller,
        cluster: GuestCluster,
        result: Result<(), Errno>,
    ) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        copy.guest_done = true;
        if let Err(errno) = result {
            copy.error = copy.error.or(Some(errno));
        }
        self.finish_copy(cluster);
    }

    /// Publishes when both parts are written; then the request may be acknowledged (F4).
    fn finish_copy(&mut self, cluster: GuestCluster) {
        let Some(copy) = self.copies.running.get(&cluster.0) else { return };
        let early = on(Bug::CopyUpAnswerEarly) && copy.guest_done;
        if (copy.step != Step::Done || !copy.guest_done) && !early {
            return;
        }
        let Some(copy) = self.copies.running.remove(&cluster.0) else { return };
        self.copies.buffers.extend(copy.buffer);
        let refused = self.shared.refuses_writes().then_some(Errno::IO);
        let error = copy.error.filter(|_| !on(Bug::CopyUpFailedMapped));
        match error.or(refused) {
            None => {
                self.copied(cluster, copy.to);
                self.answer(copy.caller, Answer::Done);
            }
            Some(errno) => {
                if let To::Top { cluster: to, .. } = copy.to {
                    // F13: half a copy is inside.
                    self.spaces[self.shared.pieces.of(cluster)].free_dirty(to);
                }
                if let Some(cell) = self.cell(cluster) {
                    self.set_cell(cluster, Cell { claimed: false, ..cell });
                }
                self.answer(copy.caller, Answer::Failed(errno));
            }
        }
        for waiter in copy.waiters {
            self.answer(waiter, Answer::Retry);
        }
    }

    /// A copy is whole: the map says where the cluster is now.
    fn copied(&mut self, cluster: GuestCluster, to: To) {
        // I1, F1: durable only after a sync that starts from now on.
        let after = Some(self.syncs.next());
        match to {
            To::Top { cluster: to, below } => {
                let after = after.filter(|_| !on(Bug::CopyUpUnsynced));
                self.map_top(cluster, self.position(to), !on(Bug::StaleHasLower), after);
                if let Some(place) = below {
                    self.quarantine_below(place, cluster);
                }
                self.shared.keeper_stats.copied_up.add(1);
            }
            To::Base(was) => {
                let after = after.filter(|_| !on(Bug::DownUnsynced));
                self.map_base(cluster, was, after);
            }
        }
    }

    pub(super) fn pump_copies(&mut self) {
        if self.shared.pausing.load(Ordering::SeqCst) {
            for message in std::mem::take(&mut self.copies.queue) {
                self.message(message);
            }
        }
        loop {
            while !self.copies.buffers.is_empty()
                && let Some(message) = self.copies.queue.pop_front()
            {
                self.message(message);
            }
            // What ends at once gives its buffer back.
            if self.quarantine.claims.is_empty() || !self.pump_grace() {
                return;
            }
        }
    }

    pub(super) fn fail_waiting_copies(&mut self, errno: Errno) {
        for message in std::mem::take(&mut self.copies.queue) {
            if let ToKeeper::CopyUp { caller, .. } | ToKeeper::CopyDown(caller, _) = message {
                self.answer(caller, Answer::Failed(errno));
            }
        }
    }
}

/// What is to be read of a chunk: not what the guest has at its edges.
fn outside(chunk: &Range<u64>, guest: &Range<u64>) -> Range<u64> {
    let start = if guest.contains(&chunk.start) { guest.end.min(chunk.end) } else { chunk.start };
    let end =
        if guest.start < chunk.end && guest.end >= chunk.end { guest.start } else { chunk.end };
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::outside;

    #[test]
    fn only_what_the_guest_does_not_have_at_an_edge_is_read() {
        let of = |from, to| outside(&(100..200), &(from..to));
        assert_eq!(of(0, 0), 100..200, "nothing");
        assert_eq!(of(140, 160), 100..200, "in the middle");
        assert_eq!(of(100, 130), 130..200);
        assert_eq!(of(50, 130), 130..200);
        assert_eq!(of(170, 200), 100..170);
        assert_eq!(of(170, 900), 100..170);
        assert!(of(100, 200).is_empty() && of(0, 900).is_empty());
        assert_eq!(of(0, 100), 100..200, "before it");
        assert_eq!(of(200, 300), 100..200, "behind it");
    }
}
