//! Loop devices over the FUSE file (or any file).
//!
//! The device is configured with autoclear and this process keeps it open: it goes when the
//! process ends in whatever way and nobody else uses it. Without autoclear a killed server would
//! leave a device over a dead file for somebody to find; without the open descriptor the device
//! would vanish before its first user came. A file system mounted on it keeps it, with I/O errors,
//! until it is unmounted.
//!
//! Nothing here may run on a queue's, keeper's or FUSE thread: opening and configuring the device
//! read from the file below (D8).

use crate::error::{Error, Result};
use crate::loop_status::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LOOP_CLR_FD, LOOP_CONFIGURE,
    LOOP_CTL_GET_FREE, LOOP_SET_CAPACITY, LoopConfig, LoopInfo, outcome, size, status,
};
use rustix::fs::{FileType, Mode};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often another process may take the device we were told is free.
const ATTEMPTS: u32 = 64;
/// The kernel's number for loop devices.
const LOOP_MAJOR: u32 = 7;

/// How to attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopOptions {
    /// The device takes no writes.
    pub read_only: bool,
    /// Logical block: 512 or 4096, as the engine's limits say.
    pub block_size: u32,
    /// Refuse a device that would go through the page cache of the file below.
    pub direct_io: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self { read_only: false, block_size: 512, direct_io: true }
    }
}

/// A loop device that lives as long as this value (and its users).
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    number: u32,
    /// Keeps the device: autoclear waits for the last descriptor.
    fd: File,
}

impl LoopDevice {
    /// Puts a free loop device over `file`.
    ///
    /// # Errors
    /// No right, no free device, or no direct I/O though it was asked for.
    pub fn attach(file: &Path, options: LoopOptions) -> Result<Self> {
        let system = |what| move |error: io::Error| Error::system(what, file, error);
        let backing = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .open(file)
            .map_err(system("open"))?;
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
                    let made = Self { path, number, fd: device };
                    made.check(file, options)?;
                    return Ok(made);
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
    fn check(&self, file: &Path, options: LoopOptions) -> Result<()> {
        let info = status(&self.fd, &self.path)?;
        let direct = info.is_some_and(|info| info.flags & LO_FLAGS_DIRECT_IO != 0);
        if options.direct_io && !direct {
            return Err(Error::NoDirectIo { path: self.path.clone(), file: file.to_path_buf() });
        }
        Ok(())
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// N.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The open device.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of the device.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn size(&self) -> Result<u64> {
        size(self.fd.as_fd()).map_err(|error| Error::system("ask the size of", &self.path, error))
    }

    /// Takes the size of the file below after it has changed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update_size(&self) -> Result<()> {
        // SAFETY: takes no argument.
        outcome(unsafe { libc::ioctl(self.fd.as_raw_fd(), LOOP_SET_CAPACITY) })
            .map_err(|error| Error::system("resize", &self.path, error))?;
        Ok(())
    }

    /// Writes out what the device's page cache holds, and frees the device. It is gone when this
    /// returns, unless somebody else still has it open: then it goes with them.
    ///
    /// # Errors
    /// Data could not be written; the device is freed all the same.
    pub fn detach(self) -> Result<()> {
        let synced = rustix::fs::fsync(&self.fd);
        // SAFETY: takes no argument.
        let cleared = outcome(unsafe { libc::ioctl(self.fd.as_raw_fd(), LOOP_CLR_FD) });
        match cleared {
            Err(error) if error.raw_os_error() != Some(libc::ENXIO) => {
                Err(Error::system("free", &self.path, error))
            }
            _ => synced.map_err(|error| Error::system("sync", &self.path, error)),
        }
    }
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
    info.flags = LO_FLAGS_AUTOCLEAR;
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
