//! The server of a disk: one monitor at a time.

use crate::back;
use crate::config::{Config, Identity};
use crate::error::{Error, Result};
use crate::front::{Inbox, VhostFront};
use crate::handler::Handler;
use ploop_engine::Limits;
use ploop_engine::arena::Arena;
use rustix::net::{Shutdown, shutdown};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::{BackendReqHandler, Error as Vhost};

/// Bytes of a queue for requests whose memory cannot be used as it is.
const MEMORY: usize = 8 << 20;

/// Serves monitors. Made before the queues start, with a front end for each of them.
#[derive(Clone)]
pub struct VhostServer {
    config: Arc<Config>,
    queues: Arc<[Arc<Inbox>]>,
    now: Arc<Mutex<Now>>,
}

/// The connection that is served.
#[derive(Default)]
struct Now {
    socket: Option<UnixStream>,
    /// Its back channel, if the monitor has one.
    back: Option<OwnedFd>,
    stopped: bool,
}

impl VhostServer {
    /// For a device of so many queues.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        limits: Limits,
        identity: Identity,
        queues: usize,
    ) -> Result<(Self, Vec<VhostFront>)> {
        let config = Arc::new(Config::new(limits, identity));
        let inboxes: Arc<[Arc<Inbox>]> = (0..queues.max(1)).map(|_| Arc::default()).collect();
        let front = |inbox: &Arc<Inbox>| {
            let arena = Arena::new(MEMORY, limits.buffer_align as usize);
            let mut arena =
                arena.map_err(|source| Error::Io { what: "memory for requests", source })?;
            // No request waits for the system to find memory (D7).
            arena.touch();
            Ok(VhostFront::new(Arc::clone(inbox), Arc::clone(&config), limits, arena))
        };
        let fronts = inboxes.iter().map(front).collect::<Result<_>>()?;
        let server = Self { config: Arc::clone(&config), queues: inboxes, now: Arc::default() };
        Ok((server, fronts))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a monitor until it goes, or until [`VhostServer::stop`]. What was taken from its
    /// rings is answered before this returns.
    ///
    /// # Errors
    /// It broke the protocol.
    pub fn serve(&self, socket: UnixStream) -> Result<()> {
        let what = |source| Error::Io { what: "a vhost-user socket", source };
        {
            let mut now = self.now();
            if now.stopped {
                return Ok(());
            }
            now.socket = Some(socket.try_clone().map_err(what)?);
        }
        let messages = socket.try_clone().map_err(what)?;
        let handler = Handler::new(Arc::clone(&self.config), Arc::clone(&self.queues));
        let handler = Arc::new(Mutex::new(handler));
        let mut requests = BackendReqHandler::from_stream(socket, Arc::clone(&handler));
        let ended = loop {
            // An error of the socket is the library's to meet.
            let back = back::peek(&messages).unwrap_or_default();
            if let Err(error) = requests.handle_request() {
                break error;
            }
            if back.is_some() {
                self.now().back = back;
            }
        };
        handler.lock().unwrap_or_else(PoisonError::into_inner).end();
        let mut now = self.now();
        (now.socket, now.back) = (None, None);
        drop(now);
        match ended {
            Vhost::Disconnected | Vhost::PartialMessage | Vhost::SocketBroken(_) => Ok(()),
            error => Err(error.into()),
        }
    }

    /// What is read from now on as the size of the disk. The driver of a running guest hears of it
    /// if its monitor has a back channel.
    pub fn set_size(&self, bytes: u64) {
        self.config.set_size(bytes);
        if let Some(back) = &self.now().back
            && let Err(error) = back::config_changed(back)
        {
            tracing::warn!("a monitor cannot be told of the new size: {error}");
        }
    }

    /// Whether a monitor is connected.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.now().socket.is_some()
    }

    /// Ends the connection; none is served any more.
    pub fn stop(&self) {
        let mut now = self.now();
        now.stopped = true;
        if let Some(socket) = &now.socket {
            let _ = shutdown(socket, Shutdown::Both);
        }
    }
}
