//! The way in: a message of the kernel to a request of the engine, its payload where it was read.
//!
//! A read of /dev/fuse must have room for the longest write, 1 MiB, though most are short. So a
//! message is read into three places: 80 bytes for the headers, a block for the usual payload, and
//! a long block for what is longer. A short write takes only the first block along; one that is
//! longer than usual is in both, and is handed in as two parts. Nothing is copied.

use crate::channel::Received;
use crate::file::{File, Plan};
use crate::front::FuseFront;
use crate::job::{EXTENT_BYTES, Job, Then, Transfer};
use crate::protocol::LONGEST;
use crate::protocol::abi::InHeader;
use crate::protocol::reply::Reply;
use crate::protocol::request::{ENOUGH, Malformed, Request, parse};
use crate::ranges::Hold;
use crate::slow::{Rewrite, Seek, Zero};
use ploop_engine::{Errno, Flags, Operation};
use std::ops::Range;

/// After so many writes the usual length is looked at again.
const WINDOW: u32 = 256;

impl FuseFront {
    /// Reads one message of a mount and starts it. `false`: there is none now, or no memory.
    pub(crate) fn receive(&mut self, at: usize) -> bool {
        let Some(mount) = self.mounts.get_mut(at).and_then(Option::as_mut) else { return false };
        if !mount.reads() {
            return false;
        }
        let Some(arena) = self.arena.as_mut() else { return false };
        if self.long.is_none() {
            self.long = arena.alloc(LONGEST as usize);
        }
        if self.usual.is_none() {
            self.usual = arena.alloc(self.usual_len.max(self.cuts.align));
        }
        let Some(long) = &self.long else {
            self.starved = true;
            return false;
        };
        let payload = match &self.usual {
            Some(usual) => <[_; 2]>::from(arena.pair_mut(usual, long)),
            None => [arena.bytes_mut(long, 0, usize::MAX), &mut []],
        };
        match mount.channel.receive(&mut self.head, payload) {
            Received::Message(len) => {
                self.message(at, len);
                true
            }
            Received::Empty => {
                mount.readable = false;
                false
            }
            Received::Gone => {
                mount.closed = true;
                self.call_in(at);
                false
            }
        }
    }

    fn message(&mut self, at: usize, len: usize) {
        let block = self.usual.as_ref().or(self.long.as_ref());
        let rest = match (block, &self.arena) {
            (Some(block), Some(arena)) => arena.bytes(block, 0, ENOUGH),
            _ => &[],
        };
        match parse(&self.head, rest, len) {
            Ok((header, request)) => self.dispatch(at, &header, &request),
            Err(bad) => self.malformed(at, &bad),
        }
    }

    fn malformed(&mut self, at: usize, bad: &Malformed) {
        tracing::warn!(opcode = bad.opcode, len = bad.len, "a FUSE message with a wrong length");
        if let (Some(unique), Some(mount)) = (bad.unique, self.mounts[at].as_ref()) {
            mount.channel.answer(&Reply::error(unique, Errno::INVAL));
        }
    }

    fn dispatch(&mut self, at: usize, header: &InHeader, request: &Request) {
        let Some(mount) = self.mounts.get_mut(at).and_then(Option::as_mut) else { return };
        let unique = header.unique;
        let job = match mount.file.plan(unique, request) {
            Plan::Nothing => return,
            Plan::Answer(reply) => return mount.channel.answer(&reply),
            Plan::Read(range) => {
                let blocks = mount.file.blocks(&range);
                let skip = (range.start - blocks.start) as usize;
                let data = skip..skip + (range.end - range.start) as usize;
                let need = (blocks.end - blocks.start) as usize;
                let read = Transfer::new(Operation::Read, Flags::default(), blocks);
                Job::new(at, unique, read, Then::Data(data)).needs(need)
            }
            Plan::Write { range, fua } => {
                return self.write(at, unique, range, Flags { fua, ..Flags::default() });
            }
            Plan::Flush => {
                let flush = Transfer::new(Operation::Flush, Flags::default(), 0..0);
                Job::new(at, unique, flush, Then::Done)
            }
            Plan::Zero { range, flags } => {
                let zero = Zero::new(&mount.file, range.clone(), flags);
                zeroing(at, unique, &mount.file, zero, &range)
            }
            Plan::Empty(range) => {
                let zero = Zero::emptied(&mount.file, range.clone());
                zeroing(at, unique, &mount.file, zero, &range)
            }
            Plan::Seek { at: from, hole } => {
                let then = Then::Seek(Seek { at: from, hole, asked: false });
                Job::new(at, unique, Transfer::NONE, then).needs(EXTENT_BYTES)
            }
        };
        self.take_in(job);
    }

    /// A write inside the file; its payload has just been read.
    fn write(&mut self, at: usize, unique: u64, range: Range<u64>, flags: Flags) {
        let len = range.end - range.start;
        let (payload, first) = self.payload(len as usize);
        let Some(mount) = self.mounts.get(at).and_then(Option::as_ref) else { return };
        let blocks = mount.file.blocks(&range);
        if blocks == range {
            let write = Transfer::new(Operation::Write, flags, blocks.clone()).split(first as u64);
            let job = Job::new(at, unique, write, Then::Written(len as u32));
            return self.take_in(job.within(payload).holding(blocks, Hold::Shared));
        }
        let mut rewrite = Rewrite::new(&mount.file, &self.cuts, range, flags);
        (rewrite.payload, rewrite.first) = (payload, first);
        let need = rewrite.need(&mount.file);
        let job = Job::new(at, unique, Transfer::NONE, Then::Rewrite(Box::new(rewrite)));
        self.take_in(job.needs(need).holding(blocks, Hold::Exclusive));
    }

    /// The blocks that hold a payload of `len` bytes, cut to it, and how much the first has.
    fn payload(&mut self, len: usize) -> ([Option<ploop_engine::arena::Block>; 2], usize) {
        self.longest = self.longest.max(len);
        self.writes += 1;
        if self.longest > self.usual_len || self.writes >= WINDOW {
            self.usual_len = self.longest.next_power_of_two().clamp(4096, LONGEST as usize);
            (self.writes, self.longest) = (0, 0);
        }
        let Some(arena) = self.arena.as_mut() else { return ([None, None], 0) };
        let align = self.cuts.align;
        let (first, room) = match self.usual.take() {
            Some(block) => {
                let room = arena.size(&block);
                (Some(arena.shrink(block, len.min(room).max(align))), room)
            }
            None => (None, 0),
        };
        if len <= room {
            return ([first, None], len);
        }
        let rest = self.long.take().map(|block| arena.shrink(block, (len - room).max(align)));
        match first {
            Some(first) => ([Some(first), rest], room),
            None => ([rest, None], len),
        }
    }

    fn take_in(&mut self, job: Job) {
        if let Some(mount) = self.mounts.get_mut(job.mount).and_then(Option::as_mut) {
            mount.open += 1;
            let slot = self.table.insert(job);
            self.start(slot);
        }
    }
}

fn zeroing(at: usize, unique: u64, file: &File, zero: Zero, range: &Range<u64>) -> Job {
    let edges = zero.has_edges();
    let need = if edges { file.block() as usize } else { 0 };
    let hold = if edges { Hold::Exclusive } else { Hold::Shared };
    let then = Then::Zero(Box::new(zero));
    Job::new(at, unique, Transfer::NONE, then).needs(need).holding(file.blocks(range), hold)
}
