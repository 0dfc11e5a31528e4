//! What the control socket does with an open disk.

use super::mapping::map;
use super::session::Session;
use crate::control::Methods;
use crate::control::types::{
    Image, InfoReply, MapCall, MapReply, MetricsReply, MountpointCall, StatReply, State, StopCall,
};
use crate::registry::Claim;
use crate::stats::prometheus;
use crate::stats::read::read;
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Device, LevelKind};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What wakes the thread that serves.
pub enum Event {
    /// The n-th stop signal.
    Signal(u32),
    /// A client asked.
    Stop {
        /// Though the device is in use.
        force: bool,
        /// Gets the result of the stop.
        reply: SyncSender<Result<()>>,
    },
}

/// An open disk as control clients see it.
pub struct Control {
    fixed: Fixed,
    opened: Instant,
    /// `None` once the server is stopping: a device held here would keep the images open, and
    /// locked.
    live: Mutex<Option<Live>>,
    events: Mutex<Sender<Event>>,
}

struct Live {
    device: Device,
    remote: RemoteHandle,
    claim: Claim,
}

/// What does not change while the disk is open.
pub struct Fixed {
    /// Format version of the top.
    pub version: Option<u32>,
    /// The I/O engine.
    pub engine: &'static str,
}

impl Control {
    /// For a session that runs.
    #[must_use]
    pub fn new(session: &Session, fixed: Fixed, claim: Claim, events: Sender<Event>) -> Self {
        let remote = session.remotes()[0].clone();
        let live = Live { device: session.device().clone(), remote, claim };
        let opened = Instant::now();
        Self { fixed, opened, live: Mutex::new(Some(live)), events: Mutex::new(events) }
    }

    /// Lets go of the device; the registry's entry is the caller's now. Clients get errors.
    pub fn retire(&self) -> Option<Claim> {
        self.live().take().map(|live| live.claim)
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> Failure {
    Failure::new(Code::NotMounted, "the server is stopping")
}

/// Format version of the top image.
#[must_use]
pub fn version(spec: &ploop_engine::DeviceSpec) -> Option<u32> {
    match spec.levels.last()?.kind {
        LevelKind::Ploop { version: ploop_format::Version::V1, .. } => Some(1),
        LevelKind::Ploop { version: ploop_format::Version::V2, .. } => Some(2),
        LevelKind::Raw => None,
    }
}

impl Methods for Control {
    fn info(&self) -> Result<InfoReply> {
        let guard = self.live();
        let Live { device, claim, .. } = guard.as_ref().ok_or_else(stopping)?;
        let (entry, limits) = (claim.entry(), device.limits());
        let top = entry.images.len().saturating_sub(1);
        let images = entry.images.iter().enumerate().map(|(level, path)| Image {
            level: u32::try_from(level).unwrap_or(u32::MAX),
            path: path.display().to_string(),
            read_only: limits.read_only || level != top,
        });
        let state = State {
            id: entry.id.clone(),
            pid: entry.pid,
            disk: entry.disk.display().to_string(),
            images: images.collect(),
            size_bytes: limits.size,
            block_bytes: u64::from(limits.block),
            cluster_bytes: limits.cluster,
            version: self.fixed.version,
            read_only: limits.read_only,
            queues: device.queues() as u64,
            engine: self.fixed.engine.to_owned(),
            device: entry.device.clone(),
            partition: entry.partition.clone(),
            transport: entry.transport.clone(),
            mountpoint: entry.mountpoint.as_ref().map(|path| path.display().to_string()),
            exports: entry.exports.clone(),
            started: entry.started,
        };
        Ok(InfoReply { state })
    }

    fn stat(&self) -> Result<StatReply> {
        let guard = self.live();
        let live = guard.as_ref().ok_or_else(stopping)?;
        let open = u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(read(&live.device, open))
    }

    fn metrics(&self) -> Result<MetricsReply> {
        let (state, stat) = (self.info()?.state, self.stat()?);
        let text = prometheus::text(&state, stat);
        let text = text.map_err(|_| Failure::new(Code::Internal, "metrics have no text"))?;
        Ok(MetricsReply { text })
    }

    fn stop(&self, call: StopCall) -> Result<()> {
        let (reply, result) = sync_channel(1);
        let event = Event::Stop { force: call.force.unwrap_or(false), reply };
        let sent = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
        sent.map_err(|_| stopping())?;
        result.recv().unwrap_or_else(|_| Err(stopping()))
    }

    fn map(&self, call: MapCall) -> Result<MapReply> {
        let (remote, limits) = {
            let guard = self.live();
            let live = guard.as_ref().ok_or_else(stopping)?;
            (live.remote.clone(), live.device.limits())
        };
        map(&remote, limits, call.offset_bytes)
    }

    fn set_mountpoint(&self, call: MountpointCall) -> Result<()> {
        let mut guard = self.live();
        let live = guard.as_mut().ok_or_else(stopping)?;
        live.claim.update(|entry| entry.mountpoint = call.mountpoint.map(Into::into))
    }
}
