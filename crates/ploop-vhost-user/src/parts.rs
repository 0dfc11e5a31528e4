//! A request in pieces the engine takes. Memory of the guest that is aligned and not too scattered
//! is used as it is; anything else goes through memory of ours, one copy.

use crate::chain::Parsed;
use crate::memory::Piece;
use ploop_engine::arena::{Arena, Block};
use ploop_engine::{Buffer, Errno, Flags, Limits, Operation, Request};

/// Most of a request that is copied at a time.
const CHUNK: usize = 1 << 20;
/// Pieces at least this long, on average, are worth an operation each.
const PIECE: u64 = 64 << 10;

/// A request of a guest while it is served.
#[derive(Default)]
pub(crate) struct Open {
    pub parsed: Parsed,
    /// Where its ring is, and its head there.
    pub slot: usize,
    pub head: u16,
    pub fua: bool,
    /// Parts in the engine.
    pub running: u32,
    pub error: Option<Errno>,
    /// Bytes or ranges handed to the engine so far, of so many.
    given: u64,
    total: u64,
    straight: bool,
}

/// A part in the engine.
#[derive(Default)]
pub(crate) struct Part {
    pub open: usize,
    /// Ours, when the guest's memory could not be used.
    block: Option<Block>,
    /// Where its data is in that of the request.
    from: u64,
    len: usize,
}

/// What comes next of a request.
pub(crate) enum Next {
    Part(Part, Request),
    /// There is no memory now.
    Wait,
}

impl Open {
    /// Begins with what was read from its chain.
    ///
    /// # Errors
    /// The data is not whole blocks.
    pub fn begin(&mut self, limits: &Limits) -> Result<(), Errno> {
        (self.running, self.error, self.given) = (0, None, 0);
        let block = u64::from(limits.block);
        match self.parsed.operation {
            Some(Operation::Read | Operation::Write) => {
                self.total = self.parsed.len();
                let align = limits.buffer_align as usize;
                let fits = |p: &Piece| {
                    p.ptr.as_ptr().addr().is_multiple_of(align)
                        && (p.len as u64).is_multiple_of(block)
                };
                let pieces = &self.parsed.data;
                let few = pieces.len() <= 2 || self.total / pieces.len() as u64 >= PIECE;
                self.straight = few && pieces.iter().all(fits);
                let whole = self.total > 0 && self.total.is_multiple_of(block);
                if !whole || !self.parsed.offset.is_multiple_of(block) {
                    return Err(Errno::INVAL);
                }
            }
            Some(Operation::Flush) => self.total = 1,
            Some(_) => self.total = self.parsed.ranges.len() as u64,
            None => self.total = 0,
        }
        Ok(())
    }

    /// Nothing more of it goes to the engine.
    pub fn is_given(&self) -> bool {
        self.given == self.total || self.error.is_some() || self.parsed.operation.is_none()
    }

    /// Nothing of it is in the engine, and nothing will be.
    pub fn is_done(&self) -> bool {
        self.running == 0 && self.is_given()
    }

    /// Bytes that the guest may find in its memory now, the status included.
    pub fn written(&self) -> u32 {
        let data = self.parsed.operation == Some(Operation::Read) && self.error.is_none();
        let data = if data { self.total } else { 0 };
        u32::try_from(data + 1).unwrap_or(u32::MAX)
    }

    /// The next part for the engine, of one that is not given yet.
    pub fn next(&mut self, open: usize, limits: &Limits, arena: &mut Arena) -> Next {
        let operation = self.parsed.operation.unwrap_or(Operation::Flush);
        let flags = Flags { fua: self.fua, ..Flags::default() };
        let mut request =
            Request { tag: 0, operation, flags, offset: 0, len: 0, buffer: Buffer::NONE };
        let mut part = Part { open, from: self.given, ..Part::default() };
        match operation {
            Operation::Read | Operation::Write => {
                let placed = match self.straight {
                    true => Some(self.straight(limits)),
                    false => self.copied(limits, arena, &mut part),
                };
                let Some(buffer) = placed else { return Next::Wait };
                part.len = buffer.len();
                request.flags.fua &= operation == Operation::Write;
                request.offset = self.parsed.offset.saturating_add(self.given);
                (request.len, request.buffer) = (buffer.len() as u64, buffer);
                self.given += buffer.len() as u64;
            }
            Operation::Flush => {
                request.flags.fua = false;
                self.given = 1;
            }
            _ => {
                let range = self.parsed.ranges[self.given as usize];
                request.flags = Flags { no_unmap: range.no_unmap, ..flags };
                request.flags.fua &= operation == Operation::WriteZeroes;
                (request.offset, request.len) = (range.offset, range.len);
                self.given += 1;
            }
        }
        self.running += 1;
        Next::Part(part, request)
    }

    /// The guest's own memory, as far as it is in one piece.
    fn straight(&self, limits: &Limits) -> Buffer {
        let mut from = self.given;
        for piece in &self.parsed.data {
            if from < piece.len as u64 {
                let from = from as usize;
                let len = (piece.len - from).min(limits.max_transfer as usize);
                // SAFETY: the guest's memory stays mapped until its ring has been stopped, which
                // waits for this request; what the guest does to it meanwhile harms only its data.
                return unsafe { Buffer::new(piece.ptr.as_ptr().add(from), len) };
            }
            from -= piece.len as u64;
        }
        Buffer::NONE
    }

    /// Memory of ours, filled for a write. `None`: there is none now.
    fn copied(&self, limits: &Limits, arena: &mut Arena, part: &mut Part) -> Option<Buffer> {
        let most = CHUNK.min(limits.max_transfer as usize);
        let len = usize::try_from(self.total - self.given).unwrap_or(most).min(most);
        let block = arena.alloc(len)?;
        if self.parsed.operation == Some(Operation::Write) {
            let bytes = arena.bytes_mut(&block, 0, len);
            // SAFETY: pieces are the guest's memory, never the arena.
            across(&self.parsed.data, self.given, len, |ptr, at, len| unsafe {
                ptr.copy_to(bytes[at..].as_mut_ptr(), len);
            });
        }
        let buffer = arena.buffer(&block, 0, len);
        part.block = Some(block);
        Some(buffer)
    }

    /// A part has come back from the engine.
    pub fn came_back(&mut self, part: Part, outcome: Result<u32, Errno>, arena: &mut Arena) {
        self.running -= 1;
        if let Err(errno) = outcome {
            self.error.get_or_insert(errno);
        }
        let Some(block) = part.block else { return };
        if outcome.is_ok() && self.parsed.operation == Some(Operation::Read) {
            let bytes = arena.bytes(&block, 0, part.len);
            // SAFETY: as above.
            across(&self.parsed.data, part.from, part.len, |ptr, at, len| unsafe {
                ptr.copy_from(bytes[at..].as_ptr(), len);
            });
        }
        arena.free(block);
    }
}

/// Visits `len` bytes from `from` on: where they are, and how far along.
pub(crate) fn across(
    pieces: &[Piece],
    mut from: u64,
    len: usize,
    mut visit: impl FnMut(*mut u8, usize, usize),
) {
    let mut done = 0;
    for piece in pieces {
        if from >= piece.len as u64 {
            from -= piece.len as u64;
            continue;
        }
        let step = (piece.len - from as usize).min(len - done);
        visit(piece.ptr.as_ptr().wrapping_add(from as usize), done, step);
        (from, done) = (0, done + step);
        if done == len {
            return;
        }
    }
}
