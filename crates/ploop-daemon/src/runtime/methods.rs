//! What the control socket does with an open disk.

use super::exports::Exports;
use super::layers::{Hold, Layers};
use super::mapping::map;
use super::session::Session;
use crate::control::Methods;
use crate::control::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, GrowCall, GrowReply, Image, InfoReply, Job,
    JobCall, JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall, PauseCall,
    RateCall, SnapshotCall, SnapshotReply, StatReply, State, StopCall, UnexportCall, WatchReply,
};
use crate::registry::{Claim, Entry};
use crate::stats::prometheus;
use crate::stats::read::read;
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Device, LevelKind};
use ploop_format::units::SECTOR;
use ploop_format::{Guid, Sector};
use ploop_image::layers::Which;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A pause of a client ends by itself after this long, unless it says else.
const PAUSE: Duration = Duration::from_secs(60);
/// Between two replies about a job.
const NEWS: Duration = Duration::from_millis(100);
/// A watcher hears at least so often that the job is still there.
const STILL_HERE: Duration = Duration::from_secs(10);

/// What becomes of the block device when a server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It goes; nobody has it.
    Plain,
    /// It goes, and whoever has it gets errors.
    Force,
    /// It waits for the next server.
    Keep,
}

/// What wakes the thread that serves.
pub enum Event {
    /// The n-th stop signal.
    Signal(u32),
    /// Work for the thread that has the session.
    Do(Task),
    /// A client asked.
    Stop {
        /// What becomes of the device.
        how: Ending,
        /// Gets the result of the stop.
        reply: SyncSender<Result<()>>,
    },
}

/// Work on a session.
pub type Task = Box<dyn FnOnce(&mut Session, &mut Exports) + Send>;

/// An open disk as control clients see it.
pub struct Control {
    fixed: Fixed,
    opened: Instant,
    /// `None` once the server is stopping: a device held here would keep the images open, and
    /// locked.
    live: Mutex<Option<Live>>,
    events: Mutex<Sender<Event>>,
    layers: Layers,
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
    pub fn new(
        session: &Session,
        fixed: Fixed,
        claim: Claim,
        (events, hold): (Sender<Event>, Hold),
    ) -> Self {
        let layers = Layers::new(session.target().to_owned(), events.clone(), hold);
        let remote = session.remotes()[0].clone();
        let live = Live { device: session.device().clone(), remote, claim };
        let opened = Instant::now();
        Self { fixed, opened, live: Mutex::new(Some(live)), events: Mutex::new(events), layers }
    }

    /// Lets go of the device; the registry's entry is the caller's now. Clients get errors.
    pub fn retire(&self) -> Option<Claim> {
        self.live().take().map(|live| live.claim)
    }

    /// Who wants the disk may wait for it: it is about to be closed.
    pub fn ending(&self) {
        if let Some(live) = self.live().as_mut()
            && let Err(failure) = live.claim.update(|entry| entry.stopping = true)
        {
            tracing::warn!("{failure}");
        }
    }

    /// The layers of the disk.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The session serves another device now, with other images perhaps.
    pub fn renew(&self, session: &Session, exports: &[String]) {
        let mut guard = self.live();
        let Some(live) = guard.as_mut() else { return };
        live.device = session.device().clone();
        let images = session.disk().map(ploop_image::Disk::paths).unwrap_or_default();
        let entry = live.claim.entry();
        // Metrics are no export of the disk, but listed with them.
        let others = entry.exports.iter().filter(|word| word.starts_with("metrics "));
        let exports: Vec<_> = exports.iter().chain(others).cloned().collect();
        if entry.images == images && entry.exports == exports {
            return;
        }
        let update = |entry: &mut Entry| (entry.images, entry.exports) = (images, exports);
        if let Err(failure) = live.claim.update(update) {
            tracing::warn!("{failure}");
        }
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
        let top = entry.images.len().saturating_sub(device.pieces());
        let images = entry.images.iter().enumerate().map(|(level, path)| Image {
            level: u32::try_from(level).unwrap_or(u32::MAX),
            path: path.display().to_string(),
            read_only: limits.read_only || level < top,
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
        let how = match (call.keep, call.force) {
            (Some(true), _) => Ending::Keep,
            (_, Some(true)) => Ending::Force,
            _ => Ending::Plain,
        };
        let event = Event::Stop { how, reply };
        if how == Ending::Force
            && let Some(live) = self.live().as_ref()
        {
            // T17: certain to come, so whatever the session's thread waits for ends.
            live.device.give_up(true);
        }
        self.layers().end_pause();
        let sent = self.events.lock().unwrap_or_else(PoisonError::into_inner).send(event);
        sent.map_err(|_| stopping())?;
        result.recv().unwrap_or_else(|_| Err(stopping()))
    }

    fn export_add(&self, call: ExportCall) -> Result<ExportReply> {
        let add = move |session: &mut _, exports: &mut Exports| exports.add_nbd(session, &call);
        self.layers().with_exports(add).map(|export| ExportReply { export })
    }

    fn export_remove(&self, call: UnexportCall) -> Result<()> {
        let force = call.force.unwrap_or(false);
        self.layers().with_exports(move |_, exports| exports.remove_nbd(&call.address, force))
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

    fn snapshot(&self, call: SnapshotCall) -> Result<SnapshotReply> {
        let guid = call.uuid.as_deref().map(guid).transpose()?;
        self.layers().snapshot(guid, call.temporary.unwrap_or(false))
    }

    fn snapshot_delete(&self, call: DeleteCall) -> Result<DeleteReply> {
        self.layers().delete(guid(&call.uuid)?, call.rate_bytes)
    }

    fn merge(&self, call: MergeCall) -> Result<JobCall> {
        let which = match (call.uuid, call.all.unwrap_or(false)) {
            (Some(_), true) => return Err(Failure::parameter("one snapshot, or all?")),
            (Some(uuid), false) => Which::One(guid(&uuid)?),
            (None, true) => Which::All,
            (None, false) => Which::Top,
        };
        self.layers().merge(which, call.rate_bytes).map(|job| JobCall { job })
    }

    fn grow(&self, call: GrowCall) -> Result<GrowReply> {
        if !call.size_bytes.is_multiple_of(SECTOR) {
            let message = format!("{} is no whole number of sectors", call.size_bytes);
            return Err(Failure::parameter(message));
        }
        self.layers().grow(Sector(call.size_bytes / SECTOR))
    }

    fn pause(&self, call: PauseCall) -> Result<u64> {
        self.layers().hold(call.limit_ms.map_or(PAUSE, Duration::from_millis))
    }

    fn abandon(&self, pause: u64) {
        if self.layers().abandon(pause) {
            tracing::warn!("the client that held the device paused is gone: requests go on");
        }
    }

    fn resume(&self) -> Result<()> {
        self.layers().resume()
    }

    fn undo_snapshot(&self) -> Result<()> {
        self.layers().undo_snapshot()
    }

    fn flush(&self) -> Result<()> {
        let remote = self.live().as_ref().ok_or_else(stopping)?.remote.clone();
        let done = remote.call(super::session::flush());
        done.map(drop)
            .map_err(|errno| Failure::new(Code::Write, format!("the flush failed: {errno}")))
    }

    fn jobs(&self) -> Result<JobsReply> {
        Ok(JobsReply { jobs: self.layers().jobs.all() })
    }

    fn watch(&self, call: JobCall, seen: Option<&Job>) -> Result<WatchReply> {
        if seen.is_some() {
            // News come in bundles.
            std::thread::sleep(NEWS);
        }
        self.layers().jobs.wait(call.job, seen, STILL_HERE).map(|job| WatchReply { job })
    }

    fn cancel(&self, call: JobCall) -> Result<()> {
        self.layers().jobs.cancel(call.job)
    }

    fn set_rate(&self, call: RateCall) -> Result<()> {
        self.layers().jobs.set_rate(call.job, call.rate_bytes)
    }
}

fn guid(text: &str) -> Result<Guid> {
    text.parse().map_err(|_| Failure::parameter(format!("`{text}` is no name of a snapshot")))
}
