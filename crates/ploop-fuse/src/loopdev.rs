//! Loop devices over the FUSE file (or any file).
//!
//! The device is configured with autoclear and kept open here: it goes when this process ends in
//! whatever way and nobody else uses it. Without autoclear, which is for devices that are to be
//! mounted, a killed server leaves a device over a dead file for the next verb to find
//! ([`free_dead`]); without the open descriptor the device would vanish
//! before its first user came. A file system mounted on it keeps it, with I/O errors, until it is
//! unmounted.
//!
//! **The descriptor lives in a thread with a descriptor table of its own.** The last close of a
//! block device writes out its page cache, here into our own FUSE file. In the common table a
//! killed process would do that before it closes /dev/fuse, and wait for itself for ever
//! (`apart.rs`).
//!
//! That thread also opens and configures the device, so no queue's, keeper's or FUSE thread ever
//! does (D8); the caller, which waits for it, must not be one of them either.

use crate::apart::own_table;
use crate::error::{Error, Result};
use crate::loop_status::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LOOP_CLR_FD, LOOP_CONFIGURE,
    LOOP_CTL_GET_FREE, LOOP_MAJOR, LOOP_SET_CAPACITY, LoopConfig, LoopInfo, backing, number,
    outcome, size, status,
};
use rustix::fs::{FileType, Mode};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often another process may take the device we were told is free.
const ATTEMPTS: u32 = 64;

/// How to attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopOptions {
    /// The device takes no writes.
    pub read_only: bool,
    /// Logical block: 512 or 4096, as the engine's limits say.
    pub block_size: u32,
    /// Refuse a device that would go through the page cache of the file below.
    pub direct_io: bool,
    /// The kernel frees it with its last user, also when this process is killed. Programs that list
    /// mounts name the file below of such a device instead of the device.
    pub autoclear: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self { read_only: false, block_size: 512, direct_io: true, autoclear: true }
    }
}

/// Something to do with the open device.
type Job = Box<dyn FnOnce(&File) + Send>;

/// A loop device that lives as long as this value (and its users).
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    number: u32,
    read_only: bool,
    /// To the thread that keeps the device open.
    jobs: Option<Sender<Job>>,
    keeper: Option<JoinHandle<()>>,
}

impl LoopDevice {
    /// Puts a free loop device over `file`.
    ///
    /// # Errors
    /// No right, no free device, or no direct I/O though it was asked for.
    pub fn attach(file: &Path, options: LoopOptions) -> Result<Self> {
        let below = file.to_path_buf();
        Self::kept(file, options.read_only, move || make(&below, options))
    }

    /// A device that `open` opens, on a thread that keeps it.
    fn kept(
        what: &Path,
        read_only: bool,
        open: impl FnOnce() -> Result<(PathBuf, u32, File)> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (made, answer) = sync_channel(1);
        let name = what.to_path_buf();
        let keeper = std::thread::Builder::new().name("ploop-loop".to_owned()).spawn(move || {
            let apart = own_table();
            let apart = apart.map_err(|error| Error::system("prepare to attach", &name, error));
            let device = apart.and_then(|()| open());
            let (told, device) = match device {
                Ok((path, number, device)) => (Ok((path, number)), Some(device)),
                Err(error) => (Err(error), None),
            };
            if made.send(told).is_ok()
                && let Some(device) = device
            {
                inbox.into_iter().for_each(|job| job(&device));
                // Without autoclear nobody else would; of one that is free already it does nothing.
                let _ = free(&device);
            }
        });
        let keeper = keeper.map_err(|error| Error::system("attach", what, error))?;
        let (path, number) = answer.recv().map_err(|_| gone(what))??;
        Ok(Self { path, number, read_only, jobs: Some(jobs), keeper: Some(keeper) })
    }

    /// Keeps a device again that was let go by [`detach`](Self::detach) and that somebody else has
    /// kept open. `None`: its last user has closed it, it is gone.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn again(path: &Path, file: &Path, read_only: bool) -> Result<Option<Self>> {
        let (device, below) = (path.to_path_buf(), file.to_path_buf());
        let opened = Self::kept(path, read_only, move || {
            let number = number(&device)?;
            let open = OpenOptions::new().read(true).write(!read_only).open(&device);
            let open = open.map_err(|error| Error::system("open", &device, error))?;
            if status(&open, &device)?.is_none() || backing(number).as_ref() != Some(&below) {
                return Err(gone(&device));
            }
            Ok((device, number, open))
        });
        match opened {
            Ok(device) => Ok(Some(device)),
            Err(Error::System { source, .. })
                if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotFound)
                    || source.raw_os_error() == Some(libc::ENXIO) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device takes no writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// N.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Bytes of the device.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn size(&self) -> Result<u64> {
        self.with(|device| size(device.as_fd()))?
            .map_err(|error| Error::system("ask the size of", &self.path, error))
    }

    /// Takes the size of the file below after it has changed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update_size(&self) -> Result<()> {
        // SAFETY: takes no argument.
        self.with(|device| outcome(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY) }))?
            .map_err(|error| Error::system("resize", &self.path, error))?;
        Ok(())
    }

    /// Writes out what the device's page cache holds, and frees the device. It is gone when this
    /// returns, unless somebody else still has it open: then it goes with them.
    ///
    /// # Errors
    /// Data could not be written; the device is freed all the same.
    pub fn detach(self) -> Result<()> {
        let (synced, cleared) = self.with(|device| {
            let synced = rustix::fs::fsync(device);
            (synced, free(device))
        })?;
        match cleared {
            Err(error) if error.raw_os_error() != Some(libc::ENXIO) => {
                Err(Error::system("free", &self.path, error))
            }
            _ => synced.map_err(|error| Error::system("sync", &self.path, error)),
        }
    }

    /// Runs something on the thread that has the device open, and waits for it.
    fn with<T: Send + 'static>(&self, run: impl FnOnce(&File) -> T + Send + 'static) -> Result<T> {
        let (sender, answer) = sync_channel(1);
        let job: Job = Box::new(move |device| {
            let _ = sender.send(run(device));
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        let answer = if sent { answer.recv().ok() } else { None };
        answer.ok_or_else(|| gone(&self.path))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        self.jobs = None;
        if self.keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            tracing::warn!(device = %self.path.display(), "the thread that kept it panicked");
        }
    }
}

/// Frees a device that a killed server has left over its file; with other users it goes with the
/// last of them. One over another file is left alone.
pub fn free_dead(path: &Path, file: &Path) {
    let Ok(number) = number(path) else { return };
    if backing(number).as_deref() != Some(file) {
        return;
    }
    if let Ok(device) = File::open(path)
        && let Err(error) = free(&device)
    {
        tracing::debug!(path = %path.display(), %error, "a dead server's device stays");
    }
}

/// `LOOP_CLR_FD`: now, or with the last user.
fn free(device: &File) -> io::Result<()> {
    // SAFETY: takes no argument.
    outcome(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) }).map(drop)
}

fn gone(path: &Path) -> Error {
    Error::system("keep", path, io::Error::from(io::ErrorKind::BrokenPipe))
}

/// Finds a free device and configures it.
fn make(file: &Path, options: LoopOptions) -> Result<(PathBuf, u32, File)> {
    let backing = OpenOptions::new().read(true).write(!options.read_only).open(file);
    let backing = backing.map_err(|error| Error::system("open", file, error))?;
    let control_path = Path::new("/dev/loop-control");
    let control = OpenOptions::new().read(true).write(true).open(control_path);
    let control = control.map_err(|error| Error::system("open", control_path, error))?;
    for attempt in 0..ATTEMPTS {
        // SAFETY: takes no argument.
        let number = outcome(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
            .map_err(|error| Error::system("find a free device by", control_path, error))?;
        let number = number.unsigned_abs();
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, number, options.read_only)?;
        match configure(&device, &backing, file, options) {
            Ok(()) => {
                check(&device, &path, file, options)?;
                return Ok((path, number, device));
            }
            // Taken by another process between the question and now.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(u64::from(attempt.min(20))));
            }
            Err(error) => return Err(Error::system("configure", &path, error)),
        }
    }
    Err(Error::Busy { path: control_path.to_path_buf() })
}

/// The kernel falls back to the page cache without a word.
fn check(device: &File, path: &Path, file: &Path, options: LoopOptions) -> Result<()> {
    let direct = status(device, path)?.is_some_and(|info| info.flags & LO_FLAGS_DIRECT_IO != 0);
    if options.direct_io && !direct {
        return Err(Error::NoDirectIo { path: path.to_path_buf(), file: file.to_path_buf() });
    }
    Ok(())
}

/// Bytes of a block device.
///
/// # Errors
/// It is no block device, or cannot be opened.
pub fn device_size(device: &Path) -> Result<u64> {
    let file = File::open(device).map_err(|error| Error::system("open", device, error))?;
    size(file.as_fd()).map_err(|error| Error::system("ask the size of", device, error))
}

/// Opens the device, making its node where devtmpfs did not.
fn open(path: &Path, number: u32, read_only: bool) -> Result<File> {
    let open = || OpenOptions::new().read(true).write(!read_only).open(path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = rustix::fs::makedev(LOOP_MAJOR, number);
            let mode = Mode::RUSR | Mode::WUSR;
            let made = rustix::fs::mknodat(rustix::fs::CWD, path, FileType::BlockDevice, mode, id);
            match made {
                Ok(()) | Err(rustix::io::Errno::EXIST) => open(),
                Err(error) => return Err(Error::system("make", path, error)),
            }
        }
        other => other,
    };
    opened.map_err(|error| Error::system("open", path, error))
}

/// `LOOP_CONFIGURE`: everything at once, so nobody sees half a device.
fn configure(device: &File, backing: &File, name: &Path, options: LoopOptions) -> io::Result<()> {
    let mut info = LoopInfo::ZERO;
    if options.autoclear {
        info.flags |= LO_FLAGS_AUTOCLEAR;
    }
    if options.direct_io {
        info.flags |= LO_FLAGS_DIRECT_IO;
    }
    if options.read_only {
        info.flags |= LO_FLAGS_READ_ONLY;
    }
    let name = name.as_os_str().as_bytes();
    let len = name.len().min(info.file_name.len() - 1);
    info.file_name[..len].copy_from_slice(&name[..len]);
    let config = LoopConfig {
        fd: backing.as_raw_fd().unsigned_abs(),
        block_size: options.block_size,
        info,
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads a structure of this layout.
    outcome(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) })?;
    Ok(())
}
