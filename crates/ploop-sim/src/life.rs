//! One life of a device: opened by the real image code, driven step by step, closed or lost.

use crate::front::SimFront;
use crate::scene;
use ploop_engine::{
    CloseReport, Device, DeviceOptions, DeviceSpec, Errno, Keeper, OnEnospc, Queue, Request,
};
use ploop_image::{
    AnyFile, Disk, Exchange, ImageError, LockWait, OpenOptions, Ready, Spares, Wish,
};
use ploop_io::Io;
use ploop_io::sim::{IoProbe, Rng, SimIo, SimWorld};
use std::path::Path;
use std::sync::Arc;

/// What one turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A queue or the keeper made a step.
    Step,
    /// Something in flight happened, or time has passed.
    Time,
    /// Nothing can happen any more.
    Idle,
    /// The simulated process is dead ([`SimWorld::crash_after`]).
    Dead,
}

struct Lane {
    queue: Queue<SimIo>,
    front: SimFront,
    probe: IoProbe,
    deadline: Option<u64>,
    /// It was given requests, or has more to do at once.
    busy: bool,
    finished: bool,
    /// Nothing of it is under way while the device pauses.
    paused: bool,
}

/// An open device with its queues and its keeper.
pub struct Life {
    lanes: Vec<Lane>,
    keeper: Keeper<SimIo>,
    keeper_probe: IoProbe,
    keeper_deadline: Option<u64>,
    keeper_busy: bool,
    stopping: bool,
    device: Device,
    /// `None`: an exchange did not end well.
    disk: Option<Disk>,
    world: SimWorld,
    options: OpenOptions,
    /// Copy-up takes from all levels.
    from_all: bool,
}

/// As many as a merge that turns the chain may need.
const SPARES: usize = 5;

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Queues.
    pub queues: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Write-back delay.
    pub metadata_delay_ms: u64,
    /// Orders the operations of the rings.
    pub seed: u64,
    /// Ask for direct I/O.
    pub direct: bool,
}

/// Options for the image code in a simulation: it never sleeps for a lock, and a base may be that
/// of another disk.
#[must_use]
pub fn open_options(direct: bool) -> OpenOptions {
    let gate = Arc::new(AnyFile);
    OpenOptions { direct, wait: LockWait::NONE, gate, ..OpenOptions::default() }
}

impl Life {
    /// Opens the disk and prepares its queues and its keeper.
    ///
    /// # Errors
    /// The image code refuses. The engine refusing what the image code gave it comes as the text
    /// of an `Internal` error.
    pub fn open(world: &SimWorld, target: &Path, how: Opening) -> Result<Self, OpenError> {
        let options =
            OpenOptions { records: Some(Arc::new(world.records())), ..open_options(how.direct) };
        let opened = options.clone();
        let disk = Disk::open(Arc::new(world.dir()), target, &options)?;
        let options = DeviceOptions {
            queues: how.queues,
            depth: how.depth,
            on_enospc: OnEnospc::Hold,
            metadata_delay_ms: how.metadata_delay_ms,
            enospc_retry_ms: 20,
            ..DeviceOptions::default()
        };
        let from_all = how.seed.is_multiple_of(2);
        let device = Device::new(spec(&disk, from_all), options)
            .map_err(|e| OpenError::Engine(e.to_string()))?;
        let mut rng = Rng::new(how.seed);
        let lanes = (0..how.queues)
            .map(|n| {
                let io = world.io(rng.next_u64());
                let probe = io.probe();
                Lane {
                    queue: device.queue(n, io),
                    front: SimFront::default(),
                    probe,
                    deadline: None,
                    busy: true,
                    finished: false,
                    paused: false,
                }
            })
            .collect();
        let io = world.io(rng.next_u64());
        let keeper_probe = io.probe();
        let keeper =
            device.keeper(io).ok_or_else(|| OpenError::Engine("no keeper was given".into()))?;
        Ok(Self {
            lanes,
            keeper,
            keeper_probe,
            keeper_deadline: None,
            keeper_busy: true,
            stopping: false,
            device,
            disk: Some(disk),
            world: world.clone(),
            options: opened,
            from_all,
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Queues.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.lanes.len()
    }

    /// Gives a request to a queue's front end.
    pub fn give(&mut self, lane: usize, request: Request) {
        self.lanes[lane].front.give(request);
        self.lanes[lane].busy = true;
    }

    /// A queue's front end, for its events.
    pub fn front(&mut self, lane: usize) -> &mut SimFront {
        &mut self.lanes[lane].front
    }

    /// Requests the engine holds because the host is full.
    #[must_use]
    pub fn parked(&self) -> u64 {
        (0..self.lanes.len()).map(|n| self.device.queue_stats(n).parked.get()).sum()
    }

    /// Makes one step of queue `n` now, whether it has a reason or not.
    pub fn step_queue(&mut self, n: usize) -> Turn {
        let now = self.world.now();
        let lane = &mut self.lanes[n];
        lane.probe.clear_wake();
        let turn = lane.queue.step(&mut lane.front, now);
        lane.busy = turn.busy;
        lane.deadline = turn.deadline;
        lane.finished = turn.finished;
        lane.paused = turn.paused;
        if lane.queue.io_mut().submit().is_err() { Turn::Dead } else { Turn::Step }
    }

    /// Makes one step of the keeper now.
    pub fn step_keeper(&mut self) -> Turn {
        self.keeper_probe.clear_wake();
        self.keeper_deadline = self.keeper.step(self.world.now());
        self.keeper_busy = false;
        if self.keeper.io_mut().submit().is_err() { Turn::Dead } else { Turn::Step }
    }

    /// Those with a reason to run: queues by number, the keeper as the number behind the last.
    fn runnable(&self) -> Vec<usize> {
        let now = self.world.now();
        let due = |deadline: Option<u64>| deadline.is_some_and(|at| at <= now);
        let mut ready: Vec<usize> = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, l)| {
                !l.finished && !l.paused && (l.busy || l.probe.runnable() || due(l.deadline))
            })
            .map(|(n, _)| n)
            .collect();
        if self.keeper_busy || self.keeper_probe.runnable() || due(self.keeper_deadline) {
            ready.push(self.lanes.len());
        }
        ready
    }

    /// One turn: a step of somebody with a reason, or the next thing in flight.
    pub fn turn(&mut self, rng: &mut Rng) -> Turn {
        if self.world.is_dead() {
            return Turn::Dead;
        }
        let ready = self.runnable();
        let event = self.world.next_event();
        let passing = event.is_some() && rng.chance(1, 3);
        match rng.pick(&ready) {
            Some(&n) if !passing => {
                if n < self.lanes.len() {
                    self.step_queue(n)
                } else {
                    self.step_keeper()
                }
            }
            _ => self.pass_time(event),
        }
    }

    fn pass_time(&mut self, event: Option<u64>) -> Turn {
        let lanes =
            self.lanes.iter().filter(|l| !l.finished && !l.paused).filter_map(|l| l.deadline);
        let deadline = lanes.chain(self.keeper_deadline).min();
        match (event, deadline) {
            (Some(event), Some(deadline)) if deadline < event => self.world.advance_to(deadline),
            (Some(_), _) => {
                self.world.advance();
            }
            (None, Some(deadline)) if deadline > self.world.now() => {
                self.world.advance_to(deadline);
            }
            _ => return Turn::Idle,
        }
        if self.world.is_dead() { Turn::Dead } else { Turn::Time }
    }

    /// Asks the queues to finish.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.device.stop();
        for lane in &mut self.lanes {
            lane.busy = true;
        }
    }

    /// Asks the queues to pause.
    pub fn pause(&mut self) {
        self.device.pause();
        for lane in &mut self.lanes {
            lane.busy = true;
        }
        self.keeper_busy = true;
    }

    /// The pause cannot be: there is no space for the block table.
    #[must_use]
    pub fn cannot_close(&self) -> bool {
        self.keeper.cannot_close()
    }

    /// Takes the pause back, and its close.
    pub fn go_on(&mut self) {
        self.keeper.go_on();
        self.device.go_on();
        for lane in &mut self.lanes {
            (lane.busy, lane.paused) = (true, false);
        }
        self.keeper_busy = true;
    }

    /// All queues have paused.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.lanes.iter().all(|lane| lane.paused)
    }

    /// The files of a snapshot, made before a pause; `None` when that failed.
    #[must_use]
    pub fn prepare_snapshot(&self, seed: u64) -> Option<Ready> {
        let (dir, entropy) = (self.world.dir(), self.world.entropy(seed));
        self.disk.as_ref()?.prepare_snapshot(&dir, &entropy, &Wish::default()).ok()
    }

    /// Files for the descriptors that an operation writes, made before a pause.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn spares(&self, seed: u64) -> Result<Spares, ImageError> {
        let (dir, entropy) = (self.world.dir(), self.world.entropy(seed));
        match &self.disk {
            Some(disk) => disk.spares(&dir, &entropy, SPARES),
            None => Ok(Spares::default()),
        }
    }

    /// After all queues have paused and the keeper is done: closes the images, has `operate` change
    /// them, and goes on with what is there then. Returns what `operate` did.
    ///
    /// # Errors
    /// The images could not be closed or opened: this life is over.
    pub fn exchange<T>(
        &mut self,
        target: &Path,
        seed: u64,
        spares: Spares,
        operate: impl FnOnce(&OpenOptions) -> Result<T, ImageError>,
    ) -> Result<Result<T, ImageError>, OpenError> {
        let lost = || OpenError::Engine("the disk is lost".into());
        let disk = self.disk.take().ok_or_else(lost)?;
        let entropy = self.world.entropy(seed);
        let (options, entropy) = (&self.options, &entropy);
        let dir = Arc::new(self.world.dir());
        // Where it is raw and marked, the top goes down into it.
        let also_write = scene::raw_base(&*dir, target).into_iter().collect();
        let how = Exchange { target, entropy, options, also_write, spares };
        let (done, disk) = disk.exchange(self.keeper.report(), dir, how, operate)?;
        let device = self.device.successor(spec(&disk, self.from_all));
        let device = device.map_err(|e| OpenError::Engine(e.to_string()))?;
        let io = self.world.io(seed);
        self.keeper_probe = io.probe();
        let spare = self.keeper.take_spare();
        self.keeper = device.keeper_after(io, spare).ok_or_else(lost)?;
        (self.keeper_deadline, self.keeper_busy) = (None, true);
        for lane in &mut self.lanes {
            lane.queue.renew(&device, &mut lane.front);
            (lane.busy, lane.paused) = (true, false);
        }
        self.device = device;
        self.disk = Some(disk);
        Ok(done)
    }

    /// All queues have returned.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopping && self.lanes.iter().all(|l| l.finished)
    }

    /// After all queues have returned: lets the keeper close.
    pub fn begin_close(&mut self) {
        self.keeper.begin_close();
        self.keeper_busy = true;
    }

    /// The keeper is done.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.keeper.is_closed()
    }

    /// Ends the engine and closes the image.
    ///
    /// # Errors
    /// The report says the image is not clean, or a step of the close failed.
    pub fn close(self) -> (CloseReport, Result<(), ImageError>) {
        let report = self.keeper.report();
        let Self { lanes, keeper, disk, device, .. } = self;
        drop((lanes, keeper, device));
        let closed = disk.map_or(Ok(()), |disk| disk.close(report.clone()));
        (report, closed)
    }
}

/// What is served. Copy-up changes nothing that is read, whichever levels it takes from.
fn spec(disk: &Disk, from_all: bool) -> DeviceSpec {
    let spec = disk.spec();
    DeviceSpec { floor: if from_all { 0 } else { spec.floor }, ..spec }
}

/// Why a device did not open.
#[derive(Debug)]
pub enum OpenError {
    /// The image code says so.
    Image(ImageError),
    /// The engine refused what the image code gave it.
    Engine(String),
}

impl From<ImageError> for OpenError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(error) => {
                write!(f, "{error}")?;
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            Self::Engine(text) => f.write_str(text),
        }
    }
}

/// Whether an answer means that the range was not to be changed at all.
#[must_use]
pub fn refused(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::ROFS | Errno::AGAIN)
}
