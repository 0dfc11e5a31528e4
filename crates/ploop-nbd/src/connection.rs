//! One client's socket: where reading stands, and the replies that wait to be sent.
//!
//! How bytes come in without a copy of payloads: while only requests without payload are seen,
//! one `recv` takes many headers; once a write was seen, exactly one header is asked for, then the
//! payload goes by one `recvmsg` into its own aligned block, together with the next header. Only
//! when a client turns from reading to writing may the first bytes of one payload (less than 4 KiB)
//! lie in the header buffer and be moved; [`crate::NbdFront::copied_bytes`] counts them.

use crate::inflight::Ticket;
use crate::memory::{Lease, Memory};
use crate::protocol::NbdError;
use crate::protocol::reply::Head;
use crate::protocol::request::{Agreed, BadMagic, HEADER, Header};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of headers that are read at once.
const INBUF: usize = 4096;
/// Requests without payload before a client counts as one that only reads.
const CALM: u32 = 32;
/// Pieces in one `sendmsg`.
const GATHER: usize = 64;
/// A connection moves when this much went over the socket.
const PROGRESS: usize = 64 << 10;

/// Counts a client while it lives.
pub(crate) struct Live(Arc<AtomicUsize>);

impl Live {
    /// One more, unless there are `max`.
    pub(crate) fn enter(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= max {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client after its handshake.
pub(crate) struct Accepted {
    pub(crate) fd: OwnedFd,
    pub(crate) agreed: Agreed,
    pub(crate) peer: String,
    pub(crate) live: Live,
}

/// What comes next on the socket.
pub(crate) enum Phase {
    /// A header.
    Header,
    /// The payload of a write.
    Payload(Payload),
    /// A payload nobody wants, then the error.
    Skip { left: u64, header: Header, error: NbdError, why: &'static str },
    /// Nothing: this request waits for memory, or is a read that is done piece by piece.
    Waiting(Waiting),
}

/// The payload of a write, of which `left` bytes are still to come. It goes to the engine piece by
/// piece; memory for a piece is there only when some of it is.
pub(crate) struct Payload {
    pub(crate) ticket: Ticket,
    pub(crate) header: Header,
    pub(crate) left: u32,
    pub(crate) piece: Option<Piece>,
}

/// The piece of a payload that is being received.
pub(crate) struct Piece {
    pub(crate) lease: Lease,
    pub(crate) got: usize,
    pub(crate) len: usize,
}

/// A request that waits; `done` bytes of a read were read.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) header: Header,
    pub(crate) done: u32,
    /// A piece is in the engine.
    pub(crate) asked: bool,
}

/// What follows a reply's head.
pub(crate) enum Body {
    None,
    Bytes(Vec<u8>),
    Block(Lease, usize),
}

/// A reply on its way out.
pub(crate) struct Reply {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

impl Reply {
    fn len(&self) -> usize {
        let body = match &self.body {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len(),
            Body::Block(_, len) => *len,
        };
        self.head.bytes().len() + body
    }
}

/// How a transfer on the socket ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    /// All that was asked for: there may be more.
    Full,
    /// Less: the socket has no more for now.
    Partly,
    /// The client closed its side.
    End,
    /// The socket failed.
    Failed(Errno),
}

/// A client in the transmission phase.
pub(crate) struct Connection {
    pub(crate) fd: OwnedFd,
    pub(crate) generation: u16,
    pub(crate) agreed: Agreed,
    pub(crate) peer: String,
    _live: Live,
    inbuf: Box<[u8; INBUF]>,
    start: usize,
    end: usize,
    /// Requests without payload since the last write.
    calm: u32,
    pub(crate) phase: Phase,
    pub(crate) out: VecDeque<Reply>,
    /// Replies behind a read whose data follows its head piece by piece.
    pub(crate) later: VecDeque<Reply>,
    /// Such a read has begun.
    pub(crate) streams: bool,
    /// Bytes of the first reply that are gone.
    sent: usize,
    /// Requests without a reply in `out`.
    pub(crate) in_flight: u32,
    /// No more requests are read; closes when the last reply is out.
    pub(crate) draining: bool,
    /// The socket may have something.
    pub(crate) readable: bool,
    /// In the queue of those who wait for memory.
    pub(crate) waits: bool,
    /// In the queue of those to be read.
    pub(crate) queued: bool,
    /// In the list of those to be sent to.
    pub(crate) dirty: bool,
    /// The socket takes no more for now.
    pub(crate) blocked: bool,
    pub(crate) read_watch: bool,
    pub(crate) write_watch: bool,
    /// How the client sends the payload that is awaited.
    pub(crate) incoming: Progress,
    /// How the client takes its replies.
    pub(crate) outgoing: Progress,
}

/// Whether one direction of a client moves.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    at: u64,
    moved: usize,
}

impl Progress {
    /// Something new is awaited, or something awaited is done.
    pub(crate) fn restart(&mut self, now: u64) {
        *self = Self { at: now, moved: 0 };
    }

    fn count(&mut self, bytes: usize, now: u64) {
        self.moved += bytes;
        if self.moved >= PROGRESS {
            self.restart(now);
        }
    }
}

impl Connection {
    pub(crate) fn new(accepted: Accepted, generation: u16) -> Self {
        Self {
            fd: accepted.fd,
            generation,
            agreed: accepted.agreed,
            peer: accepted.peer,
            _live: accepted.live,
            inbuf: Box::new([0; INBUF]),
            start: 0,
            end: 0,
            calm: 0,
            phase: Phase::Header,
            out: VecDeque::new(),
            later: VecDeque::new(),
            streams: false,
            waits: false,
            sent: 0,
            in_flight: 0,
            draining: false,
            readable: true,
            queued: false,
            dirty: false,
            blocked: false,
            read_watch: false,
            write_watch: false,
            incoming: Progress::default(),
            outgoing: Progress::default(),
        }
    }

    /// The next whole header that was read.
    pub(crate) fn next_header(&mut self) -> Option<Result<Header, BadMagic>> {
        let bytes = self.inbuf[self.start..self.end].first_chunk::<HEADER>()?;
        let header = Header::parse(bytes);
        self.start += HEADER;
        if let Ok(header) = &header {
            self.calm = if header.payload() > 0 { 0 } else { self.calm.saturating_add(1) };
        }
        Some(header)
    }

    /// Not to be read from: it waits for memory, or for the rest of a read.
    pub(crate) fn rests(&self) -> bool {
        self.waits || matches!(self.phase, Phase::Waiting(_))
    }

    /// Requests in the engine and replies that are not out.
    pub(crate) fn owed(&self) -> usize {
        self.in_flight as usize + self.out.len() + self.later.len()
    }

    /// Whether bytes were read behind the last header.
    pub(crate) fn has_early(&self) -> bool {
        self.start < self.end
    }

    /// Takes up to `want` bytes that were read behind a header: the start of its payload.
    pub(crate) fn early(&mut self, want: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from.saturating_add(want));
        &self.inbuf[from..self.start]
    }

    /// Reads headers.
    pub(crate) fn receive_headers(&mut self) -> Moved {
        self.inbuf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // A client that writes: not one byte further than this header.
        let until = if self.calm < CALM { HEADER } else { INBUF };
        let want = until.saturating_sub(self.end).max(1);
        let buf = &mut self.inbuf[self.end..self.end + want];
        let result = recv(&self.fd, buf, RecvFlags::empty()).map(|(_, got)| got);
        let moved = outcome(result, want);
        self.end += result.unwrap_or(0);
        moved
    }

    /// Reads a piece of a payload, and the header behind the last one. Returns the bytes that
    /// are payload.
    pub(crate) fn receive_payload(
        &mut self,
        rest: &mut [u8],
        last: bool,
        now: u64,
    ) -> (Moved, usize) {
        // Whatever was read early has been taken: `early` came first.
        (self.start, self.end) = (0, 0);
        let behind = if last { HEADER } else { 0 };
        let (need, want) = (rest.len(), rest.len() + behind);
        let mut slices = [IoSliceMut::new(rest), IoSliceMut::new(&mut self.inbuf[..behind])];
        let mut control = RecvAncillaryBuffer::default();
        let result = recvmsg(&self.fd, &mut slices, &mut control, RecvFlags::empty());
        let result = result.map(|message| message.bytes);
        let got = result.unwrap_or(0);
        self.incoming.count(got, now);
        self.end = got.saturating_sub(need);
        (outcome(result, want), got.min(need))
    }

    /// Reads what nobody wants. Returns the bytes.
    pub(crate) fn receive_waste(&mut self, waste: &mut [u8]) -> (Moved, usize) {
        let result = recv(&self.fd, &mut *waste, RecvFlags::empty()).map(|(_, got)| got);
        (outcome(result, waste.len()), result.unwrap_or(0))
    }

    /// Sends what it can with one call; the blocks of replies that are out are free again.
    pub(crate) fn send(&mut self, memory: &mut Memory, now: u64) -> Moved {
        let mut slices = [IoSlice::new(&[]); GATHER];
        let (mut used, mut want, mut skip) = (0, 0, self.sent);
        for reply in &self.out {
            if used + 2 > GATHER {
                break;
            }
            let body = match &reply.body {
                Body::None => &[][..],
                Body::Bytes(bytes) => bytes,
                Body::Block(lease, len) => memory.bytes(lease, 0, *len),
            };
            for part in [reply.head.bytes(), body] {
                let cut = skip.min(part.len());
                skip -= cut;
                if cut < part.len() {
                    slices[used] = IoSlice::new(&part[cut..]);
                    used += 1;
                    want += part.len() - cut;
                }
            }
        }
        if want == 0 {
            return Moved::Full;
        }
        let mut control = SendAncillaryBuffer::default();
        let result = sendmsg(&self.fd, &slices[..used], &mut control, SendFlags::NOSIGNAL);
        let gone = result.unwrap_or(0);
        self.outgoing.count(gone, now);
        self.sent += gone;
        self.release_sent(memory, now);
        match outcome(result, want) {
            // Nothing gone is no end here.
            Moved::End => Moved::Partly,
            other => other,
        }
    }

    fn release_sent(&mut self, memory: &mut Memory, now: u64) {
        while let Some(first) = self.out.front() {
            let len = first.len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.outgoing.restart(now);
            if let Some(Reply { body: Body::Block(lease, _), .. }) = self.out.pop_front() {
                memory.free(lease);
            }
        }
    }

    /// Whether memory waits for this client, which has not moved since `limit`.
    pub(crate) fn stalls(&self, limit: u64) -> bool {
        let sends = matches!(self.phase, Phase::Payload(Payload { piece: Some(_), .. }));
        let mut bodies = self.out.iter().map(|reply| &reply.body);
        let takes = bodies.any(|body| matches!(body, Body::Block(..)));
        (sends && self.incoming.at < limit) || (takes && self.outgoing.at < limit)
    }
}

fn outcome(result: Result<usize, Errno>, want: usize) -> Moved {
    match result {
        Ok(0) => Moved::End,
        Ok(got) if got < want => Moved::Partly,
        Ok(_) => Moved::Full,
        Err(Errno::AGAIN) => Moved::Partly,
        // Try again at once: the next call tells.
        Err(Errno::INTR) => Moved::Full,
        Err(errno) => Moved::Failed(errno),
    }
}
