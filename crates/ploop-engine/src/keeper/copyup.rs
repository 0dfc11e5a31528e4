//! Copy-up: a cluster of a lower level is brought to the top before it is changed (F4, F13).
//!
//! The keeper claims the cluster and takes a clean one; the queue writes the guest's part there
//! itself, the keeper copies what the guest does not cover. When both are done the keeper
//! publishes the mapping and answers; the entry is staged only after a sync (F1).
//!
//! Order of what is taken: buffer, then claim, then cluster; nobody waits holding a later one (D4).

use super::Keeper;
use super::ops::Task;
use crate::chain::Chain;
use crate::front::Errno;
use crate::limits::{COPY_BUFFER, COPY_BUFFERS};
use crate::map::{Cell, Place};
use crate::message::{Answer, Caller, ToKeeper};
use crate::zero::is_zero;
use ploop_format::units::PAGE;
use ploop_format::{FileCluster, GuestCluster, Sector};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, FileId, Io, Op, OpKind};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// What a copy is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Reading this part of the cluster; so many bytes are there.
    Read(Range<u64>, u64),
    /// Writing this part of the cluster, which was read from `chunk` on.
    Write { chunk: Range<u64>, part: Range<u64>, done: u64 },
    /// The keeper's part is done.
    Done,
}

struct Copy {
    caller: Caller,
    /// Where the cluster was.
    from: (FileId, Sector, u64),
    to: FileCluster,
    /// What the guest covers.
    guest: Range<u64>,
    guest_done: bool,
    step: Step,
    buffer: Option<AlignedBuf>,
    error: Option<Errno>,
    waiters: Vec<Caller>,
}

/// Copy-ups under way.
#[derive(Default)]
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

    pub fn new(chain: &Chain) -> Self {
        // One level has nothing to copy from.
        let count = if chain.levels.len() > 1 { COPY_BUFFERS } else { 0 };
        let len = COPY_BUFFER.min(chain.cluster.bytes()) as usize;
        let buffers = (0..count).map(|_| crate::memory::buffer(len)).collect();
        Self { running: HashMap::new(), buffers, queue: VecDeque::new() }
    }
}

impl<I: Io> Keeper<I> {
    pub(super) fn wait_for_claim(&mut self, caller: Caller, cluster: GuestCluster) {
        match self.copies.running.get_mut(&cluster.0) {
            Some(copy) => copy.waiters.push(caller),
            None => self.answer(caller, Answer::Retry),
        }
    }

    pub(super) fn copy_up(&mut self, message: ToKeeper) {
        let ToKeeper::CopyUp { caller, cluster, from, len, zero } = message else { return };
        if self.refuse(caller) {
            return;
        }
        let top = self.shared.chain.top().id;
        let (level, at) = match self.cell(cluster) {
            Some(cell) if cell.claimed => {
                self.wait_for_claim(caller, cluster);
                return;
            }
            Some(Cell { place: Place::At { level, at }, .. }) if level != top => (level, at),
            _ => {
                self.answer(caller, Answer::Retry);
                return;
            }
        };
        if !self.room_on_record(message) {
            return;
        }
        let covered = from == 0 && len == self.cluster.bytes();
        let buffer = if covered { None } else { self.copies.buffers.pop() };
        if !covered && buffer.is_none() {
            self.copies.queue.push_back(message);
            return;
        }
        let Some(to) = self.take_clean() else {
            self.copies.buffers.extend(buffer);
            self.space.waiters.push_back(message);
            return;
        };
        self.set_cell(cluster, Cell { claimed: true, ..Cell::at(level, at, false) });
        let source = self.shared.chain.level(level);
        let copy = Copy {
            caller,
            from: (source.fid, at, source.len),
            to,
            guest: from..from + len,
            guest_done: zero,
            step: Step::Done,
            buffer,
            error: None,
            waiters: Vec::new(),
        };
        self.copies.running.insert(cluster.0, copy);
        if on(Bug::CopyUpEarly) {
            let start = self.position(to);
            self.map_top(cluster, start, true, Some(self.syncs.next()));
        }
        if !zero {
            let start = self.cluster.file_start(to);
            self.answer(caller, Answer::WriteAt(start));
        }
        self.copy_from(cluster, 0);
    }

    /// Goes on with the copy behind byte `pos` of the cluster.
    fn copy_from(&mut self, cluster: GuestCluster, pos: u64) {
        let size = self.cluster.bytes();
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let mut pos = pos;
        if copy.guest.contains(&pos) {
            pos = copy.guest.end;
        }
        let (file, at, len) = copy.from;
        // F18: behind the end of the lower file there are zeros, and the target has them already.
        let end = if pos < copy.guest.start { copy.guest.start } else { size };
        let end = end.min(len.saturating_sub(at.bytes()).next_multiple_of(PAGE)).min(size);
        if pos >= end || copy.error.is_some() {
            copy.step = Step::Done;
            self.finish_copy(cluster);
            return;
        }
        let chunk = pos..end.min(pos + COPY_BUFFER);
        copy.step = Step::Read(chunk.clone(), 0);
        self.read_step(cluster, file, at.bytes(), chunk, 0);
    }

    fn read_step(
        &mut self,
        cluster: GuestCluster,
        file: FileId,
        at: u64,
        chunk: Range<u64>,
        done: u64,
    ) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let Some(buffer) = &mut copy.buffer else { return };
        let buf = buffer.as_mut_ptr().wrapping_add(done as usize);
        let op = Op {
            token: self.tasks.add(Task::Copy(cluster)),
            kind: OpKind::Read,
            file,
            offset: at + chunk.start + done,
            len: chunk.end - chunk.start - done,
            buf,
            lent: None,
        };
        // SAFETY: the buffer holds a chunk and stays in `running` until this has completed; the
        // chain keeps the file open.
        unsafe { self.io.push(op) };
    }

    pub(super) fn copy_completed(&mut self, cluster: GuestCluster, result: i32) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        if result < 0 {
            copy.error = Some(Errno::from_raw_os_error(-result));
            copy.step = Step::Done;
            self.finish_copy(cluster);
            return;
        }
        match copy.step.clone() {
            Step::Read(chunk, done) => self.copy_read(cluster, chunk, done + result as u64, result),
            Step::Write { chunk, part, done } => {
                let done = done + result as u64;
                if done < part.end - part.start {
                    if result == 0 {
                        copy.error = Some(Errno::IO);
                        copy.step = Step::Done;
                        self.finish_copy(cluster);
                        return;
                    }
                    self.write_step(cluster, chunk, part, done);
                } else {
                    self.copy_from(cluster, chunk.end);
                }
            }
            Step::Done => {}
        }
    }

    fn copy_read(&mut self, cluster: GuestCluster, chunk: Range<u64>, done: u64, result: i32) {
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let (file, at, len) = copy.from;
        let want = chunk.end - chunk.start;
        let there = len.saturating_sub(at.bytes() + chunk.start).min(want);
        if done < there {
            if result == 0 {
                copy.error = Some(Errno::IO);
                copy.step = Step::Done;
                self.finish_copy(cluster);
                return;
            }
            copy.step = Step::Read(chunk.clone(), done);
            self.read_step(cluster, file, at.bytes(), chunk, done);
            return;
        }
        let Some(buffer) = &mut copy.buffer else { return };
        if !on(Bug::CopyUpTailStale) {
            buffer[there as usize..want as usize].fill(0);
        }
        // All-zero parts are not written: the target is clean.
        let bytes = &buffer[..want as usize];
        let blocks = bytes.chunks(PAGE as usize);
        let first = blocks.clone().position(|b| !is_zero(b));
        let Some(first) = first else {
            self.copy_from(cluster, chunk.end);
            return;
        };
        let last = blocks.enumerate().filter(|(_, b)| !is_zero(b)).map(|(i, _)| i).next_back();
        let from = chunk.start + first as u64 * PAGE;
        let to = (chunk.start + (last.unwrap_or(first) as u64 + 1) * PAGE).min(chunk.end);
        self.write_step(cluster, chunk, from..to, 0);
    }

    fn write_step(
        &mut self,
        cluster: GuestCluster,
        chunk: Range<u64>,
        part: Range<u64>,
        done: u64,
    ) {
        let size = self.cluster;
        let Some(copy) = self.copies.running.get_mut(&cluster.0) else { return };
        let Some(buffer) = &mut copy.buffer else { return };
        let skip = part.start - chunk.start + done;
        let buf = buffer.as_mut_ptr().wrapping_add(skip as usize);
        let offset = size.file_start(copy.to) + part.start + done;
        let len = part.end - part.start - done;
        copy.step = Step::Write { chunk, part, done };
        self.push(Task::Copy(cluster), OpKind::Write, offset, len, buf);
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
                let at = self.position(copy.to);
                // I1, F1: durable only after a sync that starts from now on.
                let after = (!on(Bug::CopyUpUnsynced)).then_some(self.syncs.next());
                self.map_top(cluster, at, !on(Bug::StaleHasLower), after);
                self.shared.keeper_stats.copied_up.add(1);
                self.answer(copy.caller, Answer::Done);
            }
            Some(errno) => {
                // F13: half a copy is inside.
                self.space.free_dirty(copy.to);
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

    pub(super) fn pump_copies(&mut self) {
        while !self.copies.buffers.is_empty() {
            let Some(message) = self.copies.queue.pop_front() else { return };
            self.copy_up(message);
        }
    }

    pub(super) fn fail_waiting_copies(&mut self, errno: Errno) {
        for message in std::mem::take(&mut self.copies.queue) {
            if let ToKeeper::CopyUp { caller, .. } = message {
                self.answer(caller, Answer::Failed(errno));
            }
        }
    }
}
