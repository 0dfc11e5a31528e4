//! Long operations on an open disk: one at a time, watched, slowed down and stopped by clients.

use super::copier::Pace;
use crate::control::types::{Job, JobState};
use crate::{Code, Failure, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs that ended are remembered, so many.
const KEPT: usize = 32;
/// A job looks so often whether it was stopped.
const LOOK: Duration = Duration::from_millis(50);
/// An operation waits no longer for others that are short, such as another snapshot.
const QUEUED: Duration = Duration::from_secs(30);

/// The jobs of a disk.
#[derive(Clone, Default)]
pub struct Jobs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Default)]
struct List {
    jobs: Vec<Entry>,
    last: u64,
    /// What has the layers to itself.
    busy: Option<Busy>,
    /// Who waits for them, in the order they came.
    waiting: VecDeque<u64>,
    /// The next number of one who waits.
    number: u64,
}

struct Busy {
    what: String,
    /// Nobody waits for it: it may take hours.
    long: bool,
}

struct Entry {
    job: Job,
    began: Instant,
    cancel: bool,
    /// Of the present rate.
    pace: Pace,
    /// Bytes that were done when that rate began.
    base: u64,
}

/// The right to change the layers: one at a time.
pub struct Turn(Jobs);

impl Turn {
    /// It may last: nobody waits for its end.
    pub fn lasts(&self) {
        if let Some(busy) = &mut self.0.list().busy {
            busy.long = true;
        }
        self.0.0.changed.notify_all();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.list().busy = None;
        self.0.0.changed.notify_all();
    }
}

/// A job that runs; its thread has it.
pub struct Running {
    jobs: Jobs,
    id: u64,
    _turn: Turn,
}

impl Jobs {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layers for one operation, in the order of asking. What is short is waited for.
    ///
    /// # Errors
    /// A job or a client's pause has them, or the wait was too long (17).
    pub fn turn(&self, what: &str) -> Result<Turn> {
        let until = Instant::now() + QUEUED;
        let mut list = self.list();
        let mine = list.number;
        list.number += 1;
        list.waiting.push_back(mine);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let first = list.waiting.front() == Some(&mine);
            let refused = match &list.busy {
                None if first => {
                    list.waiting.pop_front();
                    list.busy = Some(Busy { what: what.to_owned(), long: false });
                    return Ok(Turn(self.clone()));
                }
                Some(busy) if busy.long || left.is_zero() => Some(busy.what.clone()),
                None if left.is_zero() => Some("another operation".to_owned()),
                _ => None,
            };
            if let Some(busy) = refused {
                list.waiting.retain(|number| *number != mine);
                self.0.changed.notify_all();
                let message = format!("{busy} is running on this disk");
                return Err(
                    Failure::new(Code::Busy, message).hint("ploop jobs shows and cancels it")
                );
            }
            let waited = self.0.changed.wait_timeout(list, left);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A new job, with the layers to itself.
    #[must_use]
    pub fn begin(&self, turn: Turn, kind: &str, rate: Option<u64>) -> Running {
        let mut list = self.list();
        list.last += 1;
        let id = list.last;
        let job = Job {
            id,
            kind: kind.to_owned(),
            state: JobState::Running,
            done_bytes: 0,
            total_bytes: 0,
            rate_bytes: rate,
            elapsed_ms: 0,
            left_ms: None,
            pause_ns: Vec::new(),
            message: None,
            code: None,
            error_kind: None,
            hint: None,
        };
        let pace = Pace::new(rate);
        list.jobs.push(Entry { job, began: Instant::now(), cancel: false, pace, base: 0 });
        if list.jobs.len() > KEPT {
            list.jobs.remove(0);
        }
        list.busy = Some(Busy { what: format!("job {id} ({kind})"), long: true });
        drop(list);
        self.0.changed.notify_all();
        Running { jobs: self.clone(), id, _turn: turn }
    }

    /// All jobs, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Job> {
        self.list().jobs.iter().map(Entry::told).collect()
    }

    /// One job, when it has changed since `seen` or after `limit`.
    ///
    /// # Errors
    /// There is none of this number (38).
    pub fn wait(&self, id: u64, seen: Option<&Job>, limit: Duration) -> Result<Job> {
        let until = Instant::now() + limit;
        let mut list = self.list();
        loop {
            let job = list.of(id)?.told();
            let same = seen.is_some_and(|seen| {
                (seen.state, seen.done_bytes, seen.total_bytes)
                    == (job.state, job.done_bytes, job.total_bytes)
            });
            let left = until.saturating_duration_since(Instant::now());
            if !same || left.is_zero() {
                return Ok(job);
            }
            let waited = self.0.changed.wait_timeout(list, left);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks a job to end where it does no harm.
    ///
    /// # Errors
    /// There is none of this number, or it has ended (38).
    pub fn cancel(&self, id: u64) -> Result<()> {
        self.list().running(id)?.cancel = true;
        self.0.changed.notify_all();
        Ok(())
    }

    /// Asks every job to end.
    pub fn cancel_all(&self) {
        for entry in &mut self.list().jobs {
            entry.cancel = true;
        }
        self.0.changed.notify_all();
    }

    /// Whether one runs.
    #[must_use]
    pub fn any(&self) -> bool {
        self.list().busy.is_some()
    }

    /// Bytes per second from now on; none: as fast as it goes.
    ///
    /// # Errors
    /// There is none of this number, or it has ended (38).
    pub fn set_rate(&self, id: u64, rate: Option<u64>) -> Result<()> {
        let mut list = self.list();
        let entry = list.running(id)?;
        (entry.pace, entry.base) = (Pace::new(rate), entry.job.done_bytes);
        entry.job.rate_bytes = rate;
        self.0.changed.notify_all();
        Ok(())
    }
}

impl List {
    fn of(&mut self, id: u64) -> Result<&mut Entry> {
        let found = self.jobs.iter_mut().find(|entry| entry.job.id == id);
        found.ok_or_else(|| Failure::parameter(format!("there is no job {id} on this disk")))
    }

    fn running(&mut self, id: u64) -> Result<&mut Entry> {
        let entry = self.of(id)?;
        match entry.job.state {
            JobState::Running => Ok(entry),
            _ => Err(Failure::parameter(format!("job {id} has ended"))),
        }
    }
}

impl Entry {
    fn told(&self) -> Job {
        let mut job = self.job.clone();
        if job.state == JobState::Running {
            let elapsed = self.began.elapsed();
            job.elapsed_ms = millis(elapsed);
            let left = job.total_bytes.saturating_sub(job.done_bytes) as f64;
            job.left_ms =
                (job.done_bytes > 0).then(|| millis(elapsed.mul_f64(left / job.done_bytes as f64)));
        }
        job
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Running {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Tells how far it is, and waits as its rate wants; `false` when it was cancelled.
    #[must_use]
    pub fn go_on(&self, done: u64, total: u64) -> bool {
        let mut list = self.jobs.list();
        loop {
            let Ok(entry) = list.of(self.id) else { return false };
            (entry.job.done_bytes, entry.job.total_bytes) = (done, total.max(done));
            if entry.cancel {
                return false;
            }
            let early = entry.pace.ahead(done.saturating_sub(entry.base));
            self.jobs.0.changed.notify_all();
            if early.is_zero() {
                return true;
            }
            let waited = self.jobs.0.changed.wait_timeout(list, early.min(LOOK));
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Notes how long requests had to wait.
    pub fn paused(&self, time: Duration) {
        if let Ok(entry) = self.jobs.list().of(self.id) {
            entry.job.pause_ns.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// It ended.
    pub fn end(self, result: &Result<()>) {
        let mut list = self.jobs.list();
        if let Ok(entry) = list.of(self.id) {
            entry.job = Job { left_ms: Some(0), ..entry.told() };
            entry.job.state = match result {
                Ok(()) => JobState::Done,
                Err(_) if entry.cancel => JobState::Cancelled,
                Err(_) => JobState::Failed,
            };
            if let Err(failure) = result {
                let cancelled = entry.cancel.then(|| "cancelled".to_owned());
                entry.job.message = Some(failure.to_string());
                entry.job.code = Some(u64::from(failure.code.number()));
                entry.job.error_kind = cancelled.or_else(|| Some(failure.kind.to_string()));
                entry.job.hint.clone_from(&failure.hint);
            }
        }
        drop(list);
        self.jobs.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_stopped_when_asked() {
        let jobs = Jobs::default();
        let running = jobs.begin(jobs.turn("merge").unwrap(), "merge", None);
        assert!(jobs.turn("grow").is_err());
        assert!(running.go_on(1, 4));
        let id = running.id();
        let seen = jobs.wait(id, None, Duration::ZERO).unwrap();
        assert_eq!((seen.done_bytes, seen.total_bytes, seen.state), (1, 4, JobState::Running));
        jobs.set_rate(id, Some(1)).unwrap();
        let other = jobs.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            other.cancel(id).unwrap();
        });
        let began = Instant::now();
        assert!(!running.go_on(1 << 30, 4));
        assert!(began.elapsed() >= Duration::from_millis(50));
        stopper.join().unwrap();
        running.end(&Err(Failure::parameter("stopped")));
        let seen = jobs.wait(id, Some(&seen), Duration::from_secs(5)).unwrap();
        assert_eq!(seen.state, JobState::Cancelled);
        assert!(jobs.cancel(id).is_err() && jobs.cancel(77).is_err());
        assert!(jobs.turn("grow").is_ok());
    }

    #[test]
    fn short_operations_take_turns_in_the_order_they_came() {
        let jobs = Jobs::default();
        let first = jobs.turn("a snapshot").unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for n in 0..5 {
            let (jobs, order) = (jobs.clone(), Arc::clone(&order));
            let before = jobs.list().number;
            let asking = jobs.clone();
            threads.push(std::thread::spawn(move || {
                let turn = asking.turn("a snapshot").unwrap();
                order.lock().unwrap().push(n);
                drop(turn);
            }));
            while jobs.list().number == before {
                std::thread::yield_now();
            }
        }
        assert!(order.lock().unwrap().is_empty());
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        // What may last is told at once, also to those who wait already.
        let first = jobs.turn("a pause").unwrap();
        let asking = jobs.clone();
        let before = jobs.list().number;
        let waits = std::thread::spawn(move || asking.turn("a grow").map(drop));
        while jobs.list().number == before {
            std::thread::yield_now();
        }
        first.lasts();
        assert_eq!(waits.join().unwrap().unwrap_err().code, Code::Busy);
        drop(first);
        assert!(jobs.turn("a grow").is_ok());
    }
}
