//! Operations on the layers of an open disk. What changes the chain happens while requests wait
//! ([`Session::exchange`]); what copies data runs beside them, as a job.

use super::copier::Together;
use super::exports::Exports;
use super::jobs::{Jobs, Running, Turn};
use super::methods::Event;
use super::raise::Raise;
use super::session::{Needs, Paused, Session, settled};
use crate::control::types::{DeleteReply, GrowReply, SnapshotReply};
use crate::{Code, Failure, Result};
use ploop_engine::remote::RemoteHandle;
use ploop_engine::{Device, Limits};
use ploop_format::{Descriptor, Guid, Sector};
use ploop_image::layers::{Deleted, InTurn, Which, Work};
use ploop_image::{ErrorKind, Held, OpenOptions, Result as ImageResult, Wish, layers, snapshot_as};
use ploop_io::{RealDir, RealEntropy};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest pause that a client may ask for.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How to merge into a file that is not the disk's alone, of a disk that is open.
const SHARED: &str = "detach the disk first, then --change-shared lets it be changed, for all who \
    have it; or attach the disk with --change-shared";
/// A flush before a pause may take so long: what was written last goes to a slow disk, too.
const FLUSHED_WITHIN: Duration = Duration::from_secs(25);
/// Descriptors that an operation writes: its own, and one to make sure of the one in force.
const TEXTS: usize = 2;
/// The same of a merge that turns the chain: two, both taken back, one to make sure.
const TURN_TEXTS: usize = 5;

/// Number of the next pause.
static PAUSES: AtomicU64 = AtomicU64::new(1);

/// What is to be done while a client holds the device paused.
type Inside = Box<dyn FnOnce(&OpenOptions) + Send>;

/// The layers of an open disk, for control clients.
#[derive(Clone)]
pub struct Layers {
    events: Sender<Event>,
    target: PathBuf,
    /// Jobs, and who may change the layers.
    pub jobs: Jobs,
    hold: Hold,
}

/// Set while a client holds the device paused.
#[derive(Clone, Default)]
pub struct Hold(Arc<Mutex<Option<HeldPause>>>);

impl Hold {
    /// Ends the pause, if there is one: a server that is to stop waits for nobody's.
    pub fn end(&self) -> bool {
        // Its turn ends when the slot is free again.
        let held = self.slot().take();
        held.is_some()
    }

    fn slot(&self) -> MutexGuard<'_, Option<HeldPause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pause that a client holds: what is sent here is done in it. Nothing else changes the layers.
struct HeldPause {
    number: u64,
    sender: Sender<Inside>,
    #[expect(dead_code, reason = "what counts is that it is there")]
    turn: Turn,
}

/// What a job needs of the session.
struct Facts {
    remotes: Vec<RemoteHandle>,
    device: Device,
    limits: Limits,
    levels: usize,
    /// Images side by side at each level.
    split: usize,
    waiting: usize,
    raw_base: bool,
    held: Held,
    options: OpenOptions,
    read_only: bool,
}

impl Layers {
    /// Of the disk at `target`; `events` reach the thread that has the session.
    #[must_use]
    pub fn new(target: PathBuf, events: Sender<Event>, hold: Hold) -> Self {
        Self { events, target, jobs: Jobs::default(), hold }
    }

    /// A server that is to stop goes on at once.
    pub fn end_pause(&self) {
        self.hold.end();
    }

    /// Has the thread that owns the session do something.
    fn session<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, &mut Exports) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let stopping = || Failure::new(Code::NotMounted, "the server is stopping");
        let (reply, result) = sync_channel(1);
        let task = Box::new(move |session: &mut Session, exports: &mut Exports| {
            let _ = reply.send(work(session, exports));
        });
        self.events.send(Event::Do(task)).map_err(|_| stopping())?;
        result.recv().unwrap_or_else(|_| Err(stopping()))
    }

    /// Changes the exports; nothing else changes the layers meanwhile.
    ///
    /// # Errors
    /// Something else runs (17), or the work's.
    pub fn with_exports<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session, &mut Exports) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.jobs.turn("a change of exports")?;
        self.settle()?;
        self.session(work)
    }

    /// Does something to the files while requests wait: in a pause of its own, or in the one that a
    /// client holds.
    fn pause<T: Send + 'static>(
        &self,
        needs: Needs,
        operate: impl FnOnce(&OpenOptions) -> ImageResult<T> + Send + 'static,
    ) -> Result<(T, Paused)> {
        let held = self.paused().as_ref().map(|held| held.sender.clone());
        let Some(held) = held else {
            self.settle()?;
            return self.session(move |session, _| session.exchange(needs, operate));
        };
        let (reply, result) = sync_channel(1);
        let begin = Instant::now();
        let inside: Inside = Box::new(move |options| {
            let _ = reply.send(operate(options));
        });
        let over = |_| Failure::new(Code::NotMounted, "the pause is over");
        held.send(inside).map_err(|_| Failure::new(Code::NotMounted, "the pause is over"))?;
        let done = result.recv().map_err(over)??;
        Ok((done, Paused { time: begin.elapsed() }))
    }

    /// Everything durable, before the thread that has the session is asked: nobody else waits.
    fn settle(&self) -> Result<()> {
        let Facts { remotes, device, .. } = self.facts()?;
        settled(&remotes[0], &device, FLUSHED_WITHIN)
    }

    fn paused(&self) -> MutexGuard<'_, Option<HeldPause>> {
        self.hold.slot()
    }

    fn facts(&self) -> Result<Facts> {
        self.session(|session, _| {
            let disk = session.disk().ok_or_else(super::session::lost)?;
            Ok(Facts {
                remotes: session.remotes().to_vec(),
                device: session.device().clone(),
                limits: session.device().limits(),
                levels: disk.images().count() / disk.split(),
                split: disk.split(),
                waiting: disk.waiting(),
                raw_base: disk.has_raw_base(),
                held: disk.held(),
                options: session.options().clone(),
                read_only: disk.read_only(),
            })
        })
    }

    fn writable(&self) -> Result<Facts> {
        let facts = self.facts()?;
        match facts.read_only {
            false => Ok(facts),
            true => Err(Failure::new(Code::Parameter, "the disk is open read-only")),
        }
    }

    fn descriptor(&self) -> Result<Descriptor> {
        Ok(layers::describe(&RealDir, &self.target)?)
    }

    /// Freezes the top under a name, a new one if none; a temporary snapshot goes when nobody has
    /// it open any more.
    ///
    /// # Errors
    /// As of a closed disk; the device goes on.
    pub fn snapshot(&self, guid: Option<Guid>, temporary: bool) -> Result<SnapshotReply> {
        // In a pause that somebody holds the layers are ours already.
        let held = self.paused().is_some();
        let turn = match held {
            true => None,
            false => Some(self.jobs.turn("a snapshot")?),
        };
        if turn.is_some() {
            self.writable()?;
        }
        // P12: what can be made before requests wait is.
        let plain = Wish { guid, temporary, ready: None };
        let wish = plain.clone();
        let ready = match &turn {
            None => None,
            Some(_) => Some(self.session(move |session, _| {
                let disk = session.disk().ok_or_else(super::session::lost)?;
                Ok(disk.prepare_snapshot(&RealDir, &RealEntropy, &wish)?)
            })?),
        };
        let target = self.target.clone();
        let wish = Wish { ready: ready.clone(), ..plain };
        let taken = self.pause(Needs::texts(TEXTS), move |options| {
            snapshot_as(&RealDir, &RealEntropy, &target, &wish, options)
        });
        if let (Err(_), Some(ready)) = (&taken, ready) {
            ready.discard(&RealDir, &self.target);
        }
        let (taken, paused) = taken?;
        for note in &taken.notes {
            tracing::warn!("{note}");
        }
        Ok(SnapshotReply {
            uuid: taken.guid.to_string(),
            image: taken.image.display().to_string(),
            pause_ns: nanos(paused.time),
        })
    }

    /// Makes the device larger. The caller tells whoever uses it.
    ///
    /// # Errors
    /// As of a closed disk; the device goes on with its old size.
    pub fn grow(&self, size: Sector) -> Result<GrowReply> {
        let _turn = self.jobs.turn("a grow")?;
        self.writable()?;
        let target = self.target.clone();
        let (grown, paused) = self.pause(Needs::texts(TEXTS), move |options| {
            layers::grow(&RealDir, &target, size, options)
        })?;
        for note in &grown.notes {
            tracing::warn!("{note}");
        }
        self.session(|session, exports| exports.resized(session.device().limits().size))?;
        Ok(GrowReply {
            before_bytes: grown.before.bytes(),
            size_bytes: grown.size.bytes(),
            pause_ns: nanos(paused.time),
        })
    }

    /// Deletes a snapshot: at once when it can, else by a merge, whose job is told.
    ///
    /// # Errors
    /// No such snapshot (43), it is the top (38: the content of the device would change), or as
    /// [`Layers::merge`].
    pub fn delete(&self, guid: Guid, rate: Option<u64>) -> Result<DeleteReply> {
        let parsed = self.descriptor()?;
        if guid == parsed.top {
            let message = "what was written since the last snapshot is in use";
            return Err(Failure::parameter(message).hint("detach or unmount the disk first"));
        }
        let mut children = parsed.children(guid);
        if let (Some(child), None) = (children.next(), children.next()) {
            let job = self.merge(Which::One(child.guid), rate)?;
            return Ok(DeleteReply { deleted: "merging".to_owned(), job: Some(job) });
        }
        let _turn = self.jobs.turn("a snapshot-delete")?;
        self.writable()?;
        let target = self.target.clone();
        let done = self.pause(Needs::texts(TEXTS), move |options| {
            let work = &mut Work { progress: &mut |_, _| true, copier: &InTurn };
            layers::delete(&RealDir, &RealEntropy, &target, guid, options, work)
        });
        let (done, _) = done.map_err(|failure| match &*failure.kind {
            "shared" => failure.hint(SHARED),
            _ => failure,
        })?;
        let deleted = match done {
            Deleted::Removed(_) => "removed",
            Deleted::Merged(_) => "merged",
            Deleted::Marked => "marked",
        };
        Ok(DeleteReply { deleted: deleted.to_owned(), job: None })
    }

    /// Begins a merge; returns the number of its job.
    ///
    /// # Errors
    /// Something else runs (17), or the disk is read-only (38). What goes wrong later is the job's.
    pub fn merge(&self, which: Which, rate: Option<u64>) -> Result<u64> {
        let turn = self.jobs.turn("a merge")?;
        let facts = self.writable()?;
        let may = layers::may_merge(&RealDir, &self.target, which, &facts.options);
        if let Err(error) = may
            && error.kind() == ErrorKind::Shared
        {
            return Err(Failure::from(error).hint(SHARED));
        }
        let job = self.jobs.begin(turn, "merge", rate);
        let id = job.id();
        let layers = self.clone();
        let run = move || {
            let result = layers.merge_now(which, &job);
            if let Err(failure) = &result {
                tracing::warn!("job {id}: {failure}");
            }
            job.end(&result);
        };
        let thread = std::thread::Builder::new().name("ploop-job".into()).spawn(run);
        thread.map_err(|e| Failure::io(Code::System, "cannot start a job's thread", &e))?;
        Ok(id)
    }

    fn merge_now(&self, which: Which, job: &Running) -> Result<()> {
        let parsed = self.descriptor()?;
        let Facts { waiting, raw_base, levels, .. } = self.facts()?;
        let into_raw = raw_base && (which == Which::All || levels == 2);
        match which {
            Which::One(guid) if guid != parsed.top => self.merge_below(which, &parsed, job),
            Which::Frozen => self.merge_below(which, &parsed, job),
            // What was begun before goes on.
            _ if waiting > 0 => self.merge_down(None, job),
            _ if into_raw => {
                if levels > 2 {
                    self.merge_below(Which::Frozen, &parsed, job)?;
                }
                self.merge_into_raw(job)
            }
            Which::All => self.merge_down(Some(Which::All), job),
            Which::Top | Which::One(_) => self.merge_down(Some(Which::Top), job),
        }
    }

    /// The top goes down: the image that takes it in becomes the top, see [`layers::turn`].
    fn merge_down(&self, which: Option<Which>, job: &Running) -> Result<()> {
        if let Some(which) = which {
            let target = self.target.clone();
            let (_, paused) = self.pause(Needs::texts(TURN_TEXTS), move |options| {
                layers::turn(&RealDir, &RealEntropy, &target, which, options)
            })?;
            job.paused(paused.time);
        }
        let Facts { remotes, device, limits, levels, split, waiting, .. } = self.facts()?;
        let top = u32::try_from((levels - 1) * split).unwrap_or(u32::MAX);
        let floor = u32::try_from((levels - 1 - waiting) * split).unwrap_or(u32::MAX);
        Raise { remotes: &remotes, device: &device, limits, levels: floor..top }.run(job)?;
        // Its files are to be free when their images go.
        drop(device);
        let target = self.target.clone();
        let (dropped, paused) = self.pause(Needs::texts(TEXTS), move |options| {
            layers::drop_covered(&RealDir, &RealEntropy, &target, options)
        })?;
        job.paused(paused.time);
        for note in dropped.notes {
            tracing::warn!("{note}");
        }
        Ok(())
    }

    /// The top goes down into the raw base under it, which is written in place meanwhile, see
    /// [`layers::lower`].
    fn merge_into_raw(&self, job: &Running) -> Result<()> {
        let parsed = self.descriptor()?;
        let chain = parsed.chain().map_err(|e| Failure::parameter(e.to_string()))?;
        let base = chain.first().map(|image| image.guid);
        let target = self.target.clone();
        let needs = Needs { also_write: base.into_iter().collect(), texts: TEXTS };
        let (_, paused) = self
            .pause(needs, move |options| layers::lower(&RealDir, &RealEntropy, &target, options))?;
        job.paused(paused.time);
        let Facts { remotes, device, limits, split, .. } = self.facts()?;
        let split = u32::try_from(split).unwrap_or(u32::MAX);
        let levels = split..split.saturating_mul(2);
        let raise = Raise { remotes: &remotes, device: &device, limits, levels };
        let done = raise.run(job);
        drop(device);
        let target = self.target.clone();
        let stopped = done.is_err();
        let (dropped, paused) = self.pause(Needs::texts(TEXTS), move |options| match stopped {
            // The base is only read again.
            true => Ok(None),
            false => layers::drop_empty(&RealDir, &RealEntropy, &target, options).map(Some),
        })?;
        job.paused(paused.time);
        for note in dropped.into_iter().flat_map(|dropped| dropped.notes) {
            tracing::warn!("{note}");
        }
        done
    }

    /// Frozen levels go into one below them: by a copy beside the device, which then opens the
    /// chain without them.
    fn merge_below(&self, which: Which, parsed: &Descriptor, job: &Running) -> Result<()> {
        let chain = parsed.chain().unwrap_or_default();
        let mut frozen: Vec<Guid> = chain.iter().rev().skip(1).map(|image| image.guid).collect();
        let mut on_chain = true;
        if let Which::One(guid) = which {
            let shot = parsed.shot(guid).ok_or_else(|| {
                Failure::new(Code::NoSnapshot, format!("there is no snapshot {guid}"))
            })?;
            on_chain = frozen.contains(&guid);
            frozen = vec![guid, shot.parent];
        }
        let work = |options: &OpenOptions| {
            let copier = Together::default();
            let work =
                &mut Work { progress: &mut |done, total| job.go_on(done, total), copier: &copier };
            let merged = layers::merge(&RealDir, &RealEntropy, &self.target, which, options, work)?;
            for note in merged.notes {
                tracing::warn!("{note}");
            }
            Ok(())
        };
        let with = |options, held| OpenOptions { held, ..options };
        if !on_chain {
            // Another branch of the tree; what it shares with ours is locked against writing.
            let facts = self.facts()?;
            return work(&with(facts.options, facts.held.lock_only()));
        }
        let target = self.target.clone();
        let needs = Needs { also_write: frozen, texts: 0 };
        let (_, paused) =
            self.pause(needs, move |options| layers::fit(&RealDir, &target, which, options))?;
        job.paused(paused.time);
        let result = self.facts().and_then(|facts| work(&with(facts.options, facts.held)));
        let (_, paused) = self.pause(Needs::default(), |_| Ok(()))?;
        job.paused(paused.time);
        result
    }

    /// Holds the device paused, everything durable, until [`Layers::resume`] or the time is over.
    /// Snapshots can be taken meanwhile.
    ///
    /// # Errors
    /// It is paused already, or something else runs (17).
    pub fn hold(&self, limit: Duration) -> Result<u64> {
        let turn = self.jobs.turn("a pause")?;
        self.writable()?;
        self.settle()?;
        turn.lasts();
        let (sender, inbox) = channel();
        let number = PAUSES.fetch_add(1, Ordering::SeqCst);
        *self.paused() = Some(HeldPause { number, sender, turn });
        let (ready, is_ready) = sync_channel(1);
        let until = Instant::now() + limit.min(LONGEST_PAUSE);
        let hold = self.hold.clone();
        let task = Box::new(move |session: &mut Session, _: &mut Exports| {
            let told = ready.clone();
            let result = session.exchange(Needs::texts(TEXTS), |options| {
                let _ = told.send(Ok(()));
                serve_pause(&inbox, until, options);
                Ok(())
            });
            hold.end();
            if let Err(failure) = result {
                let _ = ready.try_send(Err(failure));
            }
        });
        let stopping = || Failure::new(Code::NotMounted, "the server is stopping");
        self.events.send(Event::Do(task)).map_err(|_| stopping())?;
        is_ready.recv().unwrap_or_else(|_| Err(stopping())).map(|()| number)
    }

    /// Ends the pause with this number, whose client is gone; whether it was still held.
    pub fn abandon(&self, pause: u64) -> bool {
        let mut held = self.paused();
        let theirs = held.as_ref().is_some_and(|held| held.number == pause);
        let ended = held.take_if(|_| theirs);
        drop(held);
        ended.is_some()
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// It is over already (38): something else may have been written since.
    pub fn resume(&self) -> Result<()> {
        let ended = self.hold.end();
        if ended { Ok(()) } else { Err(Failure::parameter("the device is not paused")) }
    }

    /// Gives up the new top of a snapshot that was taken in this pause.
    ///
    /// # Errors
    /// Nobody holds the device paused (38), or as of a closed disk.
    pub fn undo_snapshot(&self) -> Result<()> {
        if self.paused().is_none() {
            return Err(Failure::parameter("the device is not paused"));
        }
        let top = self.descriptor()?.top;
        let target = self.target.clone();
        self.pause(Needs::texts(TEXTS), move |options| {
            let work = &mut Work { progress: &mut |_, _| true, copier: &InTurn };
            layers::delete(&RealDir, &RealEntropy, &target, top, options, work)
        })?;
        Ok(())
    }
}

/// Does what comes until the sender is gone or the time is over.
fn serve_pause(inbox: &Receiver<Inside>, until: Instant, options: &OpenOptions) {
    loop {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(work) => work(options),
            Err(_) => return,
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
