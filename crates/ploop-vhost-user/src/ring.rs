//! A split virtqueue of one guest, on the thread of a queue.

use crate::chain::Parsed;
use crate::error::{Error, Result};
use crate::inflight::Record;
use crate::memory::Memory;
use ploop_engine::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

/// A ring as the monitor has set it up.
pub(crate) struct Setup {
    pub index: u16,
    pub size: u16,
    /// The guest's addresses of its three parts.
    pub table: u64,
    pub avail: u64,
    pub used: u64,
    /// The next head to take.
    pub base: u16,
    pub event_idx: bool,
    pub memory: Arc<Memory>,
    pub kick: OwnedFd,
    pub call: Option<OwnedFd>,
    pub record: Option<Record>,
    /// The driver's features, for what its writes mean.
    pub features: u64,
}

/// A ring that is served.
pub(crate) struct Ring {
    pub index: u16,
    pub features: u64,
    queue: Queue,
    memory: Arc<Memory>,
    kick: OwnedFd,
    call: Option<OwnedFd>,
    record: Option<Record>,
    /// Heads that another server had taken.
    again: VecDeque<u16>,
    /// Heads went to the used ring since the guest was told.
    news: bool,
    /// What the guest wrote cannot be: nothing more is taken.
    broken: bool,
}

impl Ring {
    /// # Errors
    /// The ring is not where there is memory, or has a size that cannot be.
    pub fn new(setup: Setup) -> Result<Self> {
        let wrong = |what: &'static str| {
            move |error: virtio_queue::Error| {
                let source = std::io::Error::other(error.to_string());
                Error::Io { what, source }
            }
        };
        let mut queue = Queue::new(setup.size).map_err(wrong("the size of a ring"))?;
        queue.set_size(setup.size);
        queue.try_set_desc_table_address(GuestAddress(setup.table)).map_err(wrong("a ring"))?;
        queue.try_set_avail_ring_address(GuestAddress(setup.avail)).map_err(wrong("a ring"))?;
        queue.try_set_used_ring_address(GuestAddress(setup.used)).map_err(wrong("a ring"))?;
        queue.set_event_idx(setup.event_idx);
        queue.set_ready(true);
        let map = setup.memory.map();
        if !queue.is_valid(map) {
            return Err(wrong("a ring")(virtio_queue::Error::QueueNotReady));
        }
        let used = queue.used_idx(map, std::sync::atomic::Ordering::Acquire);
        let used = used.map_err(wrong("a ring"))?.0;
        queue.set_next_used(used);
        let mut record = setup.record.filter(|record| record.holds(setup.size));
        let again = record.as_mut().map(|record| record.begin(used)).unwrap_or_default();
        let again: VecDeque<u16> = again.into_iter().filter(|head| *head < setup.size).collect();
        // A monitor whose server has died only knows what was answered.
        let base = match record.is_some() {
            true => used.wrapping_add(again.len() as u16),
            false => setup.base,
        };
        queue.set_next_avail(base);
        Ok(Self {
            index: setup.index,
            features: setup.features,
            queue,
            memory: setup.memory,
            kick: setup.kick,
            call: setup.call,
            record,
            again,
            news: false,
            broken: false,
        })
    }

    pub fn kick(&self) -> i32 {
        self.kick.as_raw_fd()
    }

    /// The guest has something, or had: the next one will be told again.
    pub fn kicked(&self) {
        let mut count = [0; 8];
        // It does not block, and another reader may have been faster.
        let _ = rustix::io::read(&self.kick, &mut count);
    }

    pub fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
    }

    /// The next head to take, for whoever serves this ring next.
    pub fn base(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Requests that a dead server had taken.
    pub fn left_over(&self) -> usize {
        self.again.len()
    }

    /// Takes the next head and reads its chain into `parsed`.
    pub fn take(&mut self, parsed: &mut Parsed) -> Option<(u16, std::result::Result<(), Errno>)> {
        let head = match self.again.pop_front() {
            Some(head) => head,
            None => {
                let head = self.next_head()?;
                if let Some(record) = &mut self.record {
                    record.taken(head);
                }
                head
            }
        };
        let (table, size) = (self.queue.desc_table(), self.queue.size());
        Some((head, parsed.read(&self.memory, table, size, head)))
    }

    fn next_head(&mut self) -> Option<u16> {
        if self.broken {
            return None;
        }
        let map = self.memory.map();
        match self.queue.iter(map) {
            Ok(mut heads) => heads.next().map(|chain| chain.head_index()),
            Err(error) => {
                tracing::error!(ring = self.index, %error, "the guest's ring is broken");
                self.broken = true;
                None
            }
        }
    }

    /// Answers a head.
    pub fn answer(&mut self, head: u16, written: u32) {
        if let Some(record) = &mut self.record {
            record.answering(head);
        }
        if let Err(error) = self.queue.add_used(self.memory.map(), head, written) {
            tracing::error!(ring = self.index, %error, "the guest's ring is broken");
            self.broken = true;
            return;
        }
        if let Some(record) = &mut self.record {
            record.answered(head, self.queue.next_used());
        }
        self.news = true;
    }

    /// Tells the guest of its answers, if it wants to hear of them.
    pub fn tell(&mut self) {
        if !std::mem::take(&mut self.news) {
            return;
        }
        let wanted = self.queue.needs_notification(self.memory.map()).unwrap_or(true);
        if let Some(call) = self.call.as_ref().filter(|_| wanted) {
            // Full means that it is told already.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
    }

    /// The guest need not kick while we look at the ring.
    pub fn hush(&mut self) {
        let _ = self.queue.disable_notification(self.memory.map());
    }

    /// It has to kick from now on; `true`: something came meanwhile.
    pub fn listen(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.queue.enable_notification(self.memory.map()).unwrap_or(false)
    }
}
