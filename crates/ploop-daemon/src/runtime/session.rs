//! The threads of one device: one per queue, one for the keeper; their start and their end.

use super::multi::MultiFront;
use super::spec::ServeSpec;
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_engine::remote::{RemoteFront, RemoteHandle, remote};
use ploop_engine::{CloseReport, Device, FrontEnd, Limits};
use ploop_image::Disk;
use ploop_io::{Engine, EngineChoice, Io, RealClock, Waker};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Heap that a thread touches before it serves.
const HEAP: usize = 128 << 10;

/// Makes a front end on the thread of its queue.
pub type MakeFront = Box<dyn FnOnce(Waker) -> io::Result<Box<dyn FrontEnd>> + Send>;

/// A running device and the disk below it.
pub struct Session {
    device: Device,
    disk: Disk,
    remotes: Vec<RemoteHandle>,
    threads: Threads,
    engine: &'static str,
}

/// What must end before the disk can be closed.
struct Threads {
    queues: Vec<JoinHandle<()>>,
    keeper: JoinHandle<CloseReport>,
    keeper_waker: Waker,
    queues_ended: Arc<AtomicBool>,
}

impl Session {
    /// Starts the threads. `fronts` gives the front ends of queue n besides the remote one.
    ///
    /// # Errors
    /// A ring, a thread or a front end cannot be made; the disk is closed again.
    pub fn start(
        disk: Disk,
        spec: &ServeSpec,
        fronts: impl FnOnce(Limits, usize) -> Result<Vec<Vec<MakeFront>>>,
    ) -> Result<Self> {
        super::memory::panic_is_abort();
        let device = match Device::new(disk.spec(), spec.device_options()) {
            Ok(device) => device,
            Err(error) => {
                return give_up(disk, Failure::new(Code::Device, error.to_string()));
            }
        };
        let fronts = match fronts(device.limits(), spec.queues) {
            Ok(fronts) => fronts,
            Err(failure) => return give_up(disk, failure),
        };
        let choice = EngineChoice::from(spec.ring);
        let (handles, remotes): (Vec<_>, Vec<_>) = (0..spec.queues).map(|_| remote()).unzip();
        let mut threads = match start_keeper(&device, for_keeper(choice)) {
            Ok(threads) => threads,
            Err(failure) => return give_up(disk, failure),
        };
        let started = start_queues(&mut threads, &device, choice, remotes, fronts);
        match started {
            Ok(engine) => Ok(Self { device, disk, remotes: handles, threads, engine }),
            Err(failure) => {
                let report = threads.end(&device);
                // The first error is the one to tell.
                let _ = disk.close(report);
                Err(failure)
            }
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// A handle for each queue.
    #[must_use]
    pub fn remotes(&self) -> &[RemoteHandle] {
        &self.remotes
    }

    /// The engine in use: `uring` or `threads`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// Finishes all requests, writes everything back and closes the images clean (T19).
    ///
    /// # Errors
    /// Code 7: requests that waited for space failed, or metadata could not be written (T17).
    pub fn stop(self) -> Result<()> {
        let report = self.threads.end(&self.device);
        let abandoned: u64 =
            (0..self.device.queues()).map(|n| self.device.queue_stats(n).abandoned.get()).sum();
        self.disk.close(report)?;
        if abandoned > 0 {
            let message = format!("{abandoned} requests that waited for space failed with ENOSPC");
            return Err(Failure::new(Code::Write, message).kind("no_space"));
        }
        Ok(())
    }
}

/// The device was not started: nothing was written, the mark goes again.
fn give_up<T>(disk: Disk, failure: Failure) -> Result<T> {
    // The first error is the one to tell.
    let _ = disk.abort();
    Err(failure)
}

impl Threads {
    /// Ends the queues, then the keeper.
    fn end(self, device: &Device) -> CloseReport {
        device.stop();
        for queue in self.queues {
            // It cannot have panicked: that ends the process (F27).
            let _ = queue.join();
        }
        self.queues_ended.store(true, Ordering::SeqCst);
        self.keeper_waker.wake();
        self.keeper.join().unwrap_or_else(|_| CloseReport {
            clean: false,
            failure: Some("the keeper's thread panicked".to_owned()),
            end: 0,
            mapped: true,
        })
    }
}

/// Queues that do no I/O still look up a mapping, which the keeper has to read.
fn for_keeper(choice: EngineChoice) -> EngineChoice {
    if choice == EngineChoice::Null { EngineChoice::NullThatReads } else { choice }
}

fn start_keeper(device: &Device, choice: EngineChoice) -> Result<Threads> {
    let (ready, started) = channel();
    let queues_ended = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&queues_ended);
    let device = device.clone();
    let run = move || {
        protect();
        let engine = match Engine::open(choice) {
            Ok((engine, _)) => engine,
            Err(error) => {
                let _ = ready.send(Err(error));
                return nothing_done();
            }
        };
        let waker = engine.waker();
        let Some(mut keeper) = device.keeper(engine) else {
            let _ = ready.send(Err(io::Error::other("the device has a keeper already")));
            return nothing_done();
        };
        let _ = ready.send(Ok(waker));
        match keeper.run(&RealClock, &|| ended.load(Ordering::SeqCst)) {
            Ok(report) => report,
            Err(error) => broken("the keeper", &error),
        }
    };
    let keeper = std::thread::Builder::new().name("ploop-keeper".into()).spawn(run);
    let keeper = keeper.or_fail(Code::System, "cannot start the keeper's thread")?;
    let gone = |_| io::Error::other("the keeper's thread ended early");
    let waker = started.recv().unwrap_or_else(|error| Err(gone(error)));
    let keeper_waker = waker.or_fail(Code::System, "the keeper's ring")?;
    Ok(Threads { queues: Vec::new(), keeper, keeper_waker, queues_ended })
}

fn start_queues(
    threads: &mut Threads,
    device: &Device,
    choice: EngineChoice,
    remotes: Vec<RemoteFront>,
    fronts: Vec<Vec<MakeFront>>,
) -> Result<&'static str> {
    let (ready, started) = channel();
    let mut fronts = fronts.into_iter();
    for (n, remote) in remotes.into_iter().enumerate() {
        let makers = fronts.next().unwrap_or_default();
        let (device, ready) = (device.clone(), ready.clone());
        let run = move || run_queue(&device, n, choice, remote, makers, &ready);
        let thread = std::thread::Builder::new().name(format!("ploop-q{n}")).spawn(run);
        threads.queues.push(thread.or_fail(Code::System, "cannot start a queue's thread")?);
    }
    drop(ready);
    let mut engine = "none";
    for _ in 0..threads.queues.len() {
        let gone = || io::Error::other("a queue's thread ended early");
        let (name, note) = started
            .recv()
            .unwrap_or_else(|_| Err(gone()))
            .or_fail(Code::System, "a queue cannot start")?;
        if engine == "none"
            && let Some(note) = note
        {
            tracing::warn!("{note}; blocking calls on threads are used instead");
        }
        engine = name;
    }
    Ok(engine)
}

type Started = io::Result<(&'static str, Option<String>)>;

fn run_queue(
    device: &Device,
    n: usize,
    choice: EngineChoice,
    remote: RemoteFront,
    makers: Vec<MakeFront>,
    ready: &Sender<Started>,
) {
    protect();
    let (engine, note) = match Engine::open(choice) {
        Ok(opened) => opened,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let name = engine.name();
    let waker = engine.waker();
    remote.set_waker(Arc::clone(&waker));
    let mut queue = device.queue(n, engine);
    let mut children: Vec<Box<dyn FrontEnd>> = vec![Box::new(remote)];
    for make in makers {
        match make(Arc::clone(&waker)) {
            Ok(front) => children.push(front),
            Err(error) => return drop(ready.send(Err(error))),
        }
    }
    let _ = ready.send(Ok((name, note)));
    if let Err(error) = queue.run(&mut MultiFront::new(children), &RealClock) {
        broken("a queue", &error);
    }
}

/// D7; refused without rights, which was said once when memory was locked.
fn protect() {
    ploop_io::touch_thread(HEAP);
    if let Err(why) = ploop_io::protect_thread() {
        tracing::debug!("{why}");
    }
}

fn nothing_done() -> CloseReport {
    let failure = Some("the keeper did not start".to_owned());
    CloseReport { clean: false, failure, end: 0, mapped: true }
}

/// A ring that fails as a whole leaves requests nobody can finish: as F27, the process ends, and
/// opening again recovers (F2).
fn broken(who: &str, error: &io::Error) -> ! {
    tracing::error!("the ring of {who} is broken: {error}; the server ends now");
    std::process::abort();
}
