//! The kernel's NBD client as a block device of a disk: `/dev/nbdN`, with a socket for each queue.

use super::nbd::Nbd;
use super::partition;
use super::spec::ServeSpec;
use super::ublk::Traits;
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_engine::Limits;
use ploop_nbd::kernel::{KernelError, NbdDevice};
use ploop_nbd::{Adopter, ExportInfo};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks for sockets that the kernel has given up.
const LOOK: Duration = Duration::from_secs(2);

/// A device, and its first partition as far as the kernel has found one.
pub struct KernelNbd {
    device: Arc<Mutex<NbdDevice>>,
    path: PathBuf,
    /// Found by the kernel; goes with the device.
    pub partition: Option<PathBuf>,
    /// Sees to its sockets until it is dropped.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The name under which a device is known to the next server; `None` for one that only reads, of
/// which there may be several.
pub fn identity(traits: Traits, read_only: bool) -> Option<String> {
    (!read_only).then(|| format!("ploop-{:016x}", traits.identity()))
}

impl KernelNbd {
    /// Makes the device, or takes over the one that waits for this disk. The queues run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(spec: &ServeSpec, limits: Limits, traits: Traits, nbd: &Nbd) -> Result<Self> {
        let export = ExportInfo {
            name: String::new(),
            description: String::new(),
            read_only: limits.read_only,
            limits,
        };
        let identity = identity(traits, limits.read_only);
        let (device, sockets) = NbdDevice::connect(&export, spec.queues, identity.as_deref())?;
        let adopter = nbd.adopter();
        for (queue, socket) in sockets.into_iter().enumerate() {
            adopter.adopt(socket, &export, queue);
        }
        // The first open has the kernel look for partitions.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let look = || rustix::fs::open(device.path(), flags, Mode::empty()).map(drop);
        let _ = ploop_fuse::apart(look);
        let path = device.path().to_owned();
        let partition = partition::found(&path, u64::from(limits.block));
        let device = Arc::new(Mutex::new(device));
        let (stop, stopped) = channel();
        let theirs = Arc::clone(&device);
        let keep = move || keep(&theirs, &adopter, &export, &stopped);
        let thread = std::thread::Builder::new().name("ploop-nbd".into()).spawn(keep);
        let keeper = Some((stop, thread.or_fail(Code::System, "a thread for the device")?));
        Ok(Self { device, path, partition, keeper })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel a new size.
    ///
    /// # Errors
    /// It does not take it.
    pub fn update_size(&mut self, bytes: u64) -> Result<()> {
        Ok(locked(&self.device).update_size(bytes)?)
    }

    /// Ends the device while the queues run: what the kernel has cached comes down first.
    ///
    /// # Errors
    /// The kernel does not let go.
    pub fn disconnect(mut self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let sync = || {
            let device = rustix::fs::open(self.path(), flags, Mode::empty())?;
            rustix::fs::fsync(&device)
        };
        if let Ok(Err(errno)) = ploop_fuse::apart(sync) {
            let path = self.path().display();
            tracing::error!("{path}: what was cached is not on the disk: {errno}");
        }
        if let Some((stop, thread)) = self.keeper.take() {
            drop(stop);
            // A panic ends the process (F27).
            let _ = thread.join();
        }
        Ok(locked(&self.device).disconnect()?)
    }
}

fn locked(device: &Mutex<NbdDevice>) -> MutexGuard<'_, NbdDevice> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that was held for long has cost its socket: the kernel gets another.
fn keep(device: &Mutex<NbdDevice>, adopter: &Adopter, export: &ExportInfo, stopped: &Receiver<()>) {
    let mut queue = 0;
    while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        match locked(device).mend() {
            Ok(None) => {}
            Ok(Some(socket)) => {
                tracing::warn!("the kernel had given up a socket of its device: it has another");
                adopter.adopt(socket, export, queue);
                queue += 1;
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::new(Code::Device, error.to_string())
    }
}
