//! Requests in flight: made by the workload, told to the model when the engine takes and answers
//! them.

use crate::front::Event;
use crate::life::{Life, refused};
use crate::model::{Effect, Model, Open};
use crate::stamp::{self, Found, SECTOR, Value};
use ploop_engine::{Buffer, Flags, Operation, Outcome, Request};
use ploop_io::AlignedBuf;
use std::collections::BTreeMap;

/// A request to make.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// What.
    pub operation: Operation,
    /// How.
    pub flags: Flags,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u64,
    /// What a write fills its sectors with; 0 for zeros.
    pub value: Value,
}

struct Flight {
    wish: Wish,
    /// The front end's memory until the answer.
    buffer: Option<AlignedBuf>,
    since: u64,
}

/// All requests of a life.
#[derive(Default)]
pub struct Traffic {
    flights: BTreeMap<u64, Flight>,
    next_tag: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests answered with an error.
    pub failed: u64,
    /// What reads saw: sector and value.
    pub seen: Vec<(u64, Value)>,
    /// Keep what reads see.
    pub keep_seen: bool,
    /// How requests ended.
    pub outcomes: BTreeMap<u64, Outcome>,
    /// Lines for a story, when one is told.
    pub told: Option<Vec<String>>,
}

impl Wish {
    /// A request without modifiers.
    #[must_use]
    pub fn plain(operation: Operation, first: u64, count: u64) -> Self {
        Self { operation, flags: Flags::default(), first, count, value: 0 }
    }

    /// A write.
    #[must_use]
    pub fn write(first: u64, count: u64, value: Value, fua: bool) -> Self {
        let flags = Flags { fua, ..Flags::default() };
        Self { operation: Operation::Write, flags, first, count, value }
    }

    /// A FLUSH.
    #[must_use]
    pub fn flush() -> Self {
        Self::plain(Operation::Flush, 0, 0)
    }

    fn open(&self) -> Open {
        let effect = match self.operation {
            Operation::Write => Effect::Set(self.value),
            Operation::WriteZeroes => Effect::Set(0),
            Operation::Discard => Effect::MayZero,
            _ => Effect::None,
        };
        let flushes = self.operation == Operation::Flush || self.flags.preflush;
        let (first, count) = (self.first, self.count);
        Open { first, count, effect, fua: self.flags.fua, flushes, issued: 0 }
    }
}

impl Traffic {
    /// Requests in flight, given to a front end but not answered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// When the oldest request in flight was made.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.flights.values().map(|f| f.since).min()
    }

    /// What is in flight, for a story.
    pub fn wishes(&self) -> impl Iterator<Item = &Wish> {
        self.flights.values().map(|f| &f.wish)
    }

    /// Gives a request to a queue. Returns its tag.
    pub fn give(&mut self, life: &mut Life, lane: usize, wish: Wish, now: u64) -> u64 {
        self.next_tag += 1;
        let tag = self.next_tag;
        let len = wish.count as usize * SECTOR;
        let moves = match wish.operation {
            Operation::Read | Operation::Write => len,
            Operation::Extents => 4096,
            _ => 0,
        };
        let mut memory = (moves > 0).then(|| AlignedBuf::new(moves).ok()).flatten();
        let mut buffer = Buffer::NONE;
        if let Some(memory) = &mut memory {
            if wish.operation == Operation::Write {
                for (index, out) in memory.chunks_exact_mut(SECTOR).enumerate() {
                    stamp::fill(wish.value, wish.first + index as u64, out);
                }
            }
            // SAFETY: the memory is kept in `flights` until the request is answered; after a crash
            // or a kill it lives as long as the `Traffic`, which its owner drops after the `Life`.
            buffer = unsafe { Buffer::new(memory.as_mut_ptr(), moves) };
        }
        let request = Request {
            tag,
            operation: wish.operation,
            flags: wish.flags,
            offset: wish.first * SECTOR as u64,
            len: len as u64,
            buffer,
        };
        self.flights.insert(tag, Flight { wish, buffer: memory, since: now });
        life.give(lane, request);
        tag
    }

    /// Tells the model what happened at a queue's front end.
    ///
    /// # Errors
    /// A read saw what it must not see, or an answer is not one.
    pub fn settle(
        &mut self,
        life: &mut Life,
        lane: usize,
        model: &mut Model,
    ) -> Result<(), String> {
        for event in life.front(lane).events() {
            match event {
                Event::Received(tag) => {
                    self.tell(|| format!("queue {lane} takes {tag}"));
                    if let Some(flight) = self.flights.get(&tag) {
                        model.issue(tag, flight.wish.open());
                    }
                }
                Event::Answered(tag, outcome) => {
                    self.tell(|| format!("queue {lane} answers {tag}: {outcome:?}"));
                    self.answered(tag, outcome, model)?;
                }
            }
        }
        match life.front(lane).strange() {
            [] => Ok(()),
            [tag, ..] => Err(format!("request {tag} was answered twice")),
        }
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(line());
        }
    }

    fn answered(&mut self, tag: u64, outcome: Outcome, model: &mut Model) -> Result<(), String> {
        let Some(flight) = self.flights.remove(&tag) else { return Ok(()) };
        self.answered += 1;
        self.outcomes.insert(tag, outcome);
        self.failed += u64::from(outcome.is_err());
        let Some((open, _)) = model.end(tag, outcome.is_ok()) else { return Ok(()) };
        if let Err(errno) = outcome
            && refused(errno)
        {
            return Err(format!("{:?} was refused with {errno}", flight.wish));
        }
        if flight.wish.operation != Operation::Read || outcome.is_err() {
            return Ok(());
        }
        let bytes = flight.buffer.as_deref().unwrap_or_default();
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = open.first + index as u64;
            let value = match stamp::parse(sector, at) {
                Found::Value(value) => value,
                other => return Err(format!("sector {at} reads as {other:?}")),
            };
            model.saw(at, &open, value).map_err(|wrong| {
                format!("sector {at} reads as {}, allowed {:?}", wrong.found, wrong.allowed)
            })?;
            if self.keep_seen {
                self.seen.push((at, value));
            }
        }
        Ok(())
    }
}
