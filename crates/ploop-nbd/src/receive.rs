//! The way in: bytes of a socket to requests of the engine.

use crate::connection::{Moved, Payload, Phase, Piece, Waiting};
use crate::front::NbdFront;
use crate::inflight::{EXTENT_BYTES, Handle, Inflight, Part};
use crate::memory::Lease;
use crate::protocol::request::{Command, Header};
use ploop_engine::Intake;

/// Requests of one client in the engine, and replies it has not taken.
const PER_CLIENT: usize = 256;
/// Payloads of writes are cut at multiples of this, or of the cluster if that is longer.
const CUT: u64 = 1 << 20;

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
        if connection.draining || connection.rests() {
            return;
        }
        let full = connection.owed() >= PER_CLIENT;
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
                Phase::Payload(_) | Phase::Skip { .. } => return !connection.waits,
            }
            if connection.owed() >= PER_CLIENT {
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
        if header.command == Command::Write {
            return self.start_payload(handle, header);
        }
        let need = memory_for(&header);
        if need == 0 {
            self.start(handle, header, None);
            return Next::Go;
        }
        if let Some(lease) = self.memory.as_mut().and_then(|m| m.whole(handle.slot, need)) {
            self.start(handle, header, Some(lease));
            return Next::Go;
        }
        if let Some(connection) = self.connection(handle) {
            connection.phase = Phase::Waiting(Waiting { header, done: 0, asked: false });
        }
        self.serve(handle);
        Next::Pause
    }

    /// Takes a request in that has its memory, or needs none.
    fn start(&mut self, handle: Handle, header: Header, lease: Option<Lease>) {
        let Some(connection) = self.connection(handle) else { return };
        connection.in_flight += 1;
        let ticket = self.table.insert(Inflight::new(handle, header, lease));
        self.handing.push_back(ticket);
    }

    /// Takes a write in: nothing of it is there yet, but what was read behind its header.
    fn start_payload(&mut self, handle: Handle, header: Header) -> Next {
        let ticket = self.table.insert(Inflight::receiving(handle, header));
        let now = self.now;
        let Some(connection) = self.connection(handle) else { return Next::Pause };
        connection.in_flight += 1;
        connection.incoming.restart(now);
        connection.phase =
            Phase::Payload(Payload { ticket, header, left: header.len, piece: None });
        if connection.has_early() && !self.prepare(handle) {
            return Next::Pause;
        }
        Next::Go
    }

    /// Has memory for the next piece of a payload, and moves there what was read behind the
    /// header. `false` when the client must wait for memory.
    fn prepare(&mut self, handle: Handle) -> bool {
        let cut = CUT.max(self.limits.cluster);
        let Some((connection, memory)) = self.parts(handle) else { return false };
        let Phase::Payload(payload) = &mut connection.phase else { return true };
        if payload.piece.is_some() {
            return true;
        }
        let at = payload.header.offset + u64::from(payload.header.len - payload.left);
        let until = u64::from(payload.left).min(cut - at % cut) as usize;
        let Some((lease, len)) = memory.piece(handle.slot, until) else {
            connection.waits = true;
            self.waiters.push_back(handle);
            return false;
        };
        let mut piece = Piece { lease, got: 0, len };
        let early = connection.early(len);
        piece.got = early.len();
        memory.bytes_mut(&piece.lease, 0, piece.got).copy_from_slice(early);
        let copied = piece.got as u64;
        if let Phase::Payload(payload) = &mut connection.phase {
            payload.piece = Some(piece);
        }
        self.copied += copied;
        self.end_piece(handle);
        true
    }

    /// Hands in a piece of a payload when it is whole; with the last one the write is.
    fn end_piece(&mut self, handle: Handle) {
        let Some(connection) = self.connection(handle) else { return };
        let Phase::Payload(payload) = &mut connection.phase else { return };
        let Some(piece) = payload.piece.take_if(|piece| piece.got == piece.len) else { return };
        let whole = piece.len == payload.header.len as usize;
        let len = piece.len as u32;
        let offset = payload.header.offset + u64::from(payload.header.len - payload.left);
        payload.left -= len;
        let (ticket, header, last) = (payload.ticket, payload.header, payload.left == 0);
        if last {
            connection.phase = Phase::Header;
        }
        let Some(write) = self.table.get_mut(ticket) else { return };
        if whole {
            write.received_whole(piece.lease);
            return self.handing.push_back(ticket);
        }
        write.received_part(last);
        let header = Header { offset, len, ..header };
        let part = Inflight::part(handle, header, piece.lease, Part::OfWrite(ticket));
        let part = self.table.insert(part);
        self.handing.push_back(part);
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
        if !self.prepare(handle) {
            return false;
        }
        let now = self.now;
        let mut waste = std::mem::take(&mut self.waste);
        let Some((connection, memory)) = self.parts(handle) else {
            self.waste = waste;
            return false;
        };
        let moved = match std::mem::replace(&mut connection.phase, Phase::Header) {
            Phase::Header => connection.receive_headers(),
            Phase::Payload(mut payload) => {
                let moved = match &mut payload.piece {
                    None => Moved::Full,
                    Some(piece) => {
                        let rest = memory.bytes_mut(&piece.lease, piece.got, piece.len);
                        let last = piece.len == payload.left as usize;
                        let (moved, more) = connection.receive_payload(rest, last, now);
                        piece.got += more;
                        moved
                    }
                };
                // Memory is for those who send.
                if let Some(piece) = payload.piece.take_if(|piece| piece.got == 0) {
                    memory.free(piece.lease);
                }
                connection.phase = Phase::Payload(payload);
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
                self.end_piece(handle);
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

    /// Goes on with those that waited for memory, when some came back.
    pub(crate) fn serve_waiters(&mut self) {
        let freed = self.memory.as_mut().is_some_and(|memory| std::mem::take(&mut memory.freed));
        if !freed {
            return;
        }
        for _ in 0..self.waiters.len() {
            let Some(handle) = self.waiters.pop_front() else { return };
            let Some(connection) = self.connection(handle) else { continue };
            connection.waits = false;
            if matches!(connection.phase, Phase::Waiting(_)) {
                self.serve(handle);
            } else {
                self.enqueue(handle);
            }
        }
    }

    /// Goes on with a request that waits, with as much of a read as there is memory for.
    pub(crate) fn serve(&mut self, handle: Handle) {
        let Some((connection, memory)) = self.parts(handle) else { return };
        let Phase::Waiting(waiting) = &mut connection.phase else { return };
        if waiting.asked || connection.waits {
            return;
        }
        let Waiting { header, done, .. } = *waiting;
        let need = memory_for(&header) - done as usize;
        let got = if header.command == Command::Read {
            memory.piece(handle.slot, need)
        } else {
            memory.whole(handle.slot, need).map(|lease| (lease, need))
        };
        let Some((lease, len)) = got else {
            connection.waits = true;
            return self.waiters.push_back(handle);
        };
        if len == memory_for(&header) {
            connection.phase = Phase::Header;
            connection.readable = true;
            self.start(handle, header, Some(lease));
            return self.enqueue(handle);
        }
        waiting.asked = true;
        connection.in_flight += 1;
        let offset = header.offset + u64::from(done);
        let header = Header { offset, len: len as u32, ..header };
        let part = Inflight::part(handle, header, lease, Part::OfRead);
        let ticket = self.table.insert(part);
        self.handing.push_back(ticket);
    }

    /// Hands requests to the engine while it has room.
    pub(crate) fn hand_in(&mut self, intake: &mut dyn Intake) {
        while intake.room() > 0 {
            let Some(ticket) = self.handing.front().copied() else { return };
            let limits = &self.limits;
            let memory = self.memory.as_ref();
            let part = self
                .table
                .get_mut(ticket)
                .zip(memory)
                .and_then(|(request, memory)| request.next(ticket, limits, memory));
            match part {
                Some(request) => intake.push(request),
                None => {
                    self.handing.pop_front();
                }
            }
        }
    }
}

/// Bytes of memory a request needs before it starts.
fn memory_for(header: &Header) -> usize {
    match header.command {
        Command::Read => header.len as usize,
        Command::BlockStatus => EXTENT_BYTES,
        _ => 0,
    }
}
