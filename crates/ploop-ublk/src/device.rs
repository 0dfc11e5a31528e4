//! A device's life: added (or taken over), served by its queues, started, stopped, removed.

use crate::abi::{DevInfo, IO_DESC_BYTES, MAX_DEPTH, Params, feature, state};
use crate::control::Control;
use crate::copies::Copies;
use crate::descriptors::Descriptors;
use crate::error::Error;
use crate::front::{Life, UblkFront};
use ploop_engine::Limits;
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Requests of a queue.
const DEPTH: u16 = 64;
/// Longest transfer: each request has a buffer of this size from the start (D7).
const MAX_IO: u32 = 256 << 10;
/// How long the kernel may take to make or release a device's file.
const SETTLE: Duration = Duration::from_secs(10);

/// What a server asks for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Queues at most.
    pub queues: usize,
    /// Names the disk to the next life: a device that waits with this word is taken over. 0: none.
    pub identity: u64,
    /// A kill loses nothing that was answered, so requests may wait for the next life (F2, I14).
    pub recoverable: bool,
    /// How data moves; `None`: the best way the driver has.
    pub copies: Option<Copies>,
}

/// A device.
pub struct UblkDevice {
    control: Control,
    info: DevInfo,
    path: PathBuf,
    recovered: bool,
    stopped: bool,
    /// The queues end, and the device waits for another server.
    leaving: Arc<AtomicBool>,
    /// The kernel has a disk, so the queues must serve until it is gone.
    started: Arc<AtomicBool>,
}

impl UblkDevice {
    /// Makes a device, or takes over the one that waits for this disk. Its queues come from
    /// [`UblkDevice::fronts`], and it has a disk after [`UblkDevice::start`].
    ///
    /// # Errors
    /// There is no ublk here, or the driver refuses.
    pub fn open(limits: Limits, options: Options) -> Result<Self, Error> {
        let mut control = Control::open()?;
        if options.identity != 0
            && let Some(info) = waiting(&mut control, options.identity)?
        {
            return Self::take_over(control, info, options);
        }
        let queues = u16::try_from(options.queues).unwrap_or(1).max(1);
        let offered = control.features()?;
        let recovery = feature::USER_RECOVERY | feature::USER_RECOVERY_REISSUE;
        let recovery = recovery | offered & feature::QUIESCE;
        let flags = if options.recoverable { recovery } else { 0 };
        let copies = options.copies.unwrap_or(Copies::best(offered));
        if copies.flags() & !offered != 0 {
            return Err(Error::NoCopies { copies, offered });
        }
        let flags = flags | copies.flags();
        let wish = DevInfo {
            queues,
            depth: DEPTH,
            max_io: MAX_IO,
            dev_id: u32::MAX,
            flags: flags | feature::CMD_IOCTL_ENCODE | (offered & feature::UPDATE_SIZE),
            server: options.identity,
            ..DevInfo::default()
        };
        let info = control.add(wish)?;
        let mut device = Self::new(control, info, false);
        let params = params(limits, Copies::of(info.flags));
        if let Err(error) = device.control.set_params(info.dev_id, params) {
            device.delete();
            return Err(error);
        }
        Ok(device)
    }

    fn take_over(mut control: Control, info: DevInfo, options: Options) -> Result<Self, Error> {
        let DevInfo { dev_id: device, queues, depth, .. } = info;
        let fits = queues > 0 && depth == DEPTH && info.max_io == MAX_IO && options.queues > 0;
        if !fits {
            return Err(Error::Shape { device, queues, depth });
        }
        control.start_recovery(device)?;
        tracing::info!("ublk device {device} waited for its server");
        Ok(Self::new(control, info, true))
    }

    fn new(control: Control, info: DevInfo, recovered: bool) -> Self {
        let path = PathBuf::from(format!("/dev/ublkb{}", info.dev_id));
        Self {
            control,
            info,
            path,
            recovered,
            stopped: false,
            leaving: Arc::default(),
            started: Arc::default(),
        }
    }

    /// The block device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its data moves.
    #[must_use]
    pub fn copies(&self) -> Copies {
        Copies::of(self.info.flags)
    }

    /// Whether it was taken over from a server that is gone.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The front ends of all queues; several may live on one thread.
    ///
    /// # Errors
    /// The device's file cannot be opened or mapped; no memory.
    pub fn fronts(&mut self) -> Result<Vec<UblkFront>, Error> {
        let file = Arc::new(open_file(self.info.dev_id)?);
        let mut fronts = Vec::new();
        for queue in 0..self.info.queues {
            let descriptors = Descriptors::map(&file, queue, self.info.depth)
                .map_err(|source| Error::File { path: file_path(self.info.dev_id), source })?;
            let life =
                Life { started: Arc::clone(&self.started), leaving: Arc::clone(&self.leaving) };
            let max_io = self.info.max_io as usize;
            let how = (max_io, self.copies());
            let front = UblkFront::new(Arc::clone(&file), descriptors, queue, how, life);
            let bytes = max_io * usize::from(self.info.depth);
            fronts.push(front.map_err(|error| Error::Memory(bytes, error))?);
        }
        Ok(fronts)
    }

    /// Makes the disk, or lets it go on. The queues must run already.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn start(&mut self) -> Result<(), Error> {
        // Before the command: it comes back only after requests were served.
        self.started.store(true, Ordering::SeqCst);
        let result = if self.recovered {
            self.control.end_recovery(self.info.dev_id)
        } else {
            self.control.start(self.info.dev_id)
        };
        self.started.store(result.is_ok(), Ordering::SeqCst);
        result
    }

    /// The device has grown: its users see this size from now on.
    ///
    /// # Errors
    /// The driver cannot change the size of a disk that runs (Linux 6.16 can), or refuses.
    pub fn update_size(&mut self, bytes: u64) -> Result<(), Error> {
        self.control.update_size(self.info.dev_id, bytes >> 9)
    }

    /// Whether it can be left to another server while in use. (Older drivers take a killed server
    /// well, but lost a request when one queue's ring closed while another still served.)
    #[must_use]
    pub fn can_wait(&self) -> bool {
        let needed = feature::USER_RECOVERY | feature::QUIESCE;
        self.info.flags & needed == needed
            && self.info.server != 0
            && self.started.load(Ordering::SeqCst)
    }

    /// Leaves it to the next server of the disk: the queues answer what they have begun and end,
    /// and the driver hands the rest over then.
    ///
    /// # Errors
    /// It cannot wait: it goes instead.
    pub fn leave(&mut self) -> Result<(), Error> {
        if !self.can_wait() {
            return self.stop();
        }
        self.leaving.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the disk away; the queues must still run, for what is cached above is written now.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn stop(&mut self) -> Result<(), Error> {
        if !self.started.load(Ordering::SeqCst) {
            return Ok(());
        }
        let result = self.control.stop(self.info.dev_id);
        // Without its end no fetch comes back: the queues need not wait for that.
        self.started.store(result.is_ok(), Ordering::SeqCst);
        self.stopped = result.is_ok();
        result
    }

    /// Removes the device, after its queues have ended. One that was taken over and did not get
    /// to run goes on waiting: a file system may be mounted on it.
    pub fn delete(&mut self) {
        if self.leaving.load(Ordering::SeqCst) {
            tracing::info!("{} waits for its next server", self.path.display());
            return;
        }
        if self.recovered && !self.stopped {
            tracing::warn!("{} goes on waiting for a server", self.path.display());
            return;
        }
        if let Err(error) = self.control.delete(self.info.dev_id) {
            tracing::warn!("{error}: {}", source(&error));
        }
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// The block device that has lost its server and waits for the one of this disk.
#[must_use]
pub fn waiting_for(identity: u64) -> Option<PathBuf> {
    let mut control = Control::open().ok()?;
    let info = of_disk(&mut control, identity)?;
    Some(PathBuf::from(format!("/dev/ublkb{}", info.dev_id)))
}

/// A device with this word that outlives its server. The image's lock is ours (F7) when this is
/// asked, so its server is gone.
fn of_disk(control: &mut Control, identity: u64) -> Option<DevInfo> {
    let ours = devices().into_iter().filter_map(|n| control.info(n).ok());
    let mut ours = ours
        .filter(|info| info.server == identity && info.flags & feature::USER_RECOVERY != 0)
        .filter(|info| info.state != state::DEAD);
    ours.next()
}

/// As [`of_disk`], at rest: a server that just died may still be on its way out.
fn waiting(control: &mut Control, identity: u64) -> Result<Option<DevInfo>, Error> {
    let until = Instant::now() + SETTLE;
    loop {
        match of_disk(control, identity) {
            None => return Ok(None),
            Some(info) if info.state == state::QUIESCED => return Ok(Some(info)),
            Some(info) if Instant::now() > until => return Err(Error::Unsettled(info.dev_id)),
            Some(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Numbers of all devices.
fn devices() -> Vec<u32> {
    let Ok(names) = std::fs::read_dir("/sys/class/ublk-char") else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("ublkc")?.parse().ok();
    names.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect()
}

fn file_path(device: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{device}"))
}

/// The device's file; udev may still be making it.
fn open_file(device: u32) -> Result<OwnedFd, Error> {
    let path = file_path(device);
    let until = Instant::now() + SETTLE;
    loop {
        match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => return Ok(file),
            Err(errno) if Instant::now() > until => {
                return Err(Error::File { path, source: errno.into() });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// What the disk is like.
fn params(limits: Limits, copies: Copies) -> Params {
    let shift = |bytes: u32| bytes.max(512).ilog2() as u8;
    let cluster = u32::try_from(limits.cluster).unwrap_or(1 << 20);
    let max_zero = u32::try_from(limits.max_zero >> 9).unwrap_or(u32::MAX >> 9);
    Params {
        read_only: limits.read_only,
        logical_shift: shift(limits.block),
        // More than a page is not a block to the kernel.
        physical_shift: shift(limits.physical_block.clamp(limits.block, 4096)),
        optimal_shift: shift(cluster.min(MAX_IO)),
        max_sectors: MAX_IO.min(limits.max_transfer) >> 9,
        sectors: limits.size >> 9,
        discard_granularity: cluster,
        // In 32 bits of bytes, with whole blocks.
        max_zero_sectors: max_zero.min(u32::MAX >> 9) & !7,
        memory_align: (copies == Copies::Zero).then_some(limits.buffer_align),
    }
}

const _: () = assert!(DEPTH <= MAX_DEPTH && IO_DESC_BYTES == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_parameters() {
        let limits = Limits {
            size: 3 << 30,
            block: 512,
            physical_block: 4096,
            cluster: 1 << 20,
            buffer_align: 512,
            max_transfer: 1 << 25,
            max_zero: 1 << 40,
            read_only: false,
        };
        assert_eq!(params(limits, Copies::Zero).memory_align, Some(512));
        let params = params(limits, Copies::Driver);
        assert_eq!(params.memory_align, None);
        let shifts = (params.logical_shift, params.physical_shift, params.optimal_shift);
        assert_eq!(shifts, (9, 12, 18));
        assert_eq!((params.sectors, params.max_sectors), (6 << 20, 512));
        assert_eq!(params.max_zero_sectors, (u32::MAX >> 9) & !7);
    }
}
