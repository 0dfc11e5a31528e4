//! The connection: features, memory, rings, configuration.

use crate::queue::{Layout, Queue};
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserInflight, VhostUserProtocolFeatures as Protocol,
};
use vhost::vhost_user::{
    Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend, VhostUserFrontendReqHandler,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};

const PROTOCOL: u64 = 1 << 30;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;
/// VIRTIO_BLK_F_*: size of blocks, flush, writeback, queues, discard, write-zeroes.
const WANTED: u64 = 1 << 6 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14;

/// How a device is driven.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rings.
    pub queues: usize,
    /// Requests of each that may be under way.
    pub depth: u16,
    /// Most bytes of a request.
    pub bytes: usize,
    /// Notifications only where they are wanted.
    pub event_idx: bool,
    /// Descriptors in tables of their own.
    pub indirect: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { queues: 1, depth: 32, bytes: 128 << 10, event_idx: true, indirect: false }
    }
}

/// Guest memory.
pub(crate) struct Memory {
    pub start: *mut u8,
    pub len: usize,
    file: OwnedFd,
}

// SAFETY: queues use parts of it that do not overlap, through raw pointers.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our mapping; queues keep the `Arc`.
        let done = unsafe { munmap(self.start.cast::<c_void>(), self.len) };
        debug_assert!(done.is_ok());
    }
}

impl Memory {
    fn new(len: usize) -> Result<Self> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len as u64)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &file, 0)? };
        Ok(Self { start: start.cast(), len, file })
    }
}

/// What the device says unasked.
type Notices = Option<FrontendReqHandler<ConfigChanged>>;

/// The only notice that is understood.
struct ConfigChanged;

impl VhostUserFrontendReqHandler for ConfigChanged {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        Ok(0)
    }
}

/// A virtual machine's side of a device.
pub struct Peer {
    frontend: Frontend,
    notices: Notices,
    /// What the device offers.
    pub features: u64,
    /// The rings, to be driven by a thread each.
    pub queues: Vec<Queue>,
    /// The page of requests in flight, where the device keeps one.
    pub inflight: Option<(VhostUserInflight, File)>,
    layout: Layout,
}

impl Peer {
    /// Connects and starts the rings.
    ///
    /// # Errors
    /// Of the protocol or the system.
    pub fn connect(path: &Path, options: Options) -> Result<Self> {
        let layout = Layout::of(&options);
        let memory = Arc::new(Memory::new(layout.ring * options.queues)?);
        let queues = (0..options.queues)
            .map(|n| Queue::new(Arc::clone(&memory), n * layout.ring, layout))
            .collect::<Result<Vec<_>>>()?;
        let (frontend, features, notices) = hello(path, &options)?;
        let mut peer = Self { frontend, notices, features, queues, inflight: None, layout };
        peer.start()?;
        Ok(peer)
    }

    /// The same machine with another server on this path: rings and memory stay, requests in flight
    /// too.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub fn reconnect(&mut self, path: &Path) -> Result<()> {
        (self.frontend, self.features, self.notices) = hello(path, &self.layout.options)?;
        self.start()
    }

    fn start(&mut self) -> Result<()> {
        let options = self.layout.options;
        let memory = self.queues.first().context("no queue")?.memory();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: memory.len as u64,
            userspace_addr: memory.start as u64,
            mmap_offset: 0,
            mmap_handle: memory.file.as_raw_fd(),
        };
        let count = u16::try_from(options.queues)?;
        if self.frontend.get_protocol_features()?.contains(Protocol::INFLIGHT_SHMFD) {
            if self.inflight.is_none() {
                let wish = VhostUserInflight::new(0, 0, count, self.layout.size);
                self.inflight = Some(self.frontend.get_inflight_fd(&wish)?);
            }
            if let Some((said, file)) = &self.inflight {
                self.frontend.set_inflight_fd(said, file.as_raw_fd())?;
            }
        }
        self.frontend.set_mem_table(&[region])?;
        for (n, queue) in self.queues.iter().enumerate() {
            self.frontend.set_vring_num(n, self.layout.size)?;
            let [desc, avail, used] = queue.addresses();
            self.frontend.set_vring_addr(
                n,
                &VringConfigData {
                    queue_max_size: self.layout.size,
                    queue_size: self.layout.size,
                    flags: 0,
                    desc_table_addr: desc,
                    used_ring_addr: used,
                    avail_ring_addr: avail,
                    log_addr: None,
                },
            )?;
            // What a machine knows of a ring whose server has died: what was answered.
            self.frontend.set_vring_base(n, queue.used())?;
            self.frontend.set_vring_call(n, &queue.call)?;
            self.frontend.set_vring_kick(n, &queue.kick)?;
            self.frontend.set_vring_enable(n, true)?;
        }
        Ok(())
    }

    /// A part of the configuration space.
    ///
    /// # Errors
    /// The device has none there.
    pub fn config(&mut self, offset: u32, len: u32) -> Result<Vec<u8>> {
        let flags = VhostUserConfigFlags::empty();
        let space = vec![0; len as usize];
        Ok(self.frontend.get_config(offset, len, flags, &space)?.1)
    }

    /// Sectors of the disk.
    ///
    /// # Errors
    /// As [`Peer::config`].
    pub fn sectors(&mut self) -> Result<u64> {
        let bytes = self.config(0, 8)?;
        Ok(u64::from_le_bytes(bytes.as_slice().try_into()?))
    }

    /// Waits until the device says that its configuration is another one.
    ///
    /// # Errors
    /// It says nothing for that long, or something else.
    pub fn wait_for_config_change(&mut self, most: Duration) -> Result<()> {
        let notices = self.notices.as_mut().context("the device has no back channel")?;
        // SAFETY: the handler keeps its socket open meanwhile.
        let socket = unsafe { BorrowedFd::borrow_raw(notices.as_raw_fd()) };
        let mut ready = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        let most = most.try_into()?;
        ensure!(poll(&mut ready, Some(&most))? == 1, "the device says nothing");
        notices.handle_request()?;
        Ok(())
    }

    /// Asks for a volatile cache, or for none.
    ///
    /// # Errors
    /// The device has no choice.
    pub fn set_writeback(&mut self, on: bool) -> Result<()> {
        let flags = VhostUserConfigFlags::WRITABLE;
        Ok(self.frontend.set_config(32, flags, &[u8::from(on)])?)
    }

    /// Heads that a server has taken and not answered, by the page of requests in flight.
    ///
    /// # Errors
    /// Of the system.
    pub fn taken(&self) -> Result<usize> {
        let Some((said, file)) = &self.inflight else { return Ok(0) };
        let mut bytes = vec![0; said.mmap_size as usize];
        file.read_exact_at(&mut bytes, said.mmap_offset)?;
        let rings = usize::from(said.num_queues);
        let heads = usize::from(said.queue_size);
        let ring = |n: usize| &bytes[n * bytes.len() / rings..];
        let marked = |n: usize| {
            (0..heads).filter(move |head| ring(n).get(16 + 16 * head) == Some(&1)).count()
        };
        Ok((0..rings).map(marked).sum())
    }

    /// Stops a ring: everything taken from it is answered. The next head it would have taken.
    ///
    /// # Errors
    /// Of the protocol.
    pub fn stop(&mut self, queue: usize) -> Result<u32> {
        Ok(self.frontend.get_vring_base(queue)?)
    }
}

fn hello(path: &Path, options: &Options) -> Result<(Frontend, u64, Notices)> {
    let path = path.to_str().context("a path that is no text")?;
    let mut frontend = Frontend::connect(path, options.queues as u64)?;
    frontend.set_owner()?;
    let features = frontend.get_features()?;
    ensure!(features & PROTOCOL != 0 && features & VERSION_1 != 0, "an old device");
    let mut wanted = WANTED | VERSION_1 | PROTOCOL;
    wanted |= if options.event_idx { EVENT_IDX } else { 0 };
    wanted |= if options.indirect { INDIRECT } else { 0 };
    let offered = frontend.get_protocol_features()?;
    let mine = Protocol::MQ | Protocol::CONFIG | Protocol::INFLIGHT_SHMFD | Protocol::REPLY_ACK;
    let mine = offered & (mine | Protocol::BACKEND_REQ);
    frontend.set_protocol_features(mine)?;
    frontend.set_features(features & wanted)?;
    let notices = match mine.contains(Protocol::BACKEND_REQ) {
        true => {
            let notices = FrontendReqHandler::new(Arc::new(ConfigChanged))?;
            frontend.set_backend_request_fd(&notices.get_tx_raw_fd())?;
            Some(notices)
        }
        false => None,
    };
    Ok((frontend, features, notices))
}
