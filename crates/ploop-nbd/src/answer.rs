//! The way out: outcomes of the engine to replies on a socket.

use crate::block_status;
use crate::connection::{Body, Moved, Phase, Reply, Waiting};
use crate::front::NbdFront;
use crate::inflight::{Handle, Inflight, Part, Ticket};
use crate::memory::Lease;
use crate::protocol::NbdError;
use crate::protocol::reply::{self, Head};
use crate::protocol::request::{Command, CommandFlags, Header};
use ploop_engine::Errno;

/// Calls of `sendmsg` for one client in a row; a long reply must not hold up the others.
const SENDS: usize = 4;

impl NbdFront {
    /// Every part of a request completed.
    pub(crate) fn finish(&mut self, ticket: Ticket) {
        let Some(request) = self.table.remove(ticket) else { return };
        match request.part {
            Part::Whole => self.answer(request),
            Part::OfRead => self.answer_part(request),
            Part::OfWrite(write) => {
                self.free(request.lease);
                let outcome = request.error.map_or(Ok(0), Err);
                if self.table.get_mut(write).is_some_and(|write| write.part_done(outcome)) {
                    self.finish(write);
                }
            }
        }
    }

    fn free(&mut self, lease: Option<Lease>) {
        if let (Some(lease), Some(memory)) = (lease, self.memory.as_mut()) {
            memory.free(lease);
        }
    }

    fn answer(&mut self, request: Inflight) {
        let handle = request.owner;
        let Some((connection, memory)) = self.parts(handle) else {
            // The client is gone; only now may its memory be used again.
            return self.free(request.lease);
        };
        connection.in_flight -= 1;
        let structured = connection.agreed.structured;
        let Inflight { header, lease, error, filled, .. } = request;
        let (cookie, len) = (header.cookie, header.len);
        match (header.command, lease, error) {
            (Command::Read, Some(lease), None) => {
                let head = if structured {
                    Head::data(cookie, header.offset, len)
                } else {
                    Head::simple(cookie, None)
                };
                self.reply(handle, Reply { head, body: Body::Block(lease, len as usize) });
            }
            (Command::BlockStatus, Some(lease), None) => {
                let one = header.flags.has(CommandFlags::REQ_ONE);
                let extents =
                    block_status::extents(memory.bytes(&lease, 0, filled as usize), len, one);
                memory.free(lease);
                if extents.is_empty() {
                    return self.fail(handle, &header, NbdError::Io, "the device told no extent");
                }
                let (head, body) = reply::block_status(cookie, &extents);
                self.reply(handle, Reply { head, body: Body::Bytes(body) });
            }
            (_, lease, error) => {
                self.free(lease);
                match error {
                    None => self.succeed(handle, &header),
                    Some(errno) => self.fail_with(handle, &header, errno),
                }
            }
        }
    }

    /// Answers a piece of a long read, and goes on with the next. Where the protocol allows no
    /// pieces, all bytes follow one head, and no other reply comes between.
    fn answer_part(&mut self, request: Inflight) {
        let handle = request.owner;
        let Some(connection) = self.connection(handle) else { return self.free(request.lease) };
        connection.in_flight -= 1;
        let Phase::Waiting(waiting) = &mut connection.phase else {
            // It was refused meanwhile, since the server stops.
            self.free(request.lease);
            return self.close_if_done(handle);
        };
        let Waiting { header, done, .. } = *waiting;
        let len = request.header.len;
        (waiting.done, waiting.asked) = (done + len, false);
        let last = waiting.done == header.len;
        let chunks = connection.agreed.structured && !header.flags.has(CommandFlags::DF);
        let error = request.error;
        if last || error.is_some() {
            connection.phase = Phase::Header;
            connection.readable = true;
        }
        let lease = match (request.lease, error) {
            (Some(lease), None) => lease,
            (lease, error) => {
                self.free(lease);
                let errno = error.unwrap_or(Errno::IO);
                return self.fail_part(handle, &header, errno, done == 0 || chunks);
            }
        };
        let Some(connection) = self.connection(handle) else { return self.free(Some(lease)) };
        let head = match (chunks, done) {
            (true, _) => Head::part(header.cookie, request.header.offset, len, last),
            (false, 0) if connection.agreed.structured => {
                Head::data(header.cookie, header.offset, header.len)
            }
            (false, 0) => Head::simple(header.cookie, None),
            (false, _) => Head::EMPTY,
        };
        connection.streams = false;
        self.reply(handle, Reply { head, body: Body::Block(lease, len as usize) });
        if let Some(connection) = self.connection(handle) {
            connection.streams = !chunks && !last;
        }
        if !last {
            return self.serve(handle);
        }
        self.reply_later(handle);
        self.enqueue(handle);
    }

    /// Ends a long read with an error, when the client can still be told.
    fn fail_part(&mut self, handle: Handle, header: &Header, errno: Errno, told: bool) {
        if !told {
            return self.kill(handle, "a read failed when part of it was sent");
        }
        self.fail_with(handle, header, errno);
        self.enqueue(handle);
    }

    /// Queues the replies that a read in pieces held back.
    fn reply_later(&mut self, handle: Handle) {
        if let Some(connection) = self.connection(handle) {
            let later = std::mem::take(&mut connection.later);
            connection.out.extend(later);
        }
    }

    fn fail_with(&mut self, handle: Handle, header: &Header, errno: Errno) {
        let message = format!("{:?} failed: {errno}", header.command);
        self.fail(handle, header, NbdError::from_errno(errno), &message);
    }

    /// Answers a request that has no content.
    pub(crate) fn succeed(&mut self, handle: Handle, header: &Header) {
        let Some(connection) = self.connection(handle) else { return };
        // Simple replies stay legal for what has no payload, and are shorter; a read never has one.
        let head = if connection.agreed.structured && header.command == Command::Read {
            Head::none(header.cookie)
        } else {
            Head::simple(header.cookie, None)
        };
        self.reply(handle, Reply { head, body: Body::None });
    }

    /// Answers a request with an error.
    pub(crate) fn fail(&mut self, handle: Handle, header: &Header, error: NbdError, why: &str) {
        let Some(connection) = self.connection(handle) else { return };
        let reply = if connection.agreed.structured {
            let (head, body) = reply::error(header.cookie, error, None, why);
            Reply { head, body: Body::Bytes(body) }
        } else {
            Reply { head: Head::simple(header.cookie, Some(error)), body: Body::None }
        };
        self.reply(handle, reply);
    }

    /// Answers a request that came too late.
    pub(crate) fn refuse_stopped(&mut self, handle: Handle, header: &Header) {
        self.fail(handle, header, NbdError::Shutdown, "the server is stopping");
    }

    /// Sends what waits for one client, as far as its socket takes it.
    pub(crate) fn send(&mut self, handle: Handle) {
        let now = self.now;
        let Some((connection, memory)) = self.parts(handle) else { return };
        connection.dirty = false;
        for _ in 0..SENDS {
            if connection.blocked || connection.out.is_empty() {
                break;
            }
            match connection.send(memory, now) {
                Moved::Full => {}
                Moved::Partly | Moved::End => connection.blocked = true,
                Moved::Failed(errno) => {
                    tracing::debug!(peer = %connection.peer, %errno, "sending failed");
                    return self.kill(handle, "sending failed");
                }
            }
        }
        // Not done and not blocked: its turn is over; a watch fires at once and brings it back.
        connection.blocked |= !connection.out.is_empty();
        let blocked = connection.blocked;
        let resume = connection.readable;
        if blocked {
            self.to_arm.push(handle);
        }
        if resume {
            self.enqueue(handle);
        }
        self.close_if_done(handle);
    }
}
