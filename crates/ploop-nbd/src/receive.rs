//! The way in: bytes of a socket to requests of the engine.

use crate::connection::{Handle, Moved, Phase};
use crate::front::NbdFront;
use crate::inflight::{EXTENT_BYTES, Inflight};
use crate::protocol::request::{Command, Header};
use ploop_engine::Intake;
use ploop_engine::arena::Block;

/// Requests of one client in the engine, and replies it has not taken.
const PER_CLIENT: usize = 256;

/// What to do after a header was looked at.
enum Next {
    /// Look at the next one.
    Go,
    /// Leave this client for now.
    Pause,
}

impl NbdFront {
    /// One client's turn: at most one read of its socket, then everything that came with it.
    pub(crate) fn turn(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        connection.queued = false;
        if connection.draining {
            return;
        }
        if self.headers(handle) && self.receive(handle) {
            self.headers(handle);
        }
        self.settle(handle);
    }

    /// Decides who takes the client up next: the queue, or a watch.
    fn settle(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        if connection.draining || matches!(connection.phase, Phase::Waiting(_)) {
            return;
        }
        let full = connection.in_flight as usize + connection.out.len() >= PER_CLIENT;
        if !connection.readable {
            self.to_arm.push(handle);
        } else if !full {
            self.enqueue(handle);
        }
    }

    /// Handles the headers that are there; `true` when the socket may be read.
    fn headers(&mut self, handle: Handle) -> bool {
        loop {
            let Some(connection) = self.connection(handle) else { return false };
            if connection.draining {
                return false;
            }
            match connection.phase {
                Phase::Header => {}
                Phase::Waiting(_) => return false,
                Phase::Payload { .. } | Phase::Skip { .. } => return true,
            }
            if connection.in_flight as usize + connection.out.len() >= PER_CLIENT {
                // Until replies went out; `readable` stays, so that `resume` looks again.
                connection.readable = true;
                return false;
            }
            let header = match connection.next_header() {
                None => return true,
                Some(Ok(header)) => header,
                Some(Err(bad)) => {
                    tracing::warn!(peer = %connection.peer, magic = bad.0, "bad request magic");
                    self.kill(handle, "bad request magic");
                    return false;
                }
            };
            match self.header(handle, header) {
                Next::Go => {}
                Next::Pause => return false,
            }
        }
    }

    /// Decides about one request.
    fn header(&mut self, handle: Handle, header: Header) -> Next {
        let Some(connection) = self.connection(handle) else { return Next::Pause };
        if header.command == Command::Disconnect {
            self.drain(handle);
            return Next::Pause;
        }
        if let Err((error, why)) = header.check(&connection.agreed) {
            if header.payload() > 0 {
                let left = u64::from(header.payload());
                let early = connection.early(header.payload() as usize).len() as u64;
                let left = left - early;
                connection.phase = Phase::Skip { left, header, error, why };
                self.end_skip(handle);
            } else {
                self.fail(handle, &header, error, why);
            }
            return Next::Go;
        }
        // CACHE: nothing between us and the file would be warmer afterwards, so it is done.
        let empty = header.len == 0 && header.command != Command::Flush;
        if empty || header.command == Command::Cache {
            self.succeed(handle, &header);
            return Next::Go;
        }
        let need = memory_for(&header);
        if need == 0 {
            self.start(handle, header, None);
            return Next::Go;
        }
        if self.arena.as_ref().is_none_or(|arena| need > arena.capacity()) {
            // Cannot be: the server maps at least the longest payload. Waiting would be for ever.
            self.kill(handle, "a request larger than the arena");
            return Next::Pause;
        }
        // Whoever waits for memory comes first, or a long request would wait for ever.
        let block = if self.waiters.is_empty() { self.alloc(need) } else { None };
        if block.is_some() {
            self.start(handle, header, block);
            return Next::Go;
        }
        if let Some(connection) = self.connection(handle) {
            connection.phase = Phase::Waiting(header);
        }
        self.waiters.push_back(handle);
        Next::Pause
    }

    fn alloc(&mut self, need: usize) -> Option<Block> {
        self.arena.as_mut()?.alloc(need)
    }

    /// Takes a request in: to the engine at once, or after its payload.
    fn start(&mut self, handle: Handle, header: Header, block: Option<Block>) {
        let Some((connection, arena)) = self.parts(handle) else { return };
        connection.in_flight += 1;
        let block = match block {
            Some(block) if header.command == Command::Write => block,
            block => {
                let ticket = self.table.insert(Inflight::new(handle, header, block));
                return self.handing.push_back(ticket);
            }
        };
        let len = header.len as usize;
        let early = connection.early(len);
        let got = early.len();
        arena.bytes_mut(&block, 0, got).copy_from_slice(early);
        self.copied += got as u64;
        let ticket = self.table.insert(Inflight::new(handle, header, None));
        let now = self.now;
        if let Some(connection) = self.connection(handle) {
            connection.incoming.restart(now);
            connection.phase = Phase::Payload { ticket, block, got, len };
        }
        self.end_payload(handle);
    }

    /// Hands a write in when its payload is whole.
    fn end_payload(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        match std::mem::replace(&mut connection.phase, Phase::Header) {
            Phase::Payload { ticket, block, got, len } if got == len => {
                if let Some(request) = self.table.get_mut(ticket) {
                    request.block = Some(block);
                    self.handing.push_back(ticket);
                }
            }
            other => connection.phase = other,
        }
    }

    /// Answers a refused write when its payload is past.
    fn end_skip(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        if let Phase::Skip { left: 0, header, error, why } = connection.phase {
            connection.phase = Phase::Header;
            self.fail(handle, &header, error, why);
        }
    }

    /// Reads the socket once; `true` when headers may have come.
    fn receive(&mut self, handle: Handle) -> bool {
        let now = self.now;
        let mut waste = std::mem::take(&mut self.waste);
        let Some((connection, arena)) = self.parts(handle) else {
            self.waste = waste;
            return false;
        };
        let moved = match std::mem::replace(&mut connection.phase, Phase::Header) {
            Phase::Header => connection.receive_headers(),
            Phase::Payload { ticket, block, got, len } => {
                let rest = arena.bytes_mut(&block, got, len);
                let (moved, more) = connection.receive_payload(rest, now);
                connection.phase = Phase::Payload { ticket, block, got: got + more, len };
                moved
            }
            Phase::Skip { left, header, error, why } => {
                let room = waste.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let (moved, gone) = connection.receive_waste(&mut waste[..room]);
                let left = left - gone as u64;
                connection.phase = Phase::Skip { left, header, error, why };
                moved
            }
            waiting @ Phase::Waiting(_) => {
                connection.phase = waiting;
                Moved::Partly
            }
        };
        connection.readable = moved == Moved::Full;
        self.waste = waste;
        match moved {
            Moved::Full | Moved::Partly => {
                self.end_payload(handle);
                self.end_skip(handle);
                true
            }
            Moved::End => {
                self.drain(handle);
                false
            }
            Moved::Failed(errno) => {
                tracing::debug!(%errno, "reading from an nbd client failed");
                self.kill(handle, "reading failed");
                false
            }
        }
    }

    /// Gives memory to those that waited for it, in their order.
    pub(crate) fn serve_waiters(&mut self) {
        while let Some(handle) = self.waiters.front().copied() {
            let waiting = self.connection(handle).and_then(|c| match c.phase {
                Phase::Waiting(header) => Some(header),
                _ => None,
            });
            if let Some(header) = waiting {
                let Some(block) = self.alloc(memory_for(&header)) else { return };
                if let Some(connection) = self.connection(handle) {
                    connection.phase = Phase::Header;
                    connection.readable = true;
                }
                self.start(handle, header, Some(block));
                self.enqueue(handle);
            }
            self.waiters.pop_front();
        }
    }

    /// Hands requests to the engine while it has room.
    pub(crate) fn hand_in(&mut self, intake: &mut dyn Intake) {
        while intake.room() > 0 {
            let Some(ticket) = self.handing.front().copied() else { return };
            let limits = &self.limits;
            let arena = self.arena.as_ref();
            let part = self
                .table
                .get_mut(ticket)
                .zip(arena)
                .and_then(|(request, arena)| request.next(ticket, limits, arena));
            match part {
                Some(request) => intake.push(request),
                None => {
                    self.handing.pop_front();
                }
            }
        }
    }
}

/// Bytes of memory a request needs.
fn memory_for(header: &Header) -> usize {
    match header.command {
        Command::Read | Command::Write => header.len as usize,
        Command::BlockStatus => EXTENT_BYTES,
        _ => 0,
    }
}
