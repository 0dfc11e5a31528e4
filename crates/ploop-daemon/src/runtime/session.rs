//! The threads of one device: one per queue, one for the keeper; their start and their end, and the
//! pause in which another device takes the place of the one they serve.

use super::multi::MultiFront;
use super::spec::ServeSpec;
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_engine::remote::{RemoteFront, RemoteHandle, remote};
use ploop_engine::{CloseReport, Device, Ended, FrontEnd, Keeper, Limits, is_no_space};
use ploop_image::{Disk, Exchange, OpenOptions, Result as ImageResult, Spares};
use ploop_io::{Engine, EngineChoice, Io, RawFile, RealClock, RealDir, RealEntropy, Waker};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Heap that a thread touches before it serves.
const HEAP: usize = 128 << 10;

/// The flush right before a pause: one that anybody waited for has just ended.
const SETTLED_WITHIN: Duration = Duration::from_secs(8);

/// While a flush is waited for: how often the device is asked whether the host is full.
const LOOKS: Duration = Duration::from_millis(100);

/// Makes a front end on the thread of its queue.
pub type MakeFront = Box<dyn FnOnce(Waker) -> io::Result<Box<dyn FrontEnd>> + Send>;

/// A running device and the disk below it.
pub struct Session {
    device: Device,
    /// `None`: it is lost, a pause has not ended well.
    disk: Option<Disk>,
    target: PathBuf,
    options: OpenOptions,
    remotes: Vec<RemoteHandle>,
    threads: Threads,
    engine: &'static str,
    /// Why it is not the best one.
    lacks: Option<String>,
    top: TopFile,
    /// Front ends for the end of the next pause, by queue.
    joining: Vec<Vec<MakeFront>>,
}

/// The file of the top, as long as it is served: who asks must not keep it open, and locked.
#[derive(Clone, Default)]
pub struct TopFile(Arc<Mutex<Vec<Weak<dyn RawFile>>>>);

/// What must end before the disk can be closed.
struct Threads {
    queues: Vec<QueueThread>,
    /// Queues that have paused.
    paused: Receiver<()>,
    on_pause: Sender<()>,
    keeper: KeeperThread,
}

struct QueueThread {
    thread: JoinHandle<()>,
    next: Sender<Next>,
}

struct KeeperThread {
    thread: JoinHandle<()>,
    waker: Waker,
    /// It has a device that was not closed yet.
    serves: bool,
    queues_ended: Arc<AtomicBool>,
    /// How each device was closed; `None`: a pause found no space for the block table.
    reports: Receiver<Option<CloseReport>>,
    /// Devices to go on with; `None` is the one it has.
    next: Sender<Option<Device>>,
}

/// What a paused queue does next.
enum Next {
    /// This device, with these front ends besides.
    Serve(Device, Vec<MakeFront>),
    /// The same device.
    GoOn,
    FailAll,
}

impl TopFile {
    /// Bytes it takes on the host.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        let tops = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tops.iter().filter_map(|top| top.upgrade()?.allocated().ok()).sum()
    }

    fn set(&self, disk: &Disk) {
        let tops = disk.tops().map(Arc::downgrade).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tops;
    }
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
        let keeper = match start_keeper(&device, for_keeper(choice)) {
            Ok(keeper) => keeper,
            Err(failure) => return give_up(disk, failure),
        };
        let (on_pause, paused) = channel();
        let mut threads = Threads { queues: Vec::new(), paused, on_pause, keeper };
        let started = start_queues(&mut threads, &device, choice, remotes, fronts);
        let top = TopFile::default();
        top.set(&disk);
        // By its descriptor: the top's path will not be that of the top for ever.
        let target = disk.target().map_or_else(|| spec.disk.clone(), Path::to_owned);
        match started {
            Ok((engine, lacks)) => Ok(Self {
                device,
                disk: Some(disk),
                target,
                options: super::open::options(spec),
                remotes: handles,
                threads,
                engine,
                lacks,
                top,
                joining: Vec::new(),
            }),
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

    /// Why files are read and written in another way than the best one, as a sentence.
    #[must_use]
    pub fn lacks(&self) -> Option<&str> {
        self.lacks.as_deref()
    }

    /// The disk; `None` after a pause that did not end well.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The file that new data goes to.
    #[must_use]
    pub fn top(&self) -> TopFile {
        self.top.clone()
    }

    /// A handle for each queue.
    #[must_use]
    pub fn remotes(&self) -> &[RemoteHandle] {
        &self.remotes
    }

    /// How its images are opened.
    #[must_use]
    pub fn options(&self) -> &OpenOptions {
        &self.options
    }

    /// What is served.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
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
        match self.disk {
            Some(disk) => disk.close(report)?,
            None => return Err(lost()),
        }
        if abandoned > 0 {
            let message = format!("{abandoned} requests that waited for space failed with ENOSPC");
            return Err(Failure::new(Code::Write, message).kind("no_space"));
        }
        Ok(())
    }
}

/// What an exchange needs.
#[derive(Debug, Default)]
pub struct Needs {
    /// Images below the top that the next device writes too.
    pub also_write: Vec<ploop_format::Guid>,
    /// Descriptors that are written at most, with the one that is written once more.
    pub texts: usize,
}

impl Needs {
    /// So many descriptors, and no more.
    #[must_use]
    pub fn texts(texts: usize) -> Self {
        Self { texts, ..Self::default() }
    }
}

/// How a pause went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paused {
    /// From the moment nothing new was begun until everything went on.
    pub time: Duration,
}

impl Session {
    /// Lets requests wait, closes the images, has `operate` work on them as on a closed disk, and
    /// goes on with what there is then. Nobody else gets at the files in between (F12).
    ///
    /// # Errors
    /// Of the operation, or what it needs cannot be made: the device goes on all the same. Or the
    /// images could not be closed or opened: then every request fails from now on, as after a
    /// failed sync (F5).
    pub fn exchange<T>(
        &mut self,
        needs: Needs,
        operate: impl FnOnce(&OpenOptions) -> ImageResult<T>,
    ) -> Result<(T, Paused)> {
        let disk = self.disk.as_ref().filter(|_| !self.device.is_failed()).ok_or_else(lost)?;
        // F20: what needs space, an inode or a name is made while requests are served.
        let spares = disk.spares(&RealDir, &RealEntropy, needs.texts)?;
        let done = settled(&self.remotes[0], &self.device, SETTLED_WITHIN)
            .and_then(|()| self.pause(needs.also_write, spares.clone(), operate));
        spares.discard(&RealDir);
        done
    }

    fn pause<T>(
        &mut self,
        also_write: Vec<ploop_format::Guid>,
        spares: Spares,
        operate: impl FnOnce(&OpenOptions) -> ImageResult<T>,
    ) -> Result<(T, Paused)> {
        // D7: memory that is to be freed by writing to this very device is not waited for.
        protect();
        let begin = Instant::now();
        self.device.pause();
        for _ in 0..self.threads.queues.len() {
            // It cannot end: a queue that panics ends the process (F27).
            let _ = self.threads.paused.recv();
        }
        let Some(report) = self.threads.close_device() else { return self.call_off() };
        let (result, next) = match self.replace(report, begin, also_write, spares, operate) {
            Ok((result, device)) => (result, Some(device)),
            Err(failure) => {
                tracing::error!("the device has lost its images, every request fails: {failure}");
                (Err(failure), None)
            }
        };
        let mut joining = std::mem::take(&mut self.joining).into_iter();
        for queue in &self.threads.queues {
            let fronts = joining.next().unwrap_or_default();
            let next = match &next {
                Some(device) => Next::Serve(device.clone(), fronts),
                None => Next::FailAll,
            };
            let _ = queue.next.send(next);
        }
        result.map(|done| (done, Paused { time: begin.elapsed() }))
    }

    /// F20: what was written since the flush before the pause finds no space for its page of the
    /// block table. Nothing was closed: the device goes on as it was.
    fn call_off<T>(&mut self) -> Result<T> {
        self.device.go_on();
        self.threads.keep(None);
        for queue in &self.threads.queues {
            let _ = queue.next.send(Next::GoOn);
        }
        Err(full())
    }

    /// Puts more front ends on the queues, in a pause.
    ///
    /// # Errors
    /// As [`Session::exchange`]; they are dropped then.
    pub fn join(&mut self, fronts: Vec<Vec<MakeFront>>) -> Result<Paused> {
        self.joining = fronts;
        let done = self.exchange(Needs::default(), |_| Ok(()));
        self.joining.clear();
        done.map(|((), paused)| paused)
    }

    /// The part of a pause in which nothing is served.
    fn replace<T>(
        &mut self,
        report: CloseReport,
        begin: Instant,
        also_write: Vec<ploop_format::Guid>,
        spares: Spares,
        operate: impl FnOnce(&OpenOptions) -> ImageResult<T>,
    ) -> Result<(Result<T>, Device)> {
        let ended = begin.elapsed();
        let disk = self.disk.take().ok_or_else(lost)?;
        let how = Exchange {
            target: &self.target,
            entropy: &RealEntropy,
            options: &self.options,
            also_write,
            spares,
        };
        let mut times = [Duration::ZERO; 2];
        let timed = |options: &OpenOptions| {
            times[0] = begin.elapsed();
            let done = operate(options);
            times[1] = begin.elapsed();
            done
        };
        let (result, disk) = disk.exchange(report, Arc::new(RealDir), how, timed)?;
        let opened = begin.elapsed();
        let device = match self.device.successor(disk.spec()) {
            Ok(device) => device,
            Err(error) => return give_up(disk, Failure::new(Code::Device, error.to_string())),
        };
        self.threads.keep(Some(device.clone()));
        let [closed, done] = times;
        tracing::debug!(?ended, ?closed, ?done, ?opened, all = ?begin.elapsed(), "in a pause");
        self.top.set(&disk);
        self.device = device.clone();
        self.disk = Some(disk);
        Ok((result.map_err(Failure::from), device))
    }
}

pub(super) fn lost() -> Failure {
    Failure::new(Code::Write, "the device has failed: it gives errors until it is stopped")
        .kind("not_clean")
        .hint("what was flushed before the error is there; stop the server and open the disk again")
}

/// P12: what can be durable before a pause is. On a full host it may not become so for long: then
/// there is no pause.
pub(super) fn settled(remote: &RemoteHandle, device: &Device, limit: Duration) -> Result<()> {
    let (sender, ended) = channel();
    let done = Box::new(move |outcome: ploop_engine::Outcome| {
        let _ = sender.send(outcome);
    });
    remote.submit(flush(), done);
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match ended.recv_timeout(left.min(LOOKS)) {
            Ok(Err(Errno::IO)) => return Err(lost()),
            Ok(Err(errno)) if is_no_space(errno) => return Err(full()),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if device.is_full() => return Err(full()),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                let message = format!("a flush has not ended after {} s", limit.as_secs());
                return Err(no_space(&message));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Held flushes are not waited for (F17): nobody knows when the host has space again.
fn full() -> Failure {
    no_space("the host has no space for the block table: what was written last cannot be flushed")
}

fn no_space(message: &str) -> Failure {
    Failure::new(Code::Write, message)
        .kind("no_space")
        .hint("the host may be full: make room and do it again; ploop stat has figures")
}

pub(super) const fn flush() -> ploop_engine::Request {
    ploop_engine::Request {
        tag: 0,
        operation: ploop_engine::Operation::Flush,
        flags: ploop_engine::Flags {
            fua: false,
            preflush: false,
            no_unmap: false,
            fast_zero: false,
        },
        offset: 0,
        len: 0,
        buffer: ploop_engine::Buffer::NONE,
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
    fn end(mut self, device: &Device) -> CloseReport {
        device.stop();
        for queue in std::mem::take(&mut self.queues) {
            // It cannot have panicked: that ends the process (F27).
            let _ = queue.thread.join();
        }
        // Nothing but a pause is called off.
        let report = self.close_device().unwrap_or_else(|| not_clean("there is no space"));
        let KeeperThread { thread, next, .. } = self.keeper;
        drop(next);
        let _ = thread.join();
        report
    }

    /// No queue begins anything any more: everything is written back. `None`: in a pause, where
    /// that cannot be, and the device still has all of it.
    fn close_device(&mut self) -> Option<CloseReport> {
        let keeper = &mut self.keeper;
        if !std::mem::take(&mut keeper.serves) {
            return Some(not_clean("there is no device"));
        }
        keeper.queues_ended.store(true, Ordering::SeqCst);
        keeper.waker.wake();
        // It cannot have panicked: that ends the process (F27).
        keeper.reports.recv().unwrap_or_else(|_| Some(not_clean("the keeper has ended")))
    }

    /// The keeper goes on, with another device or with its own; it is ready when the first message
    /// comes.
    fn keep(&mut self, device: Option<Device>) {
        self.keeper.serves = true;
        self.keeper.queues_ended.store(false, Ordering::SeqCst);
        let _ = self.keeper.next.send(device);
    }
}

/// Queues that do no I/O still look up a mapping, which the keeper has to read.
fn for_keeper(choice: EngineChoice) -> EngineChoice {
    if choice == EngineChoice::Null { EngineChoice::NullThatReads } else { choice }
}

fn start_keeper(device: &Device, choice: EngineChoice) -> Result<KeeperThread> {
    let (ready, started) = channel();
    let (on_close, reports) = channel();
    let (next, goes_on) = channel();
    let queues_ended = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&queues_ended);
    let device = device.clone();
    let run = move || {
        protect();
        let engine = match Engine::open(choice) {
            Ok((engine, _)) => engine,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let waker = engine.waker();
        let Some(keeper) = device.keeper(engine) else {
            return drop(ready.send(Err(io::Error::other("the device has a keeper already"))));
        };
        let _ = ready.send(Ok(waker));
        drop(device);
        run_keeper(keeper, &ended, &on_close, &goes_on);
    };
    let thread = std::thread::Builder::new().name("ploop-keeper".into()).spawn(run);
    let thread = thread.or_fail(Code::System, "cannot start the keeper's thread")?;
    let gone = |_| io::Error::other("the keeper's thread ended early");
    let waker = started.recv().unwrap_or_else(|error| Err(gone(error)));
    let waker = waker.or_fail(Code::System, "the keeper's ring")?;
    Ok(KeeperThread { thread, waker, serves: true, queues_ended, reports, next })
}

/// One device after the other, on one ring and with the same memory.
fn run_keeper(
    mut keeper: Keeper<Engine>,
    ended: &AtomicBool,
    on_close: &Sender<Option<CloseReport>>,
    goes_on: &Receiver<Option<Device>>,
) {
    loop {
        match keeper.run_to_pause(&RealClock, &|| ended.load(Ordering::SeqCst)) {
            Ok(report) => drop(on_close.send(report)),
            Err(error) => broken("the keeper", &error),
        }
        let device = match goes_on.recv() {
            Ok(Some(device)) => device,
            Ok(None) => continue,
            Err(_) => return,
        };
        let spare = keeper.take_spare();
        keeper = match device.keeper_after(keeper.into_io(), spare) {
            Some(keeper) => keeper,
            None => return,
        };
    }
}

fn start_queues(
    threads: &mut Threads,
    device: &Device,
    choice: EngineChoice,
    remotes: Vec<RemoteFront>,
    fronts: Vec<Vec<MakeFront>>,
) -> Result<(&'static str, Option<String>)> {
    let (ready, started) = channel();
    let mut fronts = fronts.into_iter();
    for (n, remote) in remotes.into_iter().enumerate() {
        let makers = fronts.next().unwrap_or_default();
        let (device, ready) = (device.clone(), ready.clone());
        let (next, goes_on) = channel();
        let gate = Gate { on_pause: threads.on_pause.clone(), goes_on };
        let run = move || run_queue(&device, n, choice, remote, makers, &ready, &gate);
        let thread = std::thread::Builder::new().name(format!("ploop-q{n}")).spawn(run);
        let thread = thread.or_fail(Code::System, "cannot start a queue's thread")?;
        threads.queues.push(QueueThread { thread, next });
    }
    drop(ready);
    let mut engine = "none";
    let mut lacks = None;
    for _ in 0..threads.queues.len() {
        let gone = || io::Error::other("a queue's thread ended early");
        let (name, note) = started
            .recv()
            .unwrap_or_else(|_| Err(gone()))
            .or_fail(Code::System, "a queue cannot start")?;
        if engine == "none"
            && let Some(note) = note
        {
            lacks = Some(format!("{note}; blocking calls on threads are used instead"));
        }
        engine = name;
    }
    Ok((engine, lacks))
}

/// Where a queue waits while its device is exchanged.
struct Gate {
    on_pause: Sender<()>,
    goes_on: Receiver<Next>,
}

type Started = io::Result<(&'static str, Option<String>)>;

fn run_queue(
    device: &Device,
    n: usize,
    choice: EngineChoice,
    remote: RemoteFront,
    makers: Vec<MakeFront>,
    ready: &Sender<Started>,
    gate: &Gate,
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
    let mut front = MultiFront::new(children);
    loop {
        match queue.run(&mut front, &RealClock) {
            Ok(Ended::Stopped) => return,
            Ok(Ended::Paused) => {}
            Err(error) => broken("a queue", &error),
        }
        let _ = gate.on_pause.send(());
        match gate.goes_on.recv() {
            Ok(Next::Serve(device, makers)) => {
                for make in makers {
                    match make(Arc::clone(&waker)) {
                        Ok(child) => front.add(child),
                        Err(error) => tracing::error!(%error, "an export misses a queue"),
                    }
                }
                queue.renew(&device, &mut front);
            }
            Ok(Next::GoOn) => {}
            Ok(Next::FailAll) | Err(_) => queue.fail_all(),
        }
    }
}

/// D7; refused without rights, which was said once when memory was locked.
fn protect() {
    ploop_io::touch_thread(HEAP);
    if let Err(why) = ploop_io::protect_thread() {
        tracing::debug!("{why}");
    }
}

fn not_clean(why: &str) -> CloseReport {
    CloseReport {
        clean: false,
        failure: Some(why.to_owned()),
        end: 0,
        mapped: true,
        changed: true,
        more: Vec::new(),
    }
}

/// A ring that fails as a whole leaves requests nobody can finish: as F27, the process ends, and
/// opening again recovers (F2).
fn broken(who: &str, error: &io::Error) -> ! {
    tracing::error!("the ring of {who} is broken: {error}; the server ends now");
    std::process::abort();
}
