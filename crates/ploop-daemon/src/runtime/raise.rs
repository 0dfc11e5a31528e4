//! The long part of a merge of an open disk: what the levels under the top have is copied up by the
//! engine, or what the top has down into a raw base, cluster by cluster, while guests go on.

use super::jobs::Running;
use super::mapping;
use crate::control::types::MapReply;
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::stats::{CLASSES, Class};
use ploop_engine::{Buffer, Device, Errno, Flags, Limits, Operation, Request};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Clusters under way while guests rest: their copy-ups find buffers too (D4).
const IN_FLIGHT: usize = 4;
/// A guest that was at work lately is expected to go on, for so many clusters.
const EXPECTED: u32 = 32;
/// Beside guests one cluster is under way at a time, and after it a rest of this part of the time
/// that it took.
const REST: f64 = 0.7;
/// A cancel waits for no longer look at the map than this.
const LOOK: Duration = Duration::from_millis(200);
/// A cancel waits for no longer rest than this.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// What is copied up, and how far it is.
pub struct Raise<'a> {
    /// The queues.
    pub remotes: &'a [RemoteHandle],
    /// Of the device.
    pub limits: Limits,
    /// The levels to take from.
    pub levels: Range<u32>,
    /// Whose counters tell of guests at work.
    pub device: &'a Device,
}

struct Window {
    sender: Sender<Option<Errno>>,
    ended: Receiver<Option<Errno>>,
    open: usize,
    next: usize,
    /// For so many clusters guests are expected to be at work.
    beside: u32,
    /// What they had moved when the last cluster began.
    moved: u64,
}

impl Raise<'_> {
    /// Copies everything up.
    ///
    /// # Errors
    /// Cancelled (29), or a cluster cannot be copied.
    pub fn run(&self, job: &Running) -> Result<()> {
        let (sender, ended) = channel();
        let (open, next, beside, moved) = (0, 0, 0, self.moved());
        let mut window = Window { sender, ended, open, next, beside, moved };
        let copied = self.copy(job, &mut window);
        // Nothing is left under way, whatever happened.
        while window.open > 0 {
            let _ = window.wait();
        }
        copied
    }

    /// Guests are at work, or were a few clusters ago.
    fn beside_guests(&self, window: &mut Window) -> bool {
        let moved = self.moved();
        window.beside = match moved != std::mem::replace(&mut window.moved, moved) {
            true => EXPECTED,
            false => window.beside.saturating_sub(1),
        };
        window.beside > 0
    }

    /// Bytes that guests have moved: neither copies nor the questions of jobs count.
    fn moved(&self) -> u64 {
        let guests = |class: &Class| {
            matches!(class.operation, "read" | "write" | "discard" | "write_zeroes")
        };
        let of_queue = |n| {
            let classes = CLASSES.iter().zip(&self.device.queue_stats(n).classes);
            classes.filter(|(class, _)| guests(class)).map(|(_, stats)| stats.bytes.get())
        };
        (0..self.device.queues()).flat_map(of_queue).sum()
    }

    /// Tells how far it is, and waits as its rate wants.
    fn go_on(job: &Running, done: u64, total: u64) -> Result<()> {
        match job.go_on(done, total) {
            true => Ok(()),
            false => Err(Failure::new(Code::Internal, "stopped as asked")
                .kind("cancelled")
                .hint("the disk is whole; ploop snapshot-merge goes on with it")),
        }
    }

    /// Where the device has its data from `at` on: a part that is known soon.
    fn part(&self, at: u64) -> Result<MapReply> {
        mapping::map_within(&self.remotes[0], self.limits, at, LOOK)
    }

    /// Bytes of the device that lie in the levels to take from: also when another merge, which was
    /// stopped, has taken the rest.
    fn count(&self, job: &Running) -> Result<u64> {
        let (mut at, mut total) = (0, 0);
        while at < self.limits.size {
            Self::go_on(job, 0, total)?;
            for extent in self.part(at)?.extents {
                at = extent.offset_bytes + extent.length_bytes;
                if extent.level.is_some_and(|level| self.levels.contains(&level)) {
                    total += extent.length_bytes;
                }
            }
        }
        Ok(total)
    }

    fn copy(&self, job: &Running, window: &mut Window) -> Result<()> {
        let total = self.count(job)?;
        let (mut at, mut done) = (0, 0);
        while at < self.limits.size {
            Self::go_on(job, done, total)?;
            for extent in self.part(at)?.extents {
                let end = extent.offset_bytes + extent.length_bytes;
                at = end;
                if !extent.level.is_some_and(|level| self.levels.contains(&level)) {
                    continue;
                }
                let mut from = extent.offset_bytes;
                while from < end {
                    Self::go_on(job, done, total)?;
                    let len = (self.limits.cluster - from % self.limits.cluster).min(end - from);
                    let began = Instant::now();
                    window.submit(self.remotes, from, len)?;
                    if self.beside_guests(window) {
                        window.rest(began)?;
                    }
                    from += len;
                    done += len;
                }
            }
        }
        while window.open > 0 {
            window.wait()?;
        }
        let _ = job.go_on(done, done);
        Ok(())
    }
}

impl Window {
    fn submit(&mut self, remotes: &[RemoteHandle], offset: u64, len: u64) -> Result<()> {
        if self.open >= IN_FLIGHT {
            self.wait()?;
        }
        let request = Request {
            tag: 0,
            operation: Operation::Merge,
            flags: Flags::default(),
            offset,
            len,
            buffer: Buffer::NONE,
        };
        let sender = self.sender.clone();
        let done = Box::new(move |outcome: Result<u32, Errno>| {
            let _ = sender.send(outcome.err());
        });
        self.open += 1;
        self.next = (self.next + 1) % remotes.len();
        remotes[self.next].submit(request, done);
        Ok(())
    }

    /// Guests keep most of the disk: the copy that began then ends before the next, and the disk is
    /// theirs for a while.
    fn rest(&mut self, began: Instant) -> Result<()> {
        while self.open > 0 {
            self.wait()?;
        }
        std::thread::sleep(began.elapsed().mul_f64(REST).min(LONGEST_REST));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.open -= 1;
        match self.ended.recv() {
            Ok(None) => Ok(()),
            Ok(Some(Errno::NOSPC)) => {
                let message =
                    "a cluster cannot be copied: the host has no space left for the image";
                Err(Failure::new(Code::Write, message)
                    .kind("no_space")
                    .hint("make room on the host; ploop snapshot-merge goes on with it"))
            }
            Ok(Some(errno)) => {
                Err(Failure::new(Code::Write, format!("a cluster cannot be copied: {errno}")))
            }
            Err(_) => Err(Failure::new(Code::Internal, "a copy was never answered")),
        }
    }
}
