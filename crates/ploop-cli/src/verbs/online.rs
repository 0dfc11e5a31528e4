//! The verbs that change layers, of a disk that is open: its server does the work.

use crate::host::freeze::Frozen;
use crate::host::server;
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
    pause_us: u64,
}

impl From<SnapshotReply> for Taken {
    fn from(reply: SnapshotReply) -> Self {
        let SnapshotReply { uuid, image, pause_ns } = reply;
        Self { uuid, image, pause_us: pause_ns / 1000 }
    }
}

/// Freezes the present state of an open disk, its file system at rest.
pub fn snapshot(entry: &Entry, guid: Option<Guid>, freeze: bool, output: Output) -> Result<()> {
    let mut client = server::connect(entry)?;
    let frozen = if freeze { Frozen::of_entry(entry)? } else { None };
    let taken = client.snapshot(guid.map(|guid| guid.to_string()), false);
    drop(frozen);
    let taken = Taken::from(taken?);
    if output.json {
        json::print(&taken);
    }
    Ok(())
}

/// A snapshot that is to be deleted when it is not used any more; returns its name.
pub fn temporary(entry: &Entry, guid: Option<Guid>) -> Result<Guid> {
    let mut client = server::connect(entry)?;
    let frozen = Frozen::of_entry(entry)?;
    let taken = client.snapshot(guid.map(|guid| guid.to_string()), true);
    drop(frozen);
    plan::guid(&taken?.uuid)
}

/// The same moment of several open disks: all or none.
pub fn group(entries: &[Entry], guid: Option<Guid>, freeze: bool, output: Output) -> Result<()> {
    let mut clients = Vec::with_capacity(entries.len());
    for entry in entries {
        clients.push(server::connect(entry)?);
    }
    let mut frozen = Vec::new();
    for entry in entries.iter().filter(|_| freeze) {
        frozen.extend(Frozen::of_entry(entry)?);
    }
    let taken = paused(&mut clients, guid);
    drop(frozen);
    let taken = taken?;
    if output.json {
        json::print(&taken);
    }
    Ok(())
}

/// Pauses all, takes all snapshots, lets all go on. What fails on one disk is taken back on all.
fn paused(clients: &mut [Client], guid: Option<Guid>) -> Result<Vec<Taken>> {
    let mut held = 0;
    let mut result = Ok(());
    for client in &mut *clients {
        result = client.pause(GROUP_PAUSE);
        if result.is_err() {
            break;
        }
        held += 1;
    }
    let mut taken: Vec<Taken> = Vec::new();
    if result.is_ok() {
        for client in &mut *clients {
            match client.snapshot(guid.map(|guid| guid.to_string()), false) {
                Ok(reply) => taken.push(reply.into()),
                Err(failure) => {
                    result = Err(failure);
                    break;
                }
            }
        }
    }
    if result.is_err() {
        for client in &mut clients[..taken.len()] {
            if let Err(failure) = client.undo_snapshot() {
                tracing::error!("a snapshot of the group stays: {failure}");
            }
        }
    }
    for client in &mut clients[..held] {
        if let Err(failure) = client.resume() {
            let late =
                Failure::new(Code::System, format!("the disks stood still too long: {failure}"))
                    .hint("the snapshots are not of one moment");
            result = result.and(Err(late));
        }
    }
    result.map(|()| taken)
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
        json::print(&job);
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
        json::print(&jobs);
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
