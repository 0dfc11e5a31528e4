//! The server as the daemon sees it: bind, one front per queue, start, stop.

use crate::accept::{Acceptor, Port};
use crate::addr::NbdAddr;
use crate::connection::{Accepted, Live};
use crate::error::{Context, Result};
use crate::export::ExportInfo;
use crate::front::{Inbox, NbdFront};
use crate::listen::Listener;
use crate::memory::Memory;
use crate::protocol::MAX_PAYLOAD;
use crate::protocol::handshake::Terms;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Places for clients on one queue (their numbers have 15 bits).
const MAX_CLIENTS: usize = 1 << 14;

/// Settings of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NbdOptions {
    /// Listen on addresses other hosts can reach (T3).
    pub insecure: bool,
    /// Clients at one time, handshakes included; more are closed at once.
    pub max_connections: usize,
    /// From the connection to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Bytes for payloads per queue that its clients share; at least 32 MiB, rounded up to a power
    /// of two. Each client has 128 KiB of its own besides.
    pub memory: usize,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            insecure: false,
            max_connections: 256,
            handshake_timeout: Duration::from_secs(10),
            memory: 64 << 20,
        }
    }
}

/// NBD clients of one device, on any number of addresses.
///
/// ```no_run
/// # fn serve(limits: ploop_engine::Limits, queues: usize) -> ploop_nbd::Result<()> {
/// use ploop_nbd::{ExportInfo, NbdAddr, NbdOptions, NbdServer};
/// let export = ExportInfo {
///     name: String::new(),
///     description: "a ploop disk".into(),
///     read_only: false,
///     limits,
/// };
/// let mut server = NbdServer::new(NbdOptions::default());
/// let addr = server.bind(&NbdAddr::parse("tcp:127.0.0.1:0")?, export)?;
/// let fronts = (0..queues).map(|_| server.front(limits)).collect::<Result<Vec<_>, _>>()?;
/// // ... each front goes to a queue's thread, which calls `set_waker` ...
/// server.start()?;
/// println!("ready nbd {addr}");
/// # drop(fronts);
/// # Ok(())
/// # }
/// ```
pub struct NbdServer {
    options: NbdOptions,
    ports: Vec<Port>,
    inboxes: Vec<Arc<Inbox>>,
    live: Arc<AtomicUsize>,
    running: Option<(Arc<OwnedFd>, JoinHandle<()>)>,
    size: Arc<AtomicU64>,
}

/// Gives clients to queues that know already what is offered.
pub struct Adopter {
    inboxes: Vec<Arc<Inbox>>,
    live: Arc<AtomicUsize>,
}

impl Adopter {
    /// Gives a client to a queue; it follows the size of the device.
    pub fn adopt(&self, fd: OwnedFd, export: &ExportInfo, queue: usize) {
        let Some(inbox) = self.inboxes.get(queue % self.inboxes.len().max(1)) else { return };
        let Some(live) = Live::enter(&self.live, usize::MAX) else { return };
        let agreed = export.agreed(Terms::default(), u64::MAX);
        inbox.put(Accepted { fd, agreed, peer: "the kernel".into(), live });
    }
}

impl NbdServer {
    /// A server without an address.
    #[must_use]
    pub fn new(options: NbdOptions) -> Self {
        let live = Arc::new(AtomicUsize::new(0));
        let size = Arc::default();
        Self { options, ports: Vec::new(), inboxes: Vec::new(), live, running: None, size }
    }

    /// Listens on one more address; returns it with the real port. Clients are kept waiting until
    /// [`NbdServer::start`]. Exports of one device may differ in name and `read_only`.
    ///
    /// # Errors
    /// The address is taken, not local, or the export cannot be named.
    pub fn bind(&mut self, addr: &NbdAddr, export: ExportInfo) -> Result<NbdAddr> {
        export.check()?;
        let listener = Listener::bind(addr, self.options.insecure)?;
        let addr = listener.addr().clone();
        let offer = export.offer();
        self.size.store(offer.size, Ordering::Relaxed);
        self.ports.push(Port { listener, export, offer, size: Arc::clone(&self.size) });
        Ok(addr)
    }

    /// The device has grown: who connects from now on is told this size. Clients there are keep the
    /// one they know.
    pub fn set_size(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Relaxed);
    }

    /// The front end for one more queue; call it once per queue, before [`NbdServer::start`].
    /// `limits` are the device's.
    ///
    /// # Errors
    /// No memory.
    pub fn front(&mut self, limits: ploop_engine::Limits) -> Result<NbdFront> {
        let memory = self.options.memory.max(MAX_PAYLOAD as usize);
        let memory = Memory::new(memory, limits.buffer_align as usize)
            .context(|| format!("mapping {memory} bytes for nbd payloads"))?;
        let inbox = Arc::new(Inbox::default());
        self.inboxes.push(Arc::clone(&inbox));
        Ok(NbdFront::new(inbox, limits, memory))
    }

    /// For clients that need no handshake. After the fronts were made.
    #[must_use]
    pub fn adopter(&self) -> Adopter {
        Adopter { inboxes: self.inboxes.clone(), live: Arc::clone(&self.live) }
    }

    /// Starts to take clients. Call it when the queues run.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() || self.inboxes.is_empty() {
            return Ok(());
        }
        let what = || "starting the nbd server".to_owned();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context(what)?;
        let wake = Arc::new(wake);
        let acceptor = Acceptor {
            ports: std::mem::take(&mut self.ports),
            inboxes: self.inboxes.clone(),
            wake: Arc::clone(&wake),
            live: Arc::clone(&self.live),
            max_connections: self.options.max_connections.min(MAX_CLIENTS),
            timeout: self.options.handshake_timeout,
        };
        let thread = std::thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || acceptor.run())
            .context(what)?;
        self.running = Some((wake, thread));
        Ok(())
    }

    /// Takes no more clients, ends handshakes and removes the socket files. The clients there are
    /// stay until their queue stops.
    pub fn stop(&mut self) {
        self.ports.clear();
        let Some((wake, thread)) = self.running.take() else { return };
        let told = rustix::io::write(&*wake, &1u64.to_ne_bytes());
        debug_assert!(told.is_ok());
        if thread.join().is_err() {
            tracing::error!("the accepting thread of the nbd server died");
        }
    }

    /// As [`NbdServer::stop`], and the clients there are go too: what they asked for is done and
    /// answered, then they are cut off. The front ends end though the device stays.
    pub fn leave(&mut self) {
        self.stop();
        for inbox in &self.inboxes {
            inbox.leaving.store(true, Ordering::Release);
            if let Some(waker) = inbox.waker.get() {
                waker.wake();
            }
        }
    }

    /// Clients there are, handshakes included.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.stop();
    }
}
