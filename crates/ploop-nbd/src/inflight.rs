//! Requests between a client's header and its reply, and the cut into what the engine takes.

use crate::memory::{Lease, Memory};
use crate::protocol::request::{Command, CommandFlags, Header};
use ploop_engine::{Buffer, Errno, Flags, Limits, Operation, Outcome, Request};

/// Which part of a client's request this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Whole,
    /// A piece of this write.
    OfWrite(Ticket),
    /// A piece of the read its client waits for.
    OfRead,
}

/// One client request on its way, or a piece of one.
pub(crate) struct Inflight {
    /// Whose it is; the connection may be gone.
    pub(crate) owner: Handle,
    pub(crate) part: Part,
    /// As it came; of a piece with its own range.
    pub(crate) header: Header,
    /// Its memory, kept until every part completed.
    pub(crate) lease: Option<Lease>,
    /// Bytes handed to the engine so far.
    handed: u64,
    /// Everything is handed in (a flush has no bytes, hence the flag).
    all_handed: bool,
    /// Parts in the engine.
    open: u32,
    /// The first error of a part.
    pub(crate) error: Option<Errno>,
    /// Bytes of extent records.
    pub(crate) filled: u32,
}

impl Inflight {
    pub(crate) fn new(owner: Handle, header: Header, lease: Option<Lease>) -> Self {
        let (handed, all_handed, open, error, filled) = (0, false, 0, None, 0);
        let part = Part::Whole;
        Self { owner, part, header, lease, handed, all_handed, open, error, filled }
    }

    /// A piece of a longer request; the header has its range.
    pub(crate) fn part(owner: Handle, header: Header, lease: Lease, part: Part) -> Self {
        Self { part, ..Self::new(owner, header, Some(lease)) }
    }

    /// A write whose payload is to come: receiving it counts as a part that is under way.
    pub(crate) fn receiving(owner: Handle, header: Header) -> Self {
        Self { open: 1, ..Self::new(owner, header, None) }
    }

    /// The payload of a write came in one piece: as any other request from here on.
    pub(crate) fn received_whole(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.open = 0;
    }

    /// A piece of the payload came, and goes to the engine by itself.
    pub(crate) fn received_part(&mut self, last: bool) {
        self.open += u32::from(!last);
        self.all_handed = last;
    }

    /// The next part for the engine; `None` when all were handed in.
    pub(crate) fn next(
        &mut self,
        ticket: Ticket,
        limits: &Limits,
        memory: &Memory,
    ) -> Option<Request> {
        if self.all_handed {
            return None;
        }
        let (operation, longest) = match self.header.command {
            Command::Read => (Operation::Read, longest_transfer(limits)),
            Command::Write => (Operation::Write, longest_transfer(limits)),
            Command::Trim => (Operation::Discard, longest_zero(limits)),
            Command::WriteZeroes => (Operation::WriteZeroes, longest_zero(limits)),
            Command::BlockStatus => (Operation::Extents, u64::MAX),
            _ => (Operation::Flush, u64::MAX),
        };
        let left = u64::from(self.header.len) - self.handed;
        let len = left.min(longest);
        let buffer = match (&self.lease, operation) {
            (Some(lease), Operation::Extents) => memory.buffer(lease, 0, EXTENT_BYTES),
            (Some(lease), _) => {
                memory.buffer(lease, self.handed as usize, (self.handed + len) as usize)
            }
            (None, _) => Buffer::NONE,
        };
        let request = Request {
            tag: ticket.tag(),
            operation,
            flags: self.flags(operation),
            offset: self.header.offset + self.handed,
            len,
            buffer,
        };
        self.handed += len;
        self.all_handed = self.handed == u64::from(self.header.len);
        self.open += 1;
        Some(request)
    }

    fn flags(&self, operation: Operation) -> Flags {
        let asked = self.header.flags;
        let writes =
            matches!(operation, Operation::Write | Operation::Discard | Operation::WriteZeroes);
        Flags {
            fua: writes && asked.has(CommandFlags::FUA),
            preflush: false,
            no_unmap: asked.has(CommandFlags::NO_HOLE),
            fast_zero: asked.has(CommandFlags::FAST_ZERO),
        }
    }

    /// A part ended; `true` when it was the last.
    pub(crate) fn part_done(&mut self, outcome: Outcome) -> bool {
        self.open = self.open.saturating_sub(1);
        match outcome {
            Ok(filled) => self.filled = filled,
            Err(errno) => {
                self.error.get_or_insert(errno);
                self.all_handed = true;
            }
        }
        self.open == 0 && self.all_handed
    }
}

/// Memory for the extents of one block status.
pub(crate) const EXTENT_BYTES: usize = 16 << 10;

/// The longest read or write of the engine, cut so that the parts' buffers stay aligned.
fn longest_transfer(limits: &Limits) -> u64 {
    let align = u64::from(limits.block.max(limits.buffer_align).max(1));
    let max = u64::from(limits.max_transfer);
    (max - max % align).max(align)
}

fn longest_zero(limits: &Limits) -> u64 {
    let block = u64::from(limits.block.max(1));
    (limits.max_zero - limits.max_zero % block).max(block)
}

/// Names a connection on its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle {
    pub(crate) slot: u16,
    pub(crate) generation: u16,
}

/// Names a request: its place in the table, and a number that tells it from those that were
/// there before. It is the engine's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    slot: u32,
    serial: u32,
}

impl Ticket {
    pub(crate) fn tag(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.slot)
    }

    pub(crate) fn from_tag(tag: u64) -> Self {
        Self { slot: tag as u32, serial: (tag >> 32) as u32 }
    }
}

struct Entry {
    serial: u32,
    request: Option<Inflight>,
}

/// The table of requests.
#[derive(Default)]
pub(crate) struct Table {
    slots: Vec<Entry>,
    free: Vec<u32>,
}

impl Table {
    pub(crate) fn insert(&mut self, request: Inflight) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Entry { serial: 0, request: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.serial = entry.serial.wrapping_add(1);
        entry.request = Some(request);
        Ticket { slot, serial: entry.serial }
    }

    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Inflight> {
        let entry = self.slots.get_mut(ticket.slot as usize)?;
        if entry.serial == ticket.serial { entry.request.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Inflight> {
        self.get_mut(ticket)?;
        self.free.push(ticket.slot);
        self.slots[ticket.slot as usize].request.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        size: 1 << 30,
        block: 512,
        physical_block: 4096,
        cluster: 1 << 20,
        buffer_align: 4096,
        max_transfer: 10_000,
        max_zero: 1000,
        read_only: false,
    };

    const TICKET: Ticket = Ticket { slot: 3, serial: 9 };

    fn parts(command: Command, flags: u16, len: u32) -> Vec<Request> {
        let mut memory = Memory::new(4 << 20, 4096).unwrap();
        memory.enter(0).unwrap();
        let header = Header { flags: CommandFlags(flags), command, cookie: 1, offset: 512, len };
        let lease = memory.whole(0, 1 << 20);
        let mut request = Inflight::new(Handle { slot: 0, generation: 0 }, header, lease);
        let mut out = Vec::new();
        while let Some(part) = request.next(TICKET, &LIMITS, &memory) {
            out.push(part);
        }
        for n in 1..out.len() {
            assert!(!request.part_done(Ok(0)), "part {n}");
        }
        assert!(request.part_done(Ok(0)));
        out
    }

    #[test]
    fn long_transfers_are_cut_at_aligned_places() {
        let parts = parts(Command::Write, CommandFlags::FUA, 20_480);
        let cut: Vec<_> = parts.iter().map(|p| (p.offset, p.len, p.buffer.len())).collect();
        assert_eq!(cut, [(512, 8192, 8192), (8704, 8192, 8192), (16_896, 4096, 4096)]);
        assert!(parts.iter().all(|p| p.flags.fua && p.buffer.ptr().addr() % 4096 == 0));
    }

    #[test]
    fn long_zeroes_are_cut_at_blocks() {
        let parts = parts(Command::WriteZeroes, CommandFlags::NO_HOLE, 1536);
        let cut: Vec<_> = parts.iter().map(|p| (p.offset, p.len)).collect();
        assert_eq!(cut, [(512, 512), (1024, 512), (1536, 512)]);
        assert!(parts.iter().all(|p| p.flags.no_unmap && !p.flags.fast_zero));
    }

    #[test]
    fn fua_means_nothing_on_a_read() {
        assert!(parts(Command::Read, CommandFlags::FUA, 512).iter().all(|p| !p.flags.fua));
    }

    #[test]
    fn a_flush_is_one_part() {
        let parts = parts(Command::Flush, 0, 0);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].operation, Operation::Flush);
    }

    #[test]
    fn an_error_stops_the_parts_that_follow() {
        let memory = Memory::new(1 << 20, 4096).unwrap();
        let header = Header {
            flags: CommandFlags(0),
            command: Command::Trim,
            cookie: 1,
            offset: 0,
            len: 4096,
        };
        let mut request = Inflight::new(Handle { slot: 0, generation: 0 }, header, None);
        assert!(request.next(TICKET, &LIMITS, &memory).is_some());
        assert!(request.part_done(Err(Errno::IO)));
        assert!(request.next(TICKET, &LIMITS, &memory).is_none());
        assert_eq!(request.error, Some(Errno::IO));
    }

    #[test]
    fn an_old_ticket_does_not_open_a_new_request() {
        let header = Header::parse(
            &Header {
                flags: CommandFlags(0),
                command: Command::Flush,
                cookie: 0,
                offset: 0,
                len: 0,
            }
            .to_bytes(),
        )
        .unwrap();
        let new = || Inflight::new(Handle { slot: 0, generation: 0 }, header, None);
        let mut table = Table::default();
        let first = table.insert(new());
        assert!(table.remove(first).is_some());
        let second = table.insert(new());
        assert_eq!(first.slot, second.slot);
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert_eq!(Ticket::from_tag(second.tag()), second);
        assert_eq!(table.len(), 1);
    }
}
