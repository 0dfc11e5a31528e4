//! The life of a server: open, start, tell that it is ready, wait, stop.
//!
//! The stop: exports go while the queues still run (what is cached above comes down through
//! them), then the queues finish, then the keeper writes everything back, then the image is
//! closed clean and its locks go (T19), then the registry's entry, then whoever asked hears of it.

use super::exports::Exports;
use super::layers::Hold;
use super::leaving::Busy;
use super::methods::{Control, Ending, Event, Fixed, Task, version};
use super::session::Session;
use super::spec::ServeSpec;
use super::ublk::Traits;
use super::{means, memory, open, signals};
use crate::control::Server;
use crate::failure::OrFail;
use crate::registry::{Entry, Registry};
use crate::stats::{Scrape, scrape};
use crate::{Code, Result};
use ploop_engine::GiveUp;
use ploop_image::Disk;
use sd_notify::NotifyState;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Between two looks whether a device in use was let go: at first, and when that takes long.
const LOOK: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(2);
/// How long clients may take to read their last reply.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Called when every export answers: the registry's entry, and a path for the log of a server
/// without a terminal.
pub type Up<'a> = &'a mut dyn FnMut(&Entry, &Path) -> Result<()>;

/// Serves a disk until a signal or a client stops it.
///
/// # Errors
/// It could not be opened or exported; or the close was not clean (7, T17).
pub fn serve(spec: &ServeSpec, up: Up<'_>) -> Result<()> {
    let (events, inbox) = channel();
    // First of all: a signal between the in-use mark and the handlers would leave the mark.
    let hold = Hold::default();
    let give_up = watch_signals(events.clone(), hold.clone())?;
    let mut metrics = listen_for_metrics(spec)?;
    let disk = open(spec)?;
    // Before the engine reserves memory that is to stay empty.
    let unlocked = memory::lock().err();
    let entry = entry(spec, &disk);
    let version = version(&disk.spec());
    let traits = Traits::of(&disk);
    let mut exports = Exports::default();
    let session =
        Session::start(disk, spec, |limits, queues| exports.prepare(spec, limits, queues, traits))?;
    let _ = give_up.set(session.device().give_up_word());
    let claimed = Registry::of_user().claim(entry).and_then(|mut claim| {
        exports.make(spec, &session, &claim, traits)?;
        claim.update(|entry| note_exports(entry, &exports, metrics.as_ref()))?;
        exports.link(spec.name.as_deref())?;
        Ok(claim)
    });
    let claim = match claimed {
        Ok(claim) => claim,
        Err(failure) => {
            session.device().give_up(true);
            exports.remove(Ending::Force);
            // The first error is the one to tell.
            let _ = session.stop();
            return Err(failure);
        }
    };
    means::tell(spec, &session, unlocked);
    let log = claim.path("log");
    let ready = (claim.entry().clone(), log.clone(), claim.socket());
    let ready_for = format!("serving {}", claim.entry().disk.display());
    let fixed = Fixed { version, engine: session.engine() };
    let control = Control::new(&session, fixed, claim, (events, hold));
    let mut running = Running { session, exports, control: Arc::new(control) };
    let server = match running.announce(ready, metrics.as_mut(), up) {
        Ok(server) => server,
        Err(failure) => {
            let _ = running.stop(Ending::Force);
            return Err(failure);
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(&ready_for)]);
    let (how, waiting) = running.wait(&inbox);
    // T17: jobs too may wait for space.
    running.session.device().give_up(true);
    notify(&[NotifyState::Stopping]);
    running.end_jobs(&inbox);
    drop(metrics);
    let result = running.stop(how);
    for reply in waiting {
        let _ = reply.send(result.clone());
    }
    server.settle(LAST_WORDS);
    if std::fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
        // A log that says something stays.
        let _ = std::fs::remove_file(&log);
    }
    result
}

/// Signals are told to the thread that serves, and end what may keep it from hearing them: a pause
/// of a client, and requests that wait for space (T17), once there is a device.
fn watch_signals(events: Sender<Event>, hold: Hold) -> Result<Arc<OnceLock<GiveUp>>> {
    let give_up: Arc<OnceLock<GiveUp>> = Arc::default();
    let word = Arc::clone(&give_up);
    let told = move |count| {
        word.get().iter().for_each(|word| word.set(true));
        hold.end();
        drop(events.send(Event::Signal(count)));
    };
    signals::on_stop_signal(told).or_fail(Code::System, "signal handlers")?;
    Ok(give_up)
}

/// Tells the service manager, when there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Before anything of the disk is touched: an address that cannot be had costs nothing then.
fn listen_for_metrics(spec: &ServeSpec) -> Result<Option<Scrape>> {
    let Some(text) = &spec.metrics else { return Ok(None) };
    Scrape::bind(&scrape::address(text)?, spec.insecure_listen).map(Some)
}

struct Running {
    session: Session,
    exports: Exports,
    control: Arc<Control>,
}

impl Running {
    /// Opens the control socket and answers scrapers, then says that everything answers.
    fn announce(
        &self,
        ready: (Entry, PathBuf, PathBuf),
        metrics: Option<&mut Scrape>,
        up: Up<'_>,
    ) -> Result<Server> {
        let (entry, log, socket) = ready;
        // The log of a server of this disk before us.
        let _ = std::fs::remove_file(&log);
        let methods = Arc::clone(&self.control) as Arc<dyn crate::control::Methods>;
        let server = Server::start(&socket, Arc::clone(&methods))?;
        if let Some(metrics) = metrics {
            metrics.start(methods)?;
        }
        up(&entry, &log)?;
        Ok(server)
    }

    /// Does what a client wants of the session.
    fn work(&mut self, task: Task) {
        task(&mut self.session, &mut self.exports);
        self.control.renew(&self.session, &self.exports.words());
    }

    /// Jobs end where they do no harm; they may need the session for that.
    fn end_jobs(&mut self, inbox: &Receiver<Event>) {
        let layers = self.control.layers().clone();
        layers.jobs.cancel_all();
        while layers.jobs.any() {
            match inbox.recv_timeout(LOOK) {
                Ok(Event::Do(task)) => self.work(task),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn stop(mut self, how: Ending) -> Result<()> {
        self.session.device().give_up(true);
        self.control.ending();
        self.exports.remove(how);
        let claim = self.control.retire();
        let result = self.session.stop();
        drop(self.exports);
        drop(claim);
        result
    }
}

/// Those who want the server to stop when nobody has its device any more.
#[derive(Default)]
struct Asked {
    /// A signal has: it is waited for as long as it takes.
    signalled: bool,
    /// What was said of it last.
    said: String,
    /// Clients: since when, and who gets the result.
    clients: Vec<(Instant, SyncSender<Result<()>>)>,
    /// To the next look.
    look: Duration,
}

impl Asked {
    fn any(&self) -> bool {
        self.signalled || !self.clients.is_empty()
    }

    /// Looks are seldom after a while: each goes through all processes of the host.
    fn next_look(&mut self) -> Option<Duration> {
        if !self.any() {
            self.look = LOOK;
            return None;
        }
        if !self.clients.is_empty() {
            return Some(LOOK);
        }
        self.look = (self.look * 2).min(SELDOM);
        Some(self.look)
    }

    /// Somebody has the device: whoever has waited long enough for that to pass hears who.
    fn refuse(&mut self, busy: &Busy) {
        for (_, reply) in self.clients.extract_if(.., |(since, _)| since.elapsed() >= busy.patience)
        {
            let _ = reply.send(Err(busy.failure.clone()));
        }
        let words = busy.failure.to_string();
        if self.signalled && self.said != words {
            tracing::warn!("{words}: stopping when it is free; a second signal stops at once");
            self.said = words;
        }
    }

    fn replies(self) -> Vec<SyncSender<Result<()>>> {
        self.clients.into_iter().map(|(_, reply)| reply).collect()
    }
}

impl Running {
    /// Serves until the server is to stop and nobody has its device, which is gone then; returns
    /// how, and who wants to hear of it.
    fn wait(&mut self, inbox: &Receiver<Event>) -> (Ending, Vec<SyncSender<Result<()>>>) {
        let mut asked = Asked::default();
        loop {
            let event = match asked.next_look() {
                Some(look) => inbox.recv_timeout(look),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Do(task)) => {
                    self.work(task);
                    continue;
                }
                Ok(Event::Signal(1)) => {
                    asked.signalled = true;
                    self.session.device().give_up(true);
                }
                // The second signal: whoever still has the device gets errors, the image is closed
                // clean all the same.
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return (Ending::Force, asked.replies());
                }
                Ok(Event::Stop { how: Ending::Plain, reply }) => {
                    asked.clients.push((Instant::now(), reply));
                }
                Ok(Event::Stop { how, reply }) => match self.exports.refuses(how) {
                    Some(failure) => drop(reply.send(Err(failure))),
                    None => {
                        let mut replies = asked.replies();
                        replies.push(reply);
                        return (how, replies);
                    }
                },
                Err(RecvTimeoutError::Timeout) => {}
            }
            if asked.any() {
                match self.exports.release(&self.session) {
                    Ok(()) => return (Ending::Plain, asked.replies()),
                    Err(busy) => asked.refuse(&busy),
                }
            }
        }
    }
}

fn entry(spec: &ServeSpec, disk: &Disk) -> Entry {
    let images = disk.paths();
    // A snapshot has a server of its own beside the one of the disk.
    let path = disk.target().map_or_else(|| spec.disk.clone(), Path::to_owned);
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Entry {
        id: String::new(),
        pid: 0,
        pid_start: 0,
        disk: std::fs::canonicalize(&path).unwrap_or(path),
        images,
        pieces: disk.split(),
        read_only: disk.read_only(),
        allow_outside: spec.allow_outside || spec.change_shared,
        device: None,
        name: spec.name.clone(),
        partition: None,
        transport: None,
        mountpoint: None,
        exports: Vec::new(),
        visible_to: spec.visible_to,
        started: started.map_or(0, |since| since.as_secs()),
        stopping: false,
    }
}

fn note_exports(entry: &mut Entry, exports: &Exports, metrics: Option<&Scrape>) {
    let text = |path: Option<&Path>| path.map(|path| path.display().to_string());
    entry.device = text(exports.device());
    entry.partition = text(exports.partition());
    entry.transport = exports.transport().map(str::to_owned);
    entry.exports = exports.words();
    entry.exports.extend(metrics.map(Scrape::word));
}
