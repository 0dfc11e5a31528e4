//! Servers of this host: found, started and stopped by the verbs.

use super::mounts;
use crate::show::Output;
use ploop_daemon::background::{self, Background};
use ploop_daemon::control::Client;
use ploop_daemon::registry::{self, Entry, Registry};
use ploop_daemon::runtime::{ServeSpec, means};
use ploop_daemon::{Code, Failure, Result, users};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a dead server's device may stay after its last user went (delayed puts in the kernel).
const LET_GO: Duration = Duration::from_secs(5);
/// How long a process may take to end after its sockets were closed.
const DYING: Duration = Duration::from_secs(1);

/// The server of a disk, if there is one.
///
/// # Errors
/// The registry cannot be read.
pub fn of_disk(disk: &Path) -> Result<Option<Entry>> {
    Registry::of_user().by_disk(disk)
}

/// The server of a device or of a disk.
///
/// # Errors
/// The registry cannot be read.
pub fn of_target(target: &Path) -> Result<Option<Entry>> {
    let registry = Registry::of_user();
    if let Some(entry) = target.to_str().and_then(|name| registry.by_device(name).transpose()) {
        return entry.map(Some);
    }
    registry.by_disk(target)
}

/// The server of a device or of a disk that was killed, if something of it is left.
///
/// # Errors
/// The registry cannot be read.
pub fn dead_of_target(target: &Path) -> Result<Option<Entry>> {
    let dead = Registry::of_user().dead()?;
    let by_device = target.to_str().and_then(|name| registry::of_device(dead.clone(), name));
    Ok(by_device.or_else(|| registry::of_disk(dead, target)))
}

/// Connects to a server.
///
/// # Errors
/// It does not answer.
pub fn connect(entry: &Entry) -> Result<Client> {
    Client::connect(&Registry::of_user().socket(&entry.id))
}

/// Starts a server in the background, with this tool's verbosity.
///
/// # Errors
/// The server's.
pub fn start(spec: &ServeSpec, output: Output) -> Result<Background> {
    let mut options = vec![format!("-v{}", output.verbosity)];
    if output.json {
        options.push("--json".to_owned());
    }
    background::start(spec, &options)
}

/// Another hint for a verb that makes a device by the way, where none can be made.
pub fn or(failure: Failure, without: &str) -> Failure {
    match &*failure.kind {
        means::UNAVAILABLE => failure.hint(without),
        _ => failure,
    }
}

/// The device to mount: the partition when there is one.
///
/// # Errors
/// The server has no device.
pub fn mountable(entry: &Entry) -> Result<&str> {
    entry.partition.as_deref().or(entry.device.as_deref()).ok_or_else(|| {
        Failure::new(Code::Device, format!("{} has no block device", entry.disk.display()))
    })
}

/// Takes away what a killed server left.
///
/// # Errors
/// 46: its device is mounted or open.
pub fn clear(entry: &Entry, force: bool) -> Result<()> {
    let until = Instant::now() + LET_GO;
    // The kernel frees the device when the last one has closed it, a moment later.
    while !Registry::of_user().clear(entry, force) {
        // Still there, so what is mounted is ours.
        not_mounted(entry)?;
        if Instant::now() >= until {
            return Err(still_used(entry));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    tracing::warn!(
        "the server of {} (pid {}) was killed: what it left is taken away",
        entry.disk.display(),
        entry.pid
    );
    Ok(())
}

fn still_used(entry: &Entry) -> Failure {
    let device = entry.device.as_deref().unwrap_or("the device");
    let message = format!("{device} is open, though its server was killed");
    if entry.transport.as_deref() == Some("ublk") {
        let hint = "`ploop attach` takes it over; after that it can be detached";
        return Failure::new(Code::DeviceBusy, message).hint(hint);
    }
    let users = users::of_device(Path::new(device));
    let Some(first) = users.first() else {
        return Failure::new(Code::DeviceBusy, message)
            .hint("`ploop detach --force` forgets it; it goes with its last user");
    };
    let message = format!("{message}: {}", users::told(&users));
    Failure::new(Code::DeviceBusy, message).hint(first.hint())
}

fn not_mounted(entry: &Entry) -> Result<()> {
    let mounts = mounts::of_entry(entry)?;
    let Some(mount) = mounts.first() else { return Ok(()) };
    let device = entry.device.as_deref().unwrap_or("the device");
    let message = format!("{device} is mounted on {}", mount.target.display());
    let hint = format!("ploop umount -m {}", mount.target.display());
    Err(Failure::new(Code::DeviceBusy, message).hint(hint))
}

/// Stops a server clean, when nothing is mounted from it.
///
/// # Errors
/// 46: its device is mounted or open. The server's own.
pub fn stop(entry: &Entry, force: bool) -> Result<()> {
    if !force {
        not_mounted(entry)?;
    }
    // The server waits for those who are about to let go.
    match connect(entry).and_then(|mut server| server.stop(force)) {
        Err(failure) if failure.code == Code::Protocol && was_killed(entry)? => clear(entry, force),
        other => other,
    }
}

/// Whether a server that does not answer any more is about to end without a stop. One that stops
/// takes its entry away.
fn was_killed(entry: &Entry) -> Result<bool> {
    let until = Instant::now() + DYING;
    loop {
        let dead = Registry::of_user().dead()?;
        if dead.iter().any(|dead| dead.id == entry.id && dead.pid == entry.pid) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
