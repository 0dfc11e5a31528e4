//! One queue's load. Nothing here allocates after [`Generator::new`]; time is told, not asked for.

use crate::histogram::Histogram;
use crate::load::{Area, Load, Mode};
use crate::random::Random;
use ploop_io::AlignedBuf;
use std::io;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read a block.
    Read,
    /// Write a block.
    Write,
    /// Flush.
    Flush,
}

/// A request to make.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The place it has; comes back in [`Generator::ended`].
    pub place: u32,
    /// What.
    pub kind: Kind,
    /// First byte.
    pub offset: u64,
    /// The memory of the place.
    pub buf: *mut u8,
}

/// One of the requests in flight at a time.
#[derive(Clone, Copy)]
struct Place {
    kind: Kind,
    since: u64,
    unflushed: u32,
}

/// What a queue did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Blocks read.
    pub reads: u64,
    /// Blocks written.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Latencies of reads and writes.
    pub latency: Histogram,
    /// When the last request ended.
    pub end: u64,
}

/// One queue's load.
pub struct Generator {
    block: u64,
    mode: Mode,
    flush_every: u32,
    area: Area,
    /// Of a sequential load: this queue's next block, and its part of the area.
    next: u64,
    part: (u64, u64),
    left: u64,
    until: u64,
    random: Random,
    places: Vec<Place>,
    free: Vec<u32>,
    done: Vec<(u32, bool)>,
    memory: AlignedBuf,
    tally: Tally,
}

impl Generator {
    /// The load of queue `n`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(load: &Load, area: Area, n: usize) -> io::Result<Self> {
        let too_large = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = usize::try_from(load.block * load.depth as u64).map_err(too_large)?;
        let mut memory = AlignedBuf::new(bytes)?;
        let mut random = Random::new(load.seed, n as u64);
        // Every page is touched, and no block is of zeros, which some storage treats apart.
        for word in memory.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_ne_bytes());
        }
        let places = vec![Place { kind: Kind::Read, since: 0, unflushed: 0 }; load.depth];
        let (queues, n) = (load.queues as u64, n as u64);
        let part = (area.blocks / queues * n, area.blocks / queues * (n + 1));
        Ok(Self {
            block: load.block,
            mode: load.mode,
            flush_every: load.flush_every,
            area,
            next: part.0,
            part,
            left: load.share(usize::try_from(n).unwrap_or(0)),
            until: u64::MAX,
            random,
            free: (0..u32::try_from(load.depth).unwrap_or(0)).rev().collect(),
            done: Vec::with_capacity(load.depth),
            places,
            memory,
            tally: Tally::default(),
        })
    }

    /// No request is made from this time on.
    pub fn ends_at(&mut self, nanos: u64) {
        self.until = nanos;
    }

    /// Takes no more orders.
    pub fn stop(&mut self) {
        self.left = 0;
    }

    /// The next request, if it is time for one.
    pub fn order(&mut self, now: u64) -> Option<Order> {
        if now >= self.until {
            self.left = 0;
        }
        let &at = self.free.last()?;
        let place = self.places[at as usize];
        let flush = self.flush_every != 0 && place.unflushed >= self.flush_every;
        // A lane that wrote flushes even when the load is over: no write goes without its flush.
        if self.left == 0 && !flush {
            return self.last_flush(now);
        }
        self.free.pop();
        let (kind, offset) = if flush { (Kind::Flush, 0) } else { self.data() };
        Some(self.begin(at, kind, offset, now))
    }

    /// At the end: the places that still owe a flush need not be the last that became free.
    fn last_flush(&mut self, now: u64) -> Option<Order> {
        if self.flush_every == 0 {
            return None;
        }
        let owes = |&at: &u32| self.places[at as usize].unflushed >= self.flush_every;
        let index = self.free.iter().position(owes)?;
        let at = self.free.swap_remove(index);
        Some(self.begin(at, Kind::Flush, 0, now))
    }

    fn begin(&mut self, at: u32, kind: Kind, offset: u64, now: u64) -> Order {
        let place = &mut self.places[at as usize];
        place.kind = kind;
        place.since = now;
        let skip = at as usize * usize::try_from(self.block).unwrap_or(0);
        // The block of the place; within `memory`, which has one for each.
        let buf = self.memory.as_mut_ptr().wrapping_add(skip);
        Order { place: at, kind, offset, buf }
    }

    fn data(&mut self) -> (Kind, u64) {
        self.left -= 1;
        let block = if self.mode.random() {
            self.random.below(self.area.blocks)
        } else {
            let block = self.next;
            self.next = if block + 1 < self.part.1 { block + 1 } else { self.part.0 };
            block
        };
        let write = match self.mode {
            Mode::RandRw => self.random.next() >> 63 == 1,
            mode => mode.writes(),
        };
        let kind = if write { Kind::Write } else { Kind::Read };
        (kind, self.area.start + block * self.block)
    }

    /// A request ended.
    pub fn ended(&mut self, place: u32, good: bool) {
        self.done.push((place, good));
    }

    /// Whether requests ended that were not counted yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !self.done.is_empty()
    }

    /// Counts what ended; their places are free again.
    pub fn count(&mut self, now: u64) {
        if self.done.is_empty() {
            return;
        }
        self.tally.end = now;
        for (at, good) in self.done.drain(..) {
            let place = &mut self.places[at as usize];
            self.tally.errors += u64::from(!good);
            place.unflushed += 1;
            match place.kind {
                Kind::Read => self.tally.reads += 1,
                Kind::Write => self.tally.writes += 1,
                Kind::Flush => {
                    self.tally.flushes += 1;
                    place.unflushed = 0;
                }
            }
            if place.kind != Kind::Flush {
                self.tally.latency.add(now.saturating_sub(place.since));
            }
            self.free.push(at);
        }
    }

    /// The load is over and nothing is in flight.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.left == 0 && self.done.is_empty() && self.free.len() == self.places.len()
    }

    /// What was done so far; asked for once.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::{Generator, Kind};
    use crate::load::{Area, Load, Mode};
    use ploop_daemon::runtime::RingChoice;

    fn load(mode: Mode, flush_every: u32) -> Load {
        Load {
            mode,
            block: 4096,
            depth: 2,
            queues: 1,
            nanos: 1,
            count: Some(5),
            flush_every,
            offset: 0,
            range: None,
            seed: 7,
            warm: false,
            engine: RingChoice::Null,
        }
    }

    #[test]
    fn a_lane_flushes_after_each_write_even_the_last() {
        let area = Area { start: 4096, blocks: 3 };
        let mut generator = Generator::new(&load(Mode::Write, 1), area, 0).unwrap();
        let mut said = Vec::new();
        for now in 1..20 {
            while let Some(order) = generator.order(now) {
                said.push((order.kind, order.offset));
                generator.ended(order.place, true);
            }
            generator.count(now);
        }
        assert!(generator.idle());
        let flushes = said.iter().filter(|(kind, _)| *kind == Kind::Flush).count();
        let writes: Vec<u64> =
            said.iter().filter(|(kind, _)| *kind == Kind::Write).map(|(_, at)| *at).collect();
        assert_eq!(writes, [4096, 8192, 12288, 4096, 8192]);
        assert_eq!(flushes, 5, "{said:?}");
    }

    #[test]
    fn places_are_never_more_than_the_depth() {
        let area = Area { start: 0, blocks: 100 };
        let mut generator = Generator::new(&load(Mode::RandRw, 0), area, 0).unwrap();
        let first = generator.order(0).unwrap();
        assert!(generator.order(0).is_some() && generator.order(0).is_none());
        assert!(!generator.idle());
        generator.ended(first.place, false);
        generator.count(50);
        let tally = generator.take_tally();
        assert_eq!((tally.errors, tally.reads + tally.writes, tally.end), (1, 1, 50));
    }
}
