//! The messages of a monitor: memory, rings, configuration. On the thread of its connection; a ring
//! is served by a queue's thread, and changed only while it is not.

use crate::config::{Config, REGIONS, RING_SIZE, RINGS};
use crate::front::{Inbox, Mail};
use crate::inflight::Inflight;
use crate::memory::Memory;
use crate::ring::Setup;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// Between two looks whether a queue has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A ring as the monitor describes it.
#[derive(Default)]
struct Described {
    size: u16,
    /// Descriptors, used, available: the monitor's addresses.
    parts: Option<(u64, u64, u64)>,
    base: u16,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    running: bool,
}

/// One connection.
pub(crate) struct Handler {
    config: Arc<Config>,
    queues: Arc<[Arc<Inbox>]>,
    features: u64,
    memory: Arc<Memory>,
    inflight: Option<Inflight>,
    rings: Vec<Described>,
}

fn failed(error: &crate::Error) -> Error {
    tracing::error!("{error}");
    Error::BackendInternalError
}

fn copied(file: &File) -> Result<std::os::fd::OwnedFd> {
    let file = file.try_clone().map_err(Error::ReqHandlerError)?;
    Ok(file.into())
}

/// An event of a monitor never blocks us.
fn unblocked(file: &File) -> Result<()> {
    let flags = fcntl_getfl(file).map_err(|e| Error::ReqHandlerError(e.into()))?;
    fcntl_setfl(file, flags | OFlags::NONBLOCK).map_err(|e| Error::ReqHandlerError(e.into()))
}

impl Handler {
    pub fn new(config: Arc<Config>, queues: Arc<[Arc<Inbox>]>) -> Self {
        config.reset();
        let rings = (0..RINGS).map(|_| Described::default()).collect();
        Self { config, queues, features: 0, memory: Arc::default(), inflight: None, rings }
    }

    /// Ends all rings; what was taken from them is answered.
    pub fn end(&mut self) {
        for index in 0..RINGS {
            self.halt(index);
        }
    }

    fn queue(&self, index: u16) -> &Arc<Inbox> {
        &self.queues[usize::from(index) % self.queues.len()]
    }

    fn ring(&mut self, index: u32) -> Result<&mut Described> {
        self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    /// The answer of a queue; `None` when it has ended.
    fn answer<T>(&self, index: u16, reply: &Receiver<T>) -> Option<T> {
        loop {
            match reply.recv_timeout(LOOK) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.queue(index).is_closed() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn halt(&mut self, index: u16) {
        if !std::mem::take(&mut self.rings[usize::from(index)].running) {
            return;
        }
        let (reply, answer) = sync_channel(1);
        self.queue(index).put(Mail::Stop(index, reply));
        if let Some(base) = self.answer(index, &answer) {
            self.rings[usize::from(index)].base = base;
        }
    }

    /// Starts a ring that has everything it needs.
    fn start(&mut self, index: u16) -> Result<()> {
        let ring = &self.rings[usize::from(index)];
        let (Some((table, used, avail)), Some(kick)) = (ring.parts, &ring.kick) else {
            return Ok(());
        };
        if ring.running || !ring.enabled || ring.size == 0 {
            return Ok(());
        }
        let guest = |user| self.memory.guest(user).ok_or(Error::InvalidParam);
        let setup = Setup {
            index,
            size: ring.size,
            table: guest(table)?,
            avail: guest(avail)?,
            used: guest(used)?,
            base: ring.base,
            event_idx: self.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            memory: Arc::clone(&self.memory),
            kick: copied(kick)?,
            call: ring.call.as_ref().map(copied).transpose()?,
            record: self.inflight.as_ref().and_then(|inflight| inflight.ring(index)),
            features: self.features,
        };
        let (reply, answer) = sync_channel(1);
        self.queue(index).put(Mail::Start(Box::new(setup), reply));
        match self.answer(index, &answer) {
            Some(Ok(())) => {
                self.rings[usize::from(index)].running = true;
                Ok(())
            }
            Some(Err(error)) => Err(failed(&error)),
            None => Err(Error::BackendInternalError),
        }
    }

    /// Changes something that rings depend on, while none runs.
    fn halted(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let running: Vec<u16> =
            (0..RINGS).filter(|n| self.rings[usize::from(*n)].running).collect();
        running.iter().for_each(|index| self.halt(*index));
        change(self)?;
        running.into_iter().try_for_each(|index| self.start(index))
    }

    fn remap(&mut self, memory: Memory) -> Result<()> {
        self.halted(|this| {
            this.memory = Arc::new(memory);
            Ok(())
        })
    }

    fn reset(&mut self) -> Result<()> {
        self.end();
        self.config.reset();
        self.rings.iter_mut().for_each(|ring| *ring = Described::default());
        Ok(())
    }
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.config.features())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.config.features() != 0 {
            return Err(Error::InvalidParam);
        }
        self.halted(|this| {
            this.features = features;
            // Without the extension there is no message that enables a ring.
            if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
                this.rings.iter_mut().for_each(|ring| ring.enabled = true);
            }
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = Memory::of(regions, files).map_err(|e| failed(&e))?;
        self.remap(memory)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two());
        let size = size.filter(|size| *size <= RING_SIZE).ok_or(Error::InvalidParam)?;
        self.ring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.ring(index)?.parts = Some((descriptor, used, available));
        let index = index as u16;
        match self.rings[usize::from(index)].running {
            true => {
                self.halt(index);
                self.start(index)
            }
            false => Ok(()),
        }
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.base = base as u16;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        self.halt(index as u16);
        let ring = self.ring(index)?;
        // It starts with the next kick descriptor.
        ring.kick = None;
        Ok(VhostUserVringState::new(index, u32::from(ring.base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let Some(fd) = fd else {
            tracing::error!("a monitor wants ring {index} to be polled, which is not done");
            return Err(Error::InvalidParam);
        };
        unblocked(&fd)?;
        self.ring(index.into())?;
        self.halt(index.into());
        self.rings[usize::from(index)].kick = Some(fd);
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        if let Some(fd) = &fd {
            unblocked(fd)?;
        }
        let call = fd.as_ref().map(copied).transpose()?;
        let ring = self.ring(index.into())?;
        ring.call = fd;
        if ring.running {
            self.queue(index.into()).put(Mail::Call(index.into(), call));
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.ring(index.into()).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(Config::protocol())
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(RINGS.into())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        match enable {
            true => self.start(index as u16),
            false => {
                self.halt(index as u16);
                Ok(())
            }
        }
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        self.config.read(offset, size).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, offset: u32, buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        match self.config.write(offset, buf) {
            true => Ok(()),
            false => Err(Error::InvalidParam),
        }
    }

    fn get_inflight_fd(&mut self, wish: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let made = Inflight::create(wish.num_queues, wish.queue_size);
        let (said, file) = made.map_err(|e| failed(&e))?;
        let kept = file.try_clone().map_err(Error::ReqHandlerError)?;
        self.set_inflight_fd(&said, kept)?;
        Ok((said, file))
    }

    fn set_inflight_fd(&mut self, said: &VhostUserInflight, file: File) -> Result<()> {
        let inflight = Inflight::open(said, file).map_err(|e| failed(&e))?;
        self.halted(|this| {
            this.inflight = Some(inflight);
            Ok(())
        })
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(region, fd).map_err(|e| failed(&e))?;
        self.remap(memory)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.memory.without(region).map_err(|e| failed(&e))?;
        self.remap(memory)
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("a disk has no screen"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("no shared objects"))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("the disk has no state beside its images"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("the disk has no state beside its images"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("no shared memory of ours"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(Error::InvalidOperation("no log of written memory"))
    }
}
