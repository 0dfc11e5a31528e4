//! BAT pages into cells, on first touch: one read per level, newest level wins.

use super::Keeper;
use super::ops::Task;
use crate::chain::{EntryState, page_offset};
use crate::front::Errno;
use crate::limits::{BARE_PAGES, LOADS};
use crate::map::{Cell, Page, Place};
use crate::message::{Answer, Caller};
use crate::spec::LevelKind;
use ploop_format::BatPage;
use ploop_format::is_zero;
use ploop_format::units::{PAGE, PAGE_WORDS};
use ploop_io::planted::{Bug, on};
use ploop_io::{AlignedBuf, Io, Op, OpKind};
use std::collections::{HashMap, VecDeque};

/// Loads under way and waiting.
#[derive(Default)]
pub(super) struct Loads {
    running: HashMap<u64, Load>,
    queue: VecDeque<BatPage>,
    waiters: HashMap<u64, Vec<Caller>>,
}

struct Load {
    /// One page per level, base first.
    bytes: AlignedBuf,
    outstanding: usize,
    error: Option<Errno>,
}

impl<I: Io> Keeper<I> {
    /// A queue met a page that is not in memory.
    pub(super) fn load(&mut self, caller: Caller, page: BatPage) {
        if self.shared.map.page(page).is_some() {
            self.answer(caller, Answer::Retry);
            return;
        }
        if self.fill_bare(page) {
            self.answer(caller, Answer::Retry);
            return;
        }
        let waiters = self.loads.waiters.entry(page.0).or_default();
        waiters.push(caller);
        if waiters.len() == 1 {
            self.loads.queue.push_back(page);
        }
    }

    /// Fills in the page, and what comes behind it, when no level has anything there.
    fn fill_bare(&self, page: BatPage) -> bool {
        let run = self.shared.bare.from(page);
        let end = run.end.min(page.0 + BARE_PAGES);
        for page in (run.start..end).map(BatPage) {
            if self.shared.map.page(page).is_none() {
                self.shared.map.install_holes(page);
                self.shared.keeper_stats.pages_loaded.add(1);
            }
        }
        run.start < end
    }

    pub(super) fn pump_loads(&mut self) {
        while self.loads.running.len() < LOADS {
            let Some(page) = self.loads.queue.pop_front() else { return };
            self.start_load(page);
        }
    }

    fn start_load(&mut self, page: BatPage) {
        let shared = &self.shared;
        let levels = shared.chain.levels_of(shared.pieces.of_page(page));
        let own = shared.pieces.own_page(page);
        let mut load = Load {
            bytes: crate::memory::buffer(levels.len() * PAGE as usize),
            outstanding: 0,
            error: None,
        };
        let base = load.bytes.as_mut_ptr();
        for (depth, (n, level)) in levels.enumerate() {
            if !level.has_page(own) {
                continue;
            }
            load.outstanding += 1;
            let op = Op {
                token: self.tasks.add(Task::Load(page, n)),
                kind: OpKind::Read,
                file: level.fid,
                offset: page_offset(own),
                len: PAGE,
                buf: base.wrapping_add(depth * PAGE as usize),
                lent: None,
            };
            // SAFETY: the buffer has a page per level and stays in `running` until all its reads
            // have completed; the chain keeps the file open.
            unsafe { self.io.push(op) };
        }
        let done = load.outstanding == 0;
        self.loads.running.insert(page.0, load);
        if done {
            self.finish_load(page);
        }
    }

    pub(super) fn load_completed(&mut self, page: BatPage, level: usize, result: i32) {
        let Some(load) = self.loads.running.get_mut(&page.0) else { return };
        load.outstanding -= 1;
        if result < 0 {
            load.error = Some(Errno::from_raw_os_error(-result));
        } else if result as u64 != PAGE {
            // The BAT area is whole clusters inside the length checked at open.
            load.error = Some(Errno::IO);
        }
        if load.error.is_some() {
            tracing::error!(
                "page {page} of the block table of {} cannot be read: {}",
                self.shared.chain.levels[level].file.path().display(),
                result
            );
        }
        if load.outstanding == 0 {
            self.finish_load(page);
        }
    }

    /// F23: a page that could not be read stays unloaded and is never a hole.
    fn finish_load(&mut self, page: BatPage) {
        let Some(load) = self.loads.running.remove(&page.0) else { return };
        let waiters = self.loads.waiters.remove(&page.0).unwrap_or_default();
        let answer = match load.error {
            Some(errno) => Answer::Failed(errno),
            None => {
                let mut cells = holes();
                let chain = &self.shared.chain;
                let piece = self.shared.pieces.of_page(page);
                let levels = chain.levels.len() / chain.pieces;
                for n in (0..levels).rev() {
                    let n = if on(Bug::LoadOldest) { levels - 1 - n } else { n };
                    let own = &load.bytes[n * PAGE as usize..(n + 1) * PAGE as usize];
                    self.absorb(&mut cells, page, n * chain.pieces + piece, own);
                }
                self.install(page, &cells);
                Answer::Retry
            }
        };
        for caller in waiters {
            self.answer(caller, answer);
        }
    }

    /// Makes a page appear, unless it was read ahead, or touched, meanwhile.
    pub(super) fn install(&self, page: BatPage, cells: &[Cell]) {
        if self.shared.map.page(page).is_some() {
            return;
        }
        if cells.iter().all(|cell| *cell == Cell::HOLE) {
            self.shared.map.install_holes(page);
        } else {
            self.shared.map.install(page, Page::new(cells.iter().copied()));
        }
        self.shared.keeper_stats.pages_loaded.add(1);
    }

    /// Puts what one level says under what the newer ones said: newest level first.
    pub(super) fn absorb(&self, cells: &mut [Cell], page: BatPage, n: usize, bytes: &[u8]) {
        let level = &self.shared.chain.levels[n];
        let top = self.shared.chain.is_top(level.id);
        let len = if top { self.spaces[level.piece].len() } else { level.len };
        let (page, clusters) =
            (self.shared.pieces.own_page(page), self.shared.pieces.clusters(level.piece));
        if level.kind != LevelKind::Raw && is_zero(bytes) {
            return;
        }
        for (index, cell) in cells.iter_mut().enumerate() {
            if cell.has_lower {
                continue;
            }
            let Some(cluster) = page.cluster(index) else { continue };
            if cluster.0 >= clusters {
                return;
            }
            let state = level.entry(self.cluster, cluster, bytes, len);
            if state == EntryState::None {
                continue;
            }
            if cell.place != Place::Hole {
                cell.has_lower = true;
                continue;
            }
            let shared = top && self.refused[level.piece].binary_search(&cluster).is_ok();
            cell.place = match state {
                EntryState::At(at) if !shared => Place::At { level: level.id, at },
                _ => Place::Bad,
            };
        }
    }
}

/// The cells of a page before any level has spoken.
pub(super) fn holes() -> Vec<Cell> {
    vec![Cell::HOLE; PAGE_WORDS as usize]
}
