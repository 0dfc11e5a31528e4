//! The map is filled before it is touched (P5): the BATs are read in windows, newest level first,
//! one read at a time, beside whatever else goes on. A page that somebody touches meanwhile is
//! loaded by `load.rs` without waiting for this.

use super::Keeper;
use super::load::holes;
use super::ops::Task;
use crate::chain::page_offset;
use crate::limits::{AHEAD_PAGES, AHEAD_WINDOW};
use crate::map::{Cell, Place};
use crate::spec::LevelKind;
use ploop_format::BatPage;
use ploop_format::units::PAGE;
use ploop_io::{AlignedBuf, Io, Op, OpKind};

/// What is read ahead.
#[derive(Default)]
pub(super) struct Ahead {
    /// The first page behind the last window.
    next: u64,
    window: Option<Window>,
    /// A read failed, or the map is as large as this may make it: touches do the rest.
    stopped: bool,
}

struct Window {
    first: u64,
    pages: u64,
    /// Whose part is being read; first the number that one more level would have.
    level: usize,
    /// Bytes that are being read.
    want: u64,
    bytes: AlignedBuf,
    cells: Vec<Vec<Cell>>,
}

impl<I: Io> Keeper<I> {
    pub(super) fn pump_ahead(&mut self) {
        if self.ahead.window.is_some() || self.ahead.stopped || self.closing {
            return;
        }
        let map = &self.shared.map;
        let mut next = self.ahead.next;
        let first = loop {
            let missing = |n: &u64| map.page(BatPage(*n)).is_none();
            let Some(first) = (next..map.len()).find(missing) else { break None };
            // What nobody has anything in costs its first toucher no wait.
            next = self.shared.bare.from(BatPage(first)).end;
            if next == first {
                break Some(first);
            }
        };
        let Some(first) = first.filter(|_| map.resident() < AHEAD_PAGES) else {
            self.ahead.stopped = true;
            return;
        };
        let piece = self.shared.pieces.of_page(BatPage(first));
        let end = map.len().min(self.shared.pieces.first_page(piece + 1).0);
        let end = end.min(self.shared.bare.after(BatPage(first)));
        let pages = (end - first).min(AHEAD_WINDOW);
        self.ahead.next = first + pages;
        self.ahead.window = Some(Window {
            first,
            pages,
            level: self.shared.chain.levels.len() + piece,
            want: 0,
            bytes: crate::memory::buffer((pages * PAGE) as usize),
            cells: (0..pages).map(|_| holes()).collect(),
        });
        self.next_level();
    }

    /// Reads the next lower level's part of the window, or ends it.
    fn next_level(&mut self) {
        while let Some(window) = &mut self.ahead.window {
            let Some(next) = window.level.checked_sub(self.shared.chain.pieces) else {
                return self.end_window();
            };
            window.level = next;
            let level = &self.shared.chain.levels[window.level];
            let first = self.shared.pieces.own_page(BatPage(window.first));
            let there = (first.0..first.0 + window.pages)
                .take_while(|n| level.has_page(BatPage(*n)))
                .count() as u64;
            if level.kind == LevelKind::Raw {
                self.absorb_window(u64::MAX);
            } else if there > 0 {
                window.want = there * PAGE;
                let op = Op {
                    token: self.tasks.add(Task::Ahead),
                    kind: OpKind::Read,
                    file: level.fid,
                    offset: page_offset(first),
                    len: window.want,
                    buf: window.bytes.as_mut_ptr(),
                    lent: None,
                };
                // SAFETY: the buffer holds the whole window and stays in `ahead` until this has
                // completed; the chain keeps the file open.
                unsafe { self.io.push(op) };
                return;
            }
        }
    }

    pub(super) fn ahead_completed(&mut self, result: i32) {
        let Some(window) = &self.ahead.window else { return };
        let read = u64::try_from(result).unwrap_or(0);
        if read < window.want || self.closing {
            // Whoever touches these pages hears why.
            self.ahead.window = None;
            self.ahead.stopped = true;
            return;
        }
        self.absorb_window(read / PAGE);
        self.next_level();
    }

    /// Takes the first `pages` pages of the present level in.
    fn absorb_window(&mut self, pages: u64) {
        let Some(mut window) = self.ahead.window.take() else { return };
        let Window { first, level, bytes, cells, .. } = &mut window;
        for (n, cells) in cells.iter_mut().enumerate().take(pages as usize) {
            let own = &bytes[n * PAGE as usize..(n + 1) * PAGE as usize];
            self.absorb(cells, BatPage(*first + n as u64), *level, own);
        }
        self.ahead.window = Some(window);
    }

    fn end_window(&mut self) {
        let Some(window) = self.ahead.window.take() else { return };
        let mut bad = 0;
        for (page, cells) in (window.first..).zip(&window.cells) {
            bad += cells.iter().filter(|cell| cell.place == Place::Bad).count();
            self.install(BatPage(page), cells);
        }
        if bad > 0 {
            // F23: said now, not when somebody reads them months later.
            tracing::error!(
                "{bad} clusters behind {} have broken BAT entries: they give EIO",
                BatPage(window.first).cluster(0).map_or(0, |cluster| cluster.0)
            );
        }
    }
}
