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
use crate::blocks::{Blocks, End, Memory, Next, Over, Step, overlap, whole_blocks};
use crate::front::{Errno, is_no_space};
use crate::limits::{MISFITS, PATCH_LARGE};
use crate::map::{Cell, Place};
use crate::message::{Answer, Caller, ToKeeper};
use ploop_format::GuestCluster;
use ploop_io::planted::{Bug, on};
use ploop_io::{FileId, Io};
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

/// Patches on their way together.
struct Run {
    number: u64,
    patches: Vec<Patch>,
    blocks: Blocks,
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

    fn give(&mut self, blocks: Blocks) {
        self.memory.give(blocks);
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
        let busy: Vec<Range<u64>> = site.runs.iter().map(|run| run.blocks.span.clone()).collect();
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
        let dsync = patches.iter().any(|patch| patch.dsync);
        let place = (site.file, site.at, site.end);
        let Some(blocks) = Blocks::new(&mut self.patches.memory, place, span, unit, dsync) else {
            // Some run's end brings memory back and lists the cluster again.
            self.put_back(cluster, patches);
            self.patches.starved.push(cluster);
            return None;
        };
        self.patches.runs += 1;
        let number = self.patches.runs;
        self.patches.sites.get_mut(&cluster.0)?.runs.push(Run { number, patches, blocks });
        Some(number)
    }

    fn put_back(&mut self, cluster: GuestCluster, patches: Vec<Patch>) {
        if let Some(site) = self.patches.sites.get_mut(&cluster.0) {
            for patch in patches.into_iter().rev() {
                site.waiting.push_front(patch);
            }
        }
    }

    /// Goes on with the next blocks of a run that its buffer holds.
    fn begin_chunk(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let run = &mut site.runs[n];
        let mut guests: Vec<_> = run.patches.iter().map(|patch| patch.guest.clone()).collect();
        guests.sort_unstable_by_key(|guest| guest.start);
        let next = run.blocks.begin_chunk(guests.into_iter());
        self.go_on_with(cluster, number, next);
    }

    fn go_on_with(&mut self, cluster: GuestCluster, number: u64, next: Next) {
        match next {
            Next::Submit => self.push_run(cluster, number),
            Next::Lay => self.write_chunk(cluster, number),
            Next::Chunk => self.begin_chunk(cluster, number),
            Next::Done => self.end_run(cluster, number, Ok(())),
            Next::Failed(errno) => self.end_run(cluster, number, Err(errno)),
        }
    }

    /// Lays the guests' bytes over the old ones and writes the chunk.
    fn write_chunk(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let Run { patches, blocks, .. } = &mut site.runs[n];
        if !patches.iter().all(|patch| blocks.lay(&patch.guest, patch.over)) {
            return self.end_run(cluster, number, Err(Errno::IO));
        }
        blocks.write();
        self.push_run(cluster, number);
    }

    /// Submits the present step of a run, or what is left of it.
    fn push_run(&mut self, cluster: GuestCluster, number: u64) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let blocks = &mut site.runs[n].blocks;
        let (file, (kind, offset, len, buf)) = (blocks.file, blocks.operation());
        self.push_to(Task::Patch(cluster, number), file, kind, offset, len, buf);
    }

    pub(super) fn patch_completed(&mut self, cluster: GuestCluster, number: u64, result: i32) {
        let Some((site, n)) = self.patches.run(cluster, number) else { return };
        let blocks = &mut site.runs[n].blocks;
        if blocks.step == Step::Write {
            self.shared.written(blocks.file);
        }
        let next = blocks.completed(result, &self.shared.align);
        self.go_on_with(cluster, number, next);
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
        let Run { patches, blocks, .. } = run;
        let dsync = blocks.dsync;
        self.patches.give(blocks);
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
