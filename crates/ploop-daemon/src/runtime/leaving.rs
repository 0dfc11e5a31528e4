//! How the block device goes when nobody is to lose anything: who has it is asked first, and what
//! was begun is called off when somebody came in between.
//!
//! Of a loop device the end itself is the proof. It is freed with its last user, and only then its
//! file can be unmounted: when that is refused the device still works, and is kept again. One of
//! ublk or of the kernel's NBD client can only be ended for everybody, so that one who opens it
//! between the last look and the end gets errors.

use super::exports::Exports;
use super::partition::Partition;
use super::session::Session;
use crate::users::{self, User};
use crate::{Code, Failure, Result};
use ploop_fuse::LoopDevice;
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long programs that look at a device for a moment (udev, a prober) may take to let go of it.
const PASSING: Duration = Duration::from_millis(500);
/// How long the kernel may keep a device claimed for somebody who is gone (a file system whose last
/// mount went).
const CLAIMED: Duration = Duration::from_secs(5);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);

/// Why a device cannot go now.
#[derive(Debug)]
pub struct Busy {
    /// Who has it.
    pub failure: Failure,
    /// It may pass in this time.
    pub patience: Duration,
}

impl Exports {
    /// Who has the block device, if anybody has: 46.
    #[must_use]
    pub fn busy(&self) -> Option<Busy> {
        let device = self.device()?;
        let mut users = users::of_device(device);
        if let Some(file) = &self.loop_file {
            // Whoever has the file below open would get errors as well.
            users.extend(users::of_mount(file.path()));
        }
        if let Some(first) = users.first() {
            let patience = if users.iter().any(User::stays) { Duration::ZERO } else { PASSING };
            let message = format!("{} is in use: {}", device.display(), users::told(&users));
            let failure = Failure::new(Code::DeviceBusy, message).hint(first.hint());
            return Some(Busy { failure, patience });
        }
        claimed(device).then(|| Busy { failure: unnamed(device), patience: CLAIMED })
    }

    /// Takes the block device away while everything still runs. After an error it is there as
    /// before, and so are its users. Held requests fail first (T17): what is written back here may
    /// need space, and nobody may wait for that.
    ///
    /// # Errors
    /// Somebody has it.
    pub fn release(&mut self, session: &Session) -> Result<(), Busy> {
        if let Some(busy) = self.busy() {
            return Err(held(busy, session));
        }
        let given_up = session.device().has_given_up();
        session.device().give_up(true);
        let released = self.let_go(session);
        if released.is_err() {
            session.device().give_up(given_up);
        }
        released
    }

    fn let_go(&mut self, session: &Session) -> Result<(), Busy> {
        let partition = self.partition.take();
        if let Some(partition) = &partition
            && let Err(failure) = partition.remove()
        {
            // The kernel knows of one that was not found; it has changed nothing.
            let busy = self.busy().unwrap_or(Busy { failure, patience: PASSING });
            self.partition = Some(partition.clone());
            return Err(busy);
        }
        match self.let_loop_go() {
            Ok(()) => Ok(()),
            Err(busy) => {
                self.put_back(partition.as_ref(), session);
                Err(busy)
            }
        }
    }

    /// The loop device is closed here; it has gone when its file can be unmounted.
    fn let_loop_go(&mut self) -> Result<(), Busy> {
        let (Some(device), Some(mut file)) = (self.device.take(), self.loop_file.take()) else {
            return Ok(());
        };
        let (path, read_only) = (device.path().to_owned(), device.is_read_only());
        if let Err(error) = device.detach() {
            tracing::error!("{}: {error}", path.display());
        }
        let until = Instant::now() + PASSING;
        loop {
            match file.stop() {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_busy() => {
                    tracing::warn!("{error}");
                    self.loop_file = Some(file);
                    return Ok(());
                }
                Err(_) if Instant::now() < until => std::thread::sleep(AGAIN),
                Err(_) => break,
            }
        }
        let again = LoopDevice::again(&path, file.path(), read_only);
        self.loop_file = Some(file);
        match again {
            Ok(Some(device)) => {
                self.device = Some(device);
                let busy = self.busy();
                Err(busy.unwrap_or_else(|| Busy { failure: unnamed(&path), patience: PASSING }))
            }
            // It went in this moment.
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::error!("{error}");
                Ok(())
            }
        }
    }

    fn put_back(&mut self, partition: Option<&Partition>, session: &Session) {
        let (Some(old), Some(device)) = (partition, self.device()) else { return };
        let block = u64::from(session.device().limits().block);
        match Partition::add_first(device, block) {
            Ok(now) => self.partition = now,
            Err(failure) => tracing::error!("{} is gone: {failure}", old.path().display()),
        }
    }
}

/// A user may wait for space on the host, and not even be killed.
fn held(mut busy: Busy, session: &Session) -> Busy {
    let device = session.device();
    let held: u64 = (0..device.queues()).map(|n| device.queue_stats(n).parked.get()).sum();
    if held > 0 && !device.has_given_up() {
        let hint = busy.failure.hint.take().unwrap_or_default();
        let force = "`ploop detach --force` fails them and takes the device away";
        let held = format!("{held} requests wait for space on the host: {force}");
        busy.failure = busy.failure.hint(format!("{hint}; {held}"));
    }
    busy
}

fn unnamed(device: &Path) -> Failure {
    let message =
        format!("{} is in use by somebody whom /proc and sysfs do not show", device.display());
    Failure::new(Code::DeviceBusy, message)
        .hint("--force takes it away all the same: whoever has it gets errors")
}

/// Whether the kernel has the device claimed: for a mount, swap, device-mapper.
fn claimed(device: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    let asked = ploop_fuse::apart(|| rustix::fs::open(device, flags, Mode::empty()).map(drop));
    matches!(asked, Ok(Err(rustix::io::Errno::BUSY)))
}
