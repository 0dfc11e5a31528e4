//! `ploop snapshot-switch`, `snapshot-delete`, `snapshot-merge` and `grow`. Of a disk that is open
//! its server does the work (`online.rs`): same words, same result.

use super::online;
use crate::args::Files;
use crate::host::server;
use crate::show::progress::Progress;
use crate::show::{Output, json};
use crate::{layer_args as args, plan};
use ploop_daemon::control::types::MergeCall;
use ploop_daemon::runtime::copier::{Pace, Together};
use ploop_daemon::runtime::holder::describe;
use ploop_daemon::runtime::{ServeSpec, open};
use ploop_daemon::{Code, Failure, Result};
use ploop_format::{Guid, Sector};
use ploop_image::layers::{
    Deleted, Merged, Which, Work, delete, grow, merge, merge_leftovers, switch,
};
use ploop_image::locate::{Located, locate};
use ploop_image::{Note, OpenOptions};
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes per second by the last glance of the eye: a line is redrawn so often.
const NAP: Duration = Duration::from_millis(50);

/// `ploop snapshot-switch`
pub fn switch_to(args: &args::SnapshotSwitch, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Shown {
        image: PathBuf,
        kept: Option<String>,
    }
    let guid = plan::guid(&args.uuid)?;
    let disk = closed(&args.disk)?;
    let options = options(&disk, false, args.files);
    let done = switch(&RealDir, &RealEntropy, &disk, guid, args.keep, &options)?;
    say(&done.notes);
    // Who lay on what was dropped may be an only child now.
    leftovers(&disk, &options, None)?;
    if output.json {
        let kept = done.kept.map(|guid| guid.to_string());
        json::print(&Shown { image: done.image, kept });
    }
    Ok(())
}

/// `ploop snapshot-delete`
pub fn remove(args: &args::SnapshotDelete, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Shown {
        deleted: &'static str,
        copied_bytes: u64,
    }
    let guid = plan::guid(&args.uuid)?;
    let rate = rate(&args.pace)?;
    let disk = whole(plan::absolute(&args.disk)?);
    if let Some(entry) = server::of_disk(&disk)? {
        return online::remove(&entry, guid, rate, output);
    }
    let (deleted, copied_bytes) = remove_closed(&disk, guid, rate, args.pace.drop_cbt, args.files)?;
    if output.json {
        json::print(&Shown { deleted, copied_bytes });
    }
    Ok(())
}

/// Deletes a snapshot of a closed disk; what became of it, and bytes copied.
pub fn remove_closed(
    disk: &Path,
    guid: Guid,
    rate: Option<u64>,
    drop_cbt: bool,
    files: Files,
) -> Result<(&'static str, u64)> {
    let options = options(disk, drop_cbt, files);
    let done = working(disk, rate, "merging", |work| {
        delete(&RealDir, &RealEntropy, disk, guid, &options, work)
    })?;
    let told = match done {
        Deleted::Removed(notes) => {
            say(&notes);
            ("removed", 0)
        }
        Deleted::Merged(merged) => {
            say(&merged.notes);
            ("merged", merged.bytes)
        }
        Deleted::Marked => ("marked", 0),
    };
    leftovers(disk, &options, rate)?;
    Ok(told)
}

/// `ploop snapshot-merge`
pub fn merge_levels(args: &args::SnapshotMerge, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Shown {
        image: PathBuf,
        levels: usize,
        copied_bytes: u64,
    }
    plan::not_yet("snapshot-merge", &[("-n", args.new.is_some())])?;
    let which = match (&args.uuid, args.all) {
        (Some(uuid), _) => Which::One(plan::guid(uuid)?),
        (None, true) => Which::All,
        (None, false) => Which::Top,
    };
    let rate = rate(&args.pace)?;
    let disk = whole(plan::absolute(&args.disk)?);
    if let Some(entry) = server::of_disk(&disk)? {
        let uuid = args.uuid.clone();
        let call = MergeCall { uuid, all: Some(args.all), rate_bytes: rate };
        return online::merge(&entry, &call, output);
    }
    let options = options(&disk, args.pace.drop_cbt, args.files);
    let done = working(&disk, rate, "merging", |work| {
        merge(&RealDir, &RealEntropy, &disk, which, &options, work)
    })?;
    say(&done.notes);
    leftovers(&disk, &options, rate)?;
    if output.json {
        let Merged { image, levels, bytes, .. } = done;
        json::print(&Shown { image, levels, copied_bytes: bytes });
    }
    Ok(())
}

/// `ploop grow`
pub fn larger(args: &args::Grow, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Shown {
        image: PathBuf,
        before_bytes: u64,
        size_bytes: u64,
    }
    let foreign = args.format.as_deref().is_some_and(|format| format != "raw");
    plan::not_yet("grow", &[("-d", args.device.is_some()), ("-f", foreign)])?;
    let size = Sector(plan::size(&args.size)?);
    let target = plan::absolute(&args.target)?;
    if let Some(entry) = server::of_disk(&target)? {
        return online::grow(&entry, size.bytes(), output);
    }
    let done = grow(&RealDir, &target, size, &options(&target, args.drop_cbt, args.files))?;
    say(&done.notes);
    if output.json {
        let (before_bytes, size_bytes) = (done.before.bytes(), done.size.bytes());
        json::print(&Shown { image: done.image, before_bytes, size_bytes });
    }
    Ok(())
}

/// The disk of an image that was named: the operation may remove that very file, and goes on.
fn whole(disk: PathBuf) -> PathBuf {
    match locate(&RealDir, &disk) {
        Ok(Located::Descriptor(descriptor)) => descriptor,
        _ => disk,
    }
}

/// The disk, when no server of ours has it open.
pub(super) fn closed(disk: &Path) -> Result<PathBuf> {
    let disk = whole(plan::absolute(disk)?);
    if let Some(entry) = server::of_disk(&disk)? {
        let message = format!("{} is in use by {}", disk.display(), describe(&entry));
        return Err(Failure::new(Code::InUse, message).hint("detach or unmount it first"));
    }
    Ok(disk)
}

pub(super) fn options(disk: &Path, drop_cbt: bool, files: Files) -> OpenOptions {
    open::options(&ServeSpec { drop_cbt, ..plan::private(disk.to_owned(), false, files) })
}

pub(super) fn rate(pace: &args::Pace) -> Result<Option<u64>> {
    pace.rate.as_deref().map(plan::rate).transpose()
}

pub(super) fn say(notes: &[Note]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}

/// What had to wait for what was just done.
fn leftovers(disk: &Path, options: &OpenOptions, rate: Option<u64>) -> Result<()> {
    let done = working(disk, rate, "merging what waited for it", |work| {
        merge_leftovers(&RealDir, &RealEntropy, disk, options, work)
    })?;
    for merged in done {
        say(&merged.notes);
        tracing::info!("{} took in {} levels that waited", merged.image.display(), merged.levels);
    }
    Ok(())
}

/// Runs a long operation: its rate is held, its progress shown, and Ctrl-C ends it.
pub(super) fn working<T>(
    disk: &Path,
    rate: Option<u64>,
    what: &str,
    run: impl FnOnce(&mut Work<'_>) -> Result<T, ploop_image::ImageError>,
) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Failure::io(Code::System, "cannot watch for signals", &e))?;
    }
    let line = Progress::new(format!("{what}: {}", disk.display()));
    let pace = Pace::new(rate);
    let mut progress = |done: u64, total: u64| {
        let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
        let left = pace.left(done, total).map_or(0, |left| left.as_secs());
        line.say(format!("{what}: {percent}%, {left} s left"));
        while !pace.ahead(done).is_zero() && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(pace.ahead(done).min(NAP));
        }
        !stop.load(Ordering::SeqCst)
    };
    let copier = Together::default();
    Ok(run(&mut Work { progress: &mut progress, copier: &copier })?)
}
