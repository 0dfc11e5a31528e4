//! The verbs that change layers, of a disk that is open: its server does the work.

use crate::host::freeze::Frozen;
use crate::host::{server, stack};
use crate::show::progress::Progress;
use crate::show::{self, Output, json};
use crate::{layer_args as args, plan};
use ploop_daemon::control::Client;
use ploop_daemon::control::types::{Job, JobState, MergeCall, SnapshotReply};
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result};
use ploop_format::Guid;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest that several disks stand still for a snapshot of all.
const GROUP_PAUSE: Duration = Duration::from_secs(60);
/// Between two looks whether a job is to be cancelled.
const NAP: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Taken {
    uuid: String,
    image: String,
    pause_ns: u64,
}

#[derive(Serialize)]
struct Group {
    snapshots: Vec<Taken>,
}

#[derive(Serialize)]
struct Merge {
    copied_bytes: u64,
    job: Job,
}

#[derive(Serialize)]
struct Jobs {
    jobs: Vec<Job>,
}

impl From<SnapshotReply> for Taken {
    fn from(reply: SnapshotReply) -> Self {
        let SnapshotReply { uuid, image, pause_ns } = reply;
        Self { uuid, image, pause_ns }
    }
}

/// Freezes the present state of an open disk, its file systems at rest.
pub fn snapshot(entry: &Entry, guid: Option<Guid>, freeze: bool, output: Output) -> Result<()> {
    let taken = Taken::from(at_rest(entry, guid, freeze, false)?);
    if output.json {
        json::print(&taken);
    }
    Ok(())
}

/// A snapshot that is to be deleted when it is not used any more; returns its name.
pub fn temporary(entry: &Entry, guid: Option<Guid>) -> Result<Guid> {
    plan::guid(&at_rest(entry, guid, true, true)?.uuid)
}

fn at_rest(
    entry: &Entry,
    guid: Option<Guid>,
    freeze: bool,
    temporary: bool,
) -> Result<SnapshotReply> {
    let mut client = server::connect(entry)?;
    let mut frozen = if freeze { Frozen::of_entry(entry)? } else { Frozen::default() };
    let taken = client.snapshot(guid.map(|guid| guid.to_string()), temporary)?;
    let held = frozen.holds();
    drop(frozen);
    held.map_err(|failure| {
        let message = format!("the snapshot {} is not of a moment of rest: {failure}", taken.uuid);
        let disk = entry.disk.display();
        let hint = format!("ploop snapshot-delete -u {} {disk}, and try again", taken.uuid);
        Failure { message, ..failure }.hint(hint)
    })?;
    Ok(taken)
}

/// The same moment of several open disks: all or none.
pub fn group(entries: &[Entry], guid: Option<Guid>, freeze: bool, output: Output) -> Result<()> {
    // A disk that lies on another one's file system needs that for its snapshot's files.
    let order = stack::inner_first(entries)?;
    let mut members = Vec::with_capacity(entries.len());
    for &at in &order {
        members.push(Member {
            entry: &entries[at],
            client: server::connect(&entries[at])?,
            frozen: Frozen::default(),
            paused: false,
            taken: None,
        });
    }
    let mut taken = moment(&mut members, guid, freeze)?;
    if output.json {
        let mut told: Vec<_> = order.into_iter().zip(taken.drain(..)).collect();
        told.sort_by_key(|(at, _)| *at);
        let snapshots = told.into_iter().map(|(_, taken)| taken).collect();
        json::print(&Group { snapshots });
    }
    Ok(())
}

/// A disk of a group.
struct Member<'a> {
    entry: &'a Entry,
    client: Client,
    frozen: Frozen,
    paused: bool,
    taken: Option<SnapshotReply>,
}

impl Member<'_> {
    /// Brings it to rest, and takes its snapshot.
    fn take(&mut self, guid: Option<Guid>, freeze: bool) -> Result<()> {
        if freeze {
            self.frozen = Frozen::of_entry(self.entry)?;
        }
        self.client.pause(GROUP_PAUSE)?;
        self.paused = true;
        self.taken = Some(self.client.snapshot(guid.map(|guid| guid.to_string()), false)?);
        Ok(())
    }

    /// Lets it go on, without a snapshot if it is to be `undone`.
    fn release(&mut self, undone: bool) -> Result<()> {
        if undone
            && self.taken.take().is_some()
            && let Err(failure) = self.client.undo_snapshot()
        {
            tracing::error!("a snapshot of {} stays: {failure}", self.entry.disk.display());
        }
        let resumed = if self.paused { self.client.resume() } else { Ok(()) };
        self.frozen = Frozen::default();
        resumed
    }
}

/// Brings one after the other to rest, from the innermost on, and lets them go on in the opposite
/// order: what a disk's files lie on moves whenever the disk has something to write. All rest
/// between the last snapshot and the first that goes on. What fails on one is taken back on all.
fn moment(members: &mut [Member<'_>], guid: Option<Guid>, freeze: bool) -> Result<Vec<Taken>> {
    let mut result = Ok(());
    for member in &mut *members {
        result = member.take(guid, freeze).map_err(|failure| {
            let message = format!("{}: {}", member.entry.disk.display(), failure.message);
            Failure { message, ..failure }
        });
        if result.is_err() {
            break;
        }
    }
    for member in &mut *members {
        result = result.and_then(|()| member.frozen.holds());
    }
    let undone = result.is_err();
    for member in members.iter_mut().rev() {
        if let Err(failure) = member.release(undone) {
            let late =
                Failure::new(Code::System, format!("the disks stood still too long: {failure}"))
                    .hint("the snapshots are not of one moment");
            result = result.and(Err(late));
        }
    }
    result.map(|()| members.iter_mut().filter_map(|m| m.taken.take()).map(Taken::from).collect())
}

/// `ploop snapshot-delete`
pub fn remove(entry: &Entry, guid: Guid, rate: Option<u64>, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Shown {
        deleted: String,
        copied_bytes: u64,
    }
    let mut client = server::connect(entry)?;
    let reply = client.snapshot_delete(guid.to_string(), rate)?;
    let (deleted, copied_bytes) = match reply.job {
        None => (reply.deleted, 0),
        Some(job) => ("merged".to_owned(), follow(entry, job)?.done_bytes),
    };
    if output.json {
        json::print(&Shown { deleted, copied_bytes });
    }
    Ok(())
}

/// `ploop snapshot-merge`
pub fn merge(entry: &Entry, call: &MergeCall, output: Output) -> Result<()> {
    let job = server::connect(entry)?.merge(call)?;
    let job = follow(entry, job)?;
    if output.json {
        json::print(&Merge { copied_bytes: job.done_bytes, job });
    }
    Ok(())
}

/// `ploop grow`
pub fn grow(entry: &Entry, bytes: u64, output: Output) -> Result<()> {
    let grown = server::connect(entry)?.grow(bytes)?;
    if output.json {
        json::print(&grown);
    }
    Ok(())
}

/// Shows a job until it has ended; Ctrl-C cancels it.
fn follow(entry: &Entry, id: u64) -> Result<Job> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Failure::io(Code::System, "cannot watch for signals", &e))?;
    }
    let ended = AtomicBool::new(false);
    let line = Progress::new(format!("merging: {}", entry.disk.display()));
    let job = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                if stop.swap(false, Ordering::SeqCst)
                    && let Err(failure) = server::connect(entry).and_then(|mut c| c.cancel(id))
                {
                    tracing::warn!("job {id} cannot be cancelled: {failure}");
                }
                std::thread::sleep(NAP);
            }
        });
        let mut client = server::connect(entry)?;
        let job = client.watch(id, |job| {
            let percent = (job.done_bytes * 100).checked_div(job.total_bytes).unwrap_or(0).min(100);
            let left = job.left_ms.map_or(0, |left| left / 1000);
            line.say(format!("merging: {percent}%, {left} s left"));
        });
        ended.store(true, Ordering::SeqCst);
        job
    })?;
    match job.state {
        JobState::Done | JobState::Running => Ok(job),
        JobState::Cancelled | JobState::Failed => {
            let code = job.code.and_then(Code::from_number).unwrap_or(Code::Internal);
            let message = job.message.unwrap_or_else(|| "the job failed".to_owned());
            let failure = Failure::new(code, message);
            let kind = job.error_kind.map_or_else(|| failure.kind.clone(), Cow::Owned);
            Err(Failure { kind, hint: job.hint, ..failure })
        }
    }
}

/// `ploop jobs`
pub fn jobs(args: &args::Jobs, output: Output) -> Result<()> {
    let disk = &args.disk;
    let entry = server::of_target(disk)?.ok_or_else(|| {
        Failure::new(Code::NotMounted, format!("{} is not open: it has no jobs", disk.display()))
    })?;
    let mut client = server::connect(&entry)?;
    if let Some(job) = args.cancel {
        client.cancel(job)?;
    }
    if let Some(job) = args.set_rate {
        client.set_rate(job, args.rate.as_deref().map(plan::rate).transpose()?)?;
    }
    let jobs = client.jobs()?;
    if output.json {
        json::print(&Jobs { jobs });
        return Ok(());
    }
    for job in &jobs {
        show::line(told(job));
    }
    Ok(())
}

fn told(job: &Job) -> String {
    let Job { id, kind, done_bytes, total_bytes, elapsed_ms, .. } = job;
    let state = match job.state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Cancelled => "cancelled",
        JobState::Failed => "failed",
    };
    let pause = job.pause_ns.iter().max().map_or(0, |pause| pause / 1000);
    let left = job.left_ms.map_or_else(|| "-".to_owned(), |left| format!("{} s", left / 1000));
    let why = job.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    format!(
        "{id} {kind} {state}, {done_bytes} of {total_bytes} bytes, {} s, {left} left, \
         longest pause {pause} us{why}",
        elapsed_ms / 1000
    )
}
