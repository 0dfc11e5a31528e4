//! The accepting thread: every listener and every handshake of a server, in one `poll` loop.
//!
//! Handshakes do not wait for each other, none lasts longer than its deadline, and there are
//! never more than [`MAX_HANDSHAKES`]: when all places are taken the oldest gives way.

use crate::connection::{Accepted, Live};
use crate::export::ExportInfo;
use crate::front::Inbox;
use crate::listen::{Listener, try_recv};
use crate::protocol::handshake::{Handshake, Offer, Status, Terms};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::time::Timespec;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Handshakes at one time.
pub(crate) const MAX_HANDSHAKES: usize = 64;
/// Answers a client may leave untaken before it is read again.
const MAX_UNSENT: usize = 16 << 10;
/// Pause after the system had no descriptor for a client.
const BREATHER: Duration = Duration::from_millis(100);

/// A listener with what is offered on it.
pub(crate) struct Port {
    pub(crate) listener: Listener,
    pub(crate) export: ExportInfo,
    pub(crate) offer: Offer,
    /// Bytes of the device now.
    pub(crate) size: Arc<AtomicU64>,
}

impl Port {
    /// What a client is offered now.
    fn offer(&self) -> Offer {
        Offer { size: self.size.load(Ordering::Relaxed), ..self.offer.clone() }
    }
}

/// A client that is not yet in the transmission phase.
struct Newcomer {
    fd: OwnedFd,
    peer: String,
    port: usize,
    live: Live,
    handshake: Handshake,
    out: Vec<u8>,
    deadline: Instant,
}

/// What the thread works with.
pub(crate) struct Acceptor {
    pub(crate) ports: Vec<Port>,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) max_connections: usize,
    pub(crate) timeout: Duration,
}

impl Acceptor {
    /// Runs until the wake descriptor is readable. The socket files go with `self`.
    pub(crate) fn run(self) {
        let mut newcomers: Vec<Newcomer> = Vec::new();
        let mut queue = 0;
        let mut rest_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            rest_until = rest_until.filter(|until| *until > now);
            newcomers.retain(|n| {
                let late = n.deadline <= now;
                if late {
                    tracing::warn!(peer = %n.peer, "an nbd handshake took too long");
                }
                !late
            });
            let next = newcomers.iter().map(|n| n.deadline).chain(rest_until).min();
            let timeout = next.map(|t| t.saturating_duration_since(now) + Duration::from_millis(1));
            let Some(events) = self.wait(&newcomers, rest_until.is_some(), timeout) else { return };
            let (on_ports, on_newcomers) = events.split_at(self.ports.len());
            let mut kept = Vec::with_capacity(newcomers.len());
            for (mut newcomer, event) in newcomers.into_iter().zip(on_newcomers) {
                let status = if event.is_empty() { None } else { self.talk(&mut newcomer) };
                match status {
                    None | Some(Status::Need(_)) => kept.push(newcomer),
                    Some(Status::Agreed(terms)) => self.pass_on(newcomer, terms, &mut queue),
                    Some(Status::Closed(why)) => {
                        tracing::debug!(peer = %newcomer.peer, why, "nbd handshake ended");
                    }
                }
            }
            newcomers = kept;
            for (port, event) in on_ports.iter().enumerate() {
                if !event.is_empty() && !self.accept(port, &mut newcomers) {
                    rest_until = Some(Instant::now() + BREATHER);
                }
            }
        }
    }

    /// Waits; `None` when the thread should end. The events of the ports, then the newcomers'.
    fn wait(
        &self,
        newcomers: &[Newcomer],
        resting: bool,
        timeout: Option<Duration>,
    ) -> Option<Vec<PollFlags>> {
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        for port in &self.ports {
            let interest = if resting { PollFlags::empty() } else { PollFlags::IN };
            fds.push(PollFd::new(&port.listener, interest));
        }
        for newcomer in newcomers {
            let interest = if newcomer.out.is_empty() { PollFlags::IN } else { PollFlags::OUT };
            fds.push(PollFd::new(&newcomer.fd, interest));
        }
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "the nbd server cannot wait for clients");
                return None;
            }
        }
        let mut events = fds.iter().map(PollFd::revents);
        let woken = events.next().is_some_and(|e| !e.is_empty());
        (!woken).then(|| events.collect())
    }

    /// Takes the clients that wait; `false` when the system has no room for them.
    fn accept(&self, port: usize, newcomers: &mut Vec<Newcomer>) -> bool {
        for _ in 0..MAX_HANDSHAKES {
            let (fd, peer) = match self.ports[port].listener.accept() {
                Ok(Some(client)) => client,
                Ok(None) => return true,
                Err(errno) => {
                    tracing::warn!(%errno, "an nbd client could not be accepted");
                    return false;
                }
            };
            let Some(live) = Live::enter(&self.live, self.max_connections) else {
                tracing::warn!(%peer, max = self.max_connections, "too many nbd clients");
                continue;
            };
            if newcomers.len() >= MAX_HANDSHAKES {
                let oldest = newcomers.remove(0);
                tracing::warn!(peer = %oldest.peer, "too many nbd handshakes: the oldest goes");
            }
            let mut out = Vec::new();
            let handshake = Handshake::new(&mut out);
            let deadline = Instant::now() + self.timeout;
            newcomers.push(Newcomer { fd, peer, port, live, handshake, out, deadline });
        }
        true
    }

    /// Moves a handshake on as far as its socket allows.
    fn talk(&self, newcomer: &mut Newcomer) -> Option<Status> {
        let offer = &self.ports[newcomer.port].offer();
        let mut buf = [0; 4096];
        loop {
            if let Err(status) = send_rest(newcomer) {
                return status;
            }
            let need = match newcomer.handshake.status() {
                Status::Need(need) => need.min(buf.len()),
                end if newcomer.out.is_empty() => return Some(end),
                _ => return None,
            };
            if newcomer.out.len() > MAX_UNSENT {
                return None;
            }
            match try_recv(&newcomer.fd, &mut buf[..need]) {
                Ok(0) => return Some(Status::Closed("the client closed the connection")),
                Ok(got) => {
                    newcomer.handshake.input(&buf[..got], offer, &mut newcomer.out);
                }
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => {}
                Err(_) => return Some(Status::Closed("the socket failed")),
            }
        }
    }

    /// Gives a client to the next queue.
    fn pass_on(&self, newcomer: Newcomer, terms: Terms, queue: &mut usize) {
        let Newcomer { fd, peer, port, live, .. } = newcomer;
        let Port { export, size, .. } = &self.ports[port];
        let agreed = export.agreed(terms, size.load(Ordering::Relaxed));
        tracing::info!(%peer, read_only = agreed.read_only, "nbd client");
        let inbox = &self.inboxes[*queue % self.inboxes.len()];
        *queue = queue.wrapping_add(1);
        inbox.put(Accepted { fd, agreed, peer, live });
    }
}

/// Sends the answers that wait. `Err` ends this turn: blocked (`None`) or broken.
fn send_rest(newcomer: &mut Newcomer) -> Result<(), Option<Status>> {
    while !newcomer.out.is_empty() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&newcomer.fd, &newcomer.out, flags) {
            Ok(sent) => {
                newcomer.out.drain(..sent);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(None),
            Err(_) => return Err(Some(Status::Closed("the socket failed"))),
        }
    }
    Ok(())
}
