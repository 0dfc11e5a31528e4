//! Patches: what direct I/O cannot write as it is, because it is smaller than the file's blocks or
//! its memory lies at an odd address, is written by read-modify-write under a claim (F19). So on
//! disks with several queues; one that has a single queue leaves it to that (`queue/rewrite.rs`).
//!
//! The keeper claims the cluster; after a grace period nobody else writes to it. It reads the
//! blocks around the guest's bytes, lays those over them and writes whole blocks. Patches of one
//! cluster share its claim, and those whose blocks touch share one read and one write. A cluster
//! that no level has is mapped before, one of a lower level is copied up with the guest's bytes.
//!
//! Requests that wait for the claim come before patches that arrive later.

use super::Keeper;
use super::ops::Task;
use crate::blocks::{End, Memory, Over, lay_over, overlap, whole_blocks};
use crate::front::{Errno, is_no_space};
use crate::limits::{MISFITS, PATCH_LARGE};
use crate::map::{Cell, Place};
use crate::message::{Answer, Caller, ToKeeper};
use ploop_format::GuestCluster;
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, FileId, Io, OpKind};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// One piece of a queue.
struct Patch {
    caller: Caller,
    /// What it covers of the cluster, and with what.
    guest: Range<u64>,
    over: Over,
    dsync: bool,
}

/// What a run is doing with its chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Reading the last of its `reads`.
    Read,
    Write,
    /// Cutting what a plain file got behind its end.
    Trim,
}

/// Patches on their way together.
struct Run {
    number: u64,
    patches: Vec<Patch>,
    /// The alignment it was made for.
    unit: u64,
    /// Whole blocks of the cluster, and those that are in the buffer now.
    span: Range<u64>,
    chunk: Range<u64>,
    /// Blocks of the chunk still to be read, last first.
    reads: Vec<Range<u64>>,
    step: Step,
    /// Bytes of the step that are done.
    done: u64,
    buffer: AlignedBuf,
    dsync: bool,
}

/// A cluster with patches.
struct Site {
    file: FileId,
    /// Where the cluster begins in it.
    at: u64,
    end: End,
    /// Nobody else writes to it any more.
    open: bool,
    /// Among those that may begin something.
    listed: bool,
    misfits: u8,
    waiting: VecDeque<Patch>,
    runs: Vec<Run>,
    /// They wait for the claim to end.
    waiters: Vec<Caller>,
}

/// All clusters with patches.
#[derive(Default)]
pub(super) struct Patches {
    sites: HashMap<u64, Site>,
    memory: Memory,
    /// May begin something.
    listed: VecDeque<GuestCluster>,
    /// Could, but there was no memory.
    starved: Vec<GuestCluster>,
    runs: u64,
}

impl Patches {
    /// Memory is taken here, before anything is served (D7).
    pub fn new(direct: bool) -> Self {
        let mut patches = Self::default();
        if direct {
            patches.memory.fill();
        }
        patches
    }

    fn give(&mut self, buffer: AlignedBuf) {
        self.memory.give(buffer);
        for cluster in std::mem::take(&mut self.starved) {
            self.list(cluster);
        }
    }

    /// Those who wait for the claim of a cluster, when it is claimed for patches.
    pub fn waiters(&mut self, cluster: GuestCluster) -> Option<&mut Vec<Caller>> {
        self.sites.get_mut(&cluster.0).map(|site| &mut site.waiters)
    }

    fn list(&mut self, cluster: GuestCluster) {
        if let Some(site) = self.sites.get_mut(&cluster.0)
            && site.open
            && !site.listed
        {
            site.listed = true;
            self.listed.push_back(cluster);
        }
    }

    fn run(&mut self, cluster: GuestCluster, number: u64) -> Option<(&mut Site, usize)> {
        let site = self.sites.get_mut(&cluster.0)?;
        let n = site.runs.iter().position(|run| run.number == number)?;
        Some((site, n))
    }
}

impl<I: Io> Keeper<I> {
    pub(super) fn patch(&mut self, message: ToKeeper) {
        let ToKeeper::Patch { caller, cluster, from, len, zero, data, dsync } = message else {
            return;
        };
        if self.refuse(caller) {
            return;
        }
        let over = if zero { Over::Zeros } else { Over::Bytes(data) };
        let patch = Patch { caller, guest: from..from + len, over, dsync };
        let Some(cell) = self.cell(cluster) else { return self.answer(caller, Answer::Retry) };
        if cell.claimed {
            match self.patches.sites.get_mut(&cluster.0).filter(|site| site.waiters.is_empty()) {
                Some(site) => site.waiting.push_back(patch),
                None => return self.wait_for_claim(caller, cluster),
            }
            return self.patches.list(cluster);
        }
        let Place::At { level, at } = cell.place else {
            return self.answer(caller, Answer::Retry);
        };
        let shared = &self.shared;
        if !shared.chain.is_top(level) && level < shared.in_place {
            return self.answer(caller, Answer::Retry);
        }
        let level = shared.chain.level(level);
        let end = End::of(shared, cluster, level, at);
        let open = on(Bug::PatchNoGrace);
        let site = Site {
            file: level.fid,
            at: at.bytes(),
            end,
            open,
            listed: false,
            misfits: 0,
            waiting: VecDeque::from([patch]),
            runs: Vec::new(),
            waiters: Vec::new(),
        };
        self.set_cell(cluster, Cell { claimed: true, ..cell });
        self.patches.sites.insert(cluster.0, site);
        // I11: nobody begins to write to a claimed cluster; who does must end first.
        match open {
            false => self.quarantine.claims.push(cluster),
            true => self.patches.list(cluster),
        }
    }

    /// Nobody writes to the cluster any more.
    pub(super) fn open_site(&mut self, cluster: GuestCluster) {
        if let Some(site) = self.patches.sites.get_mut(&cluster.0) {
            site.open = true;
            self.patches.list(cluster);
        }
    }

    /// Begins what can begin.
    pub(super) fn pump_patches(&mut self) {
        for _ in 0..self.patches.listed.len() {
            let Some(cluster) = self.patches.listed.pop_front() else { return };
            if let Some(site) = self.patches.sites.get_mut(&cluster.0) {
                site.listed = false;
            }
            while let Some(number) = self.next_run(cluster) {
                self.begin_chunk(cluster, number);
            }
        }
    }

    /// Makes a run of patches that wait; `None` when there are none, or no memory for them.
    fn next_run(&mut self, cluster: GuestCluster) -> Option<u64> {
        let unit = self.shared.align.offset();
        let blocks = |p: &Patch| whole_blocks(&p.guest, unit);
        self.patches.memory.fill();
        let site = self.patches.sites.get_mut(&cluster.0)?;
        let busy: Vec<Range<u64>> = site.runs.iter().map(|run| run.span.clone()).collect();
        let free = |span: &Range<u64>| !busy.iter().any(|b| overlap(b, span));
        let first = site.waiting.iter().position(|p| free(&blocks(p)))?;
        let first = site.waiting.remove(first)?;
        let mut span = blocks(&first);
        let mut patches = vec![first];
        let mut n = 0;
        while let Some(patch) = site.waiting.get(n) {
            let blocks = blocks(patch);
            let both = span.start.min(blocks.start)..span.end.max(blocks.end);
            let touch = blocks.start <= span.end && span.start <= blocks.end;
            if touch && both.end - both.start <= PATCH_LARGE && free(&both) {
                patches.extend(site.waiting.remove(n));
                span = both;
            } else {
                n += 1;
            }
        }
        let Some(buffer) = self.patches.memory.take(span.end - span.start) else {
            // Some run's end brings memory back and lists the cluster again.
            self.put_back(cluster, patches);
            self.patches.starved.push(cluster);
            return None;
        };
        self.patches.runs += 1;
        let number = self.patches.runs;
        let dsync = patches.iter().any(|patch| patch.dsync);
        let (chunk, reads, step, done) = (span.start..span.start, Vec::new(), Step::Write, 0);
        let run = Run { number, patches, unit, span, chunk, reads, step, done, buffer, dsync };
        self.patches.sites.get_mut(&cluster.0)?.runs.push(run);
        Some(number)
    }

    fn put_back(&mut self, cluster: GuestCluster, patches: Vec<Patch>) {
        if let Some(site) = self.patches.sites.get_mut(&cluster.0) {
            for patch in patches.into_iter().rev() {
                site.waiting.push_front(patch);
            }
        }
    }

    /// Goes on with the next part of a run that its buffer holds.
    fn begin_chunk(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let run = &mut site.runs[n];
        let start = run.chunk.end;
        if start >= run.span.end {
            return self.end_run(cluster, number, Ok(()));
        }
        run.chunk = start..run.span.end.min(start + run.buffer.len() as u64);
        run.reads = gaps(run.patches.iter().map(|patch| &patch.guest), &run.chunk, run.unit);
        run.reads.reverse();
        run.done = 0;
        if run.reads.is_empty() {
            self.write_chunk(cluster, number);
        } else {
            run.step = Step::Read;
            self.push_run(cluster, number);
        }
    }

    /// Lays the guests' bytes over the old ones and writes the chunk.
    fn write_chunk(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let run = &mut site.runs[n];
        for patch in &run.patches {
            let from = patch.guest.start.max(run.chunk.start);
            let to = patch.guest.end.min(run.chunk.end);
            if from >= to {
                continue;
            }
            let place = (from - run.chunk.start) as usize..(to - run.chunk.start) as usize;
            if !lay_over(patch.over, from - patch.guest.start, &mut run.buffer[place]) {
                return self.end_run(cluster, number, Err(Errno::IO));
            }
        }
        (run.step, run.done) = (Step::Write, 0);
        self.push_run(cluster, number);
    }

    /// Submits the present step of a run, or what is left of it.
    fn push_run(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let (file, at, keep) = (site.file, site.at, site.end.keep);
        let run = &mut site.runs[n];
        let task = Task::Patch(cluster, number);
        let (kind, range) = match run.step {
            Step::Read => (OpKind::Read, run.reads.last().cloned().unwrap_or(0..0)),
            Step::Write if run.dsync && !on(Bug::NoDsyncQueue) => {
                (OpKind::WriteDsync, run.chunk.clone())
            }
            Step::Write => (OpKind::Write, run.chunk.clone()),
            Step::Trim => {
                let none = std::ptr::null_mut();
                return self.push_to(task, file, OpKind::Truncate, keep, 0, none);
            }
        };
        let from = range.start + run.done;
        let buf = run.buffer.as_mut_ptr().wrapping_add((from - run.chunk.start) as usize);
        self.push_to(task, file, kind, at + from, range.end - from, buf);
    }

    pub(super) fn patch_completed(&mut self, cluster: GuestCluster, number: u64, result: i32) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let (file, at, end) = (site.file, site.at, site.end);
        let run = &mut site.runs[n];
        let step = run.step;
        if step == Step::Write {
            self.shared.written(file);
        }
        if result < 0 {
            let errno = Errno::from_raw_os_error(-result);
            return self.end_run(cluster, number, Err(errno));
        }
        if step == Step::Trim {
            return self.begin_chunk(cluster, number);
        }
        let range = match step {
            Step::Read => run.reads.last().cloned().unwrap_or(0..0),
            _ => run.chunk.clone(),
        };
        // F18: behind the end of a plain file there are zeros.
        let whole = range.end - range.start;
        let there = end.was.saturating_sub(at + range.start).min(whole);
        let need = if step == Step::Read { there } else { whole };
        let done = (run.done + u64::from(result.unsigned_abs())).min(whole);
        if done < need {
            if result == 0 {
                // F18: nothing inside the recorded length is a lie of the file.
                return self.end_run(cluster, number, Err(Errno::IO));
            }
            run.done = self.shared.align.going_on(run.done, done);
            return self.push_run(cluster, number);
        }
        run.done = 0;
        if step == Step::Read {
            let from = (range.start + need - run.chunk.start) as usize;
            run.buffer[from..(range.end - run.chunk.start) as usize].fill(0);
            run.reads.pop();
            if run.reads.is_empty() {
                return self.write_chunk(cluster, number);
            }
        } else if at + run.chunk.end > end.keep {
            run.step = Step::Trim;
        } else {
            return self.begin_chunk(cluster, number);
        }
        self.push_run(cluster, number);
    }

    /// A run is over: its patches are answered, and the claim ends with the last one.
    fn end_run(&mut self, cluster: GuestCluster, number: u64, result: Result<(), Errno>) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let run = site.runs.swap_remove(n);
        let mut result = result;
        let mut again = false;
        if result == Err(Errno::INVAL) {
            // The alignment is another one now: the blocks are larger.
            site.misfits += 1;
            again = site.misfits <= MISFITS;
            result = Err(Errno::IO);
        }
        let Run { patches, buffer, dsync, .. } = run;
        self.patches.give(buffer);
        let space = result.is_err_and(is_no_space);
        if again {
            self.realign();
            self.put_back(cluster, patches);
        } else {
            // F5: a failed sync is final for the file.
            if result.is_err() && dsync && !space {
                self.shared.fail();
            }
            let answer = result.map_or_else(Answer::Failed, |()| Answer::Done);
            for patch in patches {
                self.answer(patch.caller, answer);
            }
        }
        self.patches.list(cluster);
        self.end_claim(cluster);
    }

    fn end_claim(&mut self, cluster: GuestCluster) {
        let idle = |site: &Site| site.runs.is_empty() && site.waiting.is_empty();
        if !self.patches.sites.get(&cluster.0).is_some_and(idle) {
            return;
        }
        let Some(site) = self.patches.sites.remove(&cluster.0) else { return };
        if let Some(cell) = self.cell(cluster) {
            self.set_cell(cluster, Cell { claimed: false, ..cell });
        }
        for waiter in site.waiters {
            self.answer(waiter, Answer::Retry);
        }
    }

    /// Asks the files for their alignment again.
    pub(super) fn realign(&mut self) {
        self.shared.align.ask(&self.shared.chain);
    }
}

/// The blocks of a chunk that have bytes which no guest brings, neighbours as one.
fn gaps<'a>(
    guests: impl Iterator<Item = &'a Range<u64>>,
    chunk: &Range<u64>,
    unit: u64,
) -> Vec<Range<u64>> {
    let clip = |g: &Range<u64>| g.start.max(chunk.start)..g.end.min(chunk.end);
    let mut covered: Vec<Range<u64>> = guests.map(clip).filter(|g| g.start < g.end).collect();
    covered.sort_unstable_by_key(|g| g.start);
    covered.push(chunk.end..chunk.end);
    let mut reads: Vec<Range<u64>> = Vec::new();
    let mut pos = chunk.start;
    for guest in covered {
        if guest.start > pos {
            let blocks = pos / unit * unit..guest.start.next_multiple_of(unit);
            match reads.last_mut() {
                Some(last) if blocks.start <= last.end => last.end = blocks.end,
                _ => reads.push(blocks),
            }
        }
        pos = pos.max(guest.end);
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn only_blocks_with_old_bytes_are_read() {
        let of = |guests: &[(u64, u64)]| {
            let guests: Vec<_> = guests.iter().map(|(from, to)| *from..*to).collect();
            let reads = gaps(guests.iter(), &(4096..20480), 4096);
            reads.into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [(4096, 20480)]);
        assert!(of(&[(0, 30000)]).is_empty());
        assert_eq!(of(&[(4608, 20480)]), [(4096, 8192)], "the first");
        assert_eq!(of(&[(0, 20000)]), [(16384, 20480)], "the last");
        assert_eq!(of(&[(5000, 20000)]), [(4096, 8192), (16384, 20480)], "both");
        assert_eq!(of(&[(12288, 20480), (4096, 8192)]), [(8192, 12288)], "in the middle");
        assert_eq!(of(&[(4096, 9000), (13000, 20480)]), [(8192, 16384)], "neighbours are one");
        assert!(of(&[(4096, 12300), (12288, 20480)]).is_empty(), "they overlap");
    }
}
