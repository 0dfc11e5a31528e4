//! Servers of this host: found, started and stopped by the verbs.

use super::mounts;
use ploop_daemon::background::{self, Background};
use ploop_daemon::control::Client;
use ploop_daemon::registry::{Entry, Registry};
use ploop_daemon::runtime::ServeSpec;
use ploop_daemon::{Code, Failure, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a device may stay claimed after its last mount went (delayed puts in the kernel).
const LET_GO: Duration = Duration::from_secs(5);

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
pub fn start(spec: &ServeSpec, verbosity: u8) -> Result<Background> {
    background::start(spec, &[format!("-v{verbosity}")])
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

/// Stops a server clean, when nothing is mounted from it.
///
/// # Errors
/// 46: its device is mounted or open. The server's own.
pub fn stop(entry: &Entry, force: bool) -> Result<()> {
    let until = Instant::now() + LET_GO;
    loop {
        if !force && let Some(mount) = mounts::of_entry(entry)?.first() {
            let device = entry.device.as_deref().unwrap_or("the device");
            let message = format!("{device} is mounted on {}", mount.target.display());
            return Err(Failure::new(Code::DeviceBusy, message)
                .hint(format!("ploop umount -m {}", mount.target.display())));
        }
        match connect(entry)?.stop(force) {
            Err(failure) if failure.code == Code::DeviceBusy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}
