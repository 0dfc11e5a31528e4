//! What the kernel tells about loop devices, and the structures it speaks.

use crate::error::{Error, Result};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub(crate) const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
pub(crate) const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
pub(crate) const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
pub(crate) const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
pub(crate) const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
/// The kernel's number for loop devices.
pub(crate) const LOOP_MAJOR: u32 = 7;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone)]
pub(crate) struct LoopInfo {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) rdevice: u64,
    pub(crate) offset: u64,
    pub(crate) size_limit: u64,
    pub(crate) number: u32,
    pub(crate) encrypt_type: u32,
    pub(crate) encrypt_key_size: u32,
    pub(crate) flags: u32,
    pub(crate) file_name: [u8; 64],
    pub(crate) crypt_name: [u8; 64],
    pub(crate) encrypt_key: [u8; 32],
    pub(crate) init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
pub(crate) struct LoopConfig {
    pub(crate) fd: u32,
    pub(crate) block_size: u32,
    pub(crate) info: LoopInfo,
    pub(crate) reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopInfo {
    pub(crate) const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// A configured loop device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoopStatus {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// N.
    pub number: u32,
    /// The file below; the kernel adds " (deleted)" when its name is gone.
    pub file: PathBuf,
    /// `st_dev` and `st_ino` of the file below; none when the file cannot be asked any more: the
    /// server of a FUSE file is dead.
    pub file_id: Option<(u64, u64)>,
    /// Goes away with the last one who has it open.
    pub autoclear: bool,
    /// Opened read-only.
    pub read_only: bool,
    /// Direct I/O to the file below.
    pub direct_io: bool,
}

impl LoopStatus {
    /// Asks one device; `None` when nothing is below it.
    ///
    /// # Errors
    /// The device cannot be opened or asked.
    pub fn of(device: &Path) -> Result<Option<Self>> {
        let file = File::open(device).map_err(|error| Error::system("open", device, error))?;
        let number = number(device)?;
        let sysfs = PathBuf::from(format!("/sys/block/loop{number}"));
        let info = match status(&file, device) {
            Ok(Some(info)) => Some(info),
            Ok(None) => return Ok(None),
            // The file below does not answer; what was configured is known all the same.
            Err(_) if sysfs.join("loop/backing_file").exists() => None,
            Err(error) => return Err(error),
        };
        // The name in LoopInfo is cut to 63 bytes.
        let Some(file) = backing(number) else { return Ok(None) };
        let set = |name| std::fs::read(sysfs.join(name)).is_ok_and(|text| text.starts_with(b"1"));
        Ok(Some(Self {
            device: device.to_path_buf(),
            number,
            file,
            file_id: info.map(|info| (info.device, info.inode)),
            autoclear: set("loop/autoclear"),
            read_only: set("ro"),
            direct_io: set("loop/dio"),
        }))
    }

    /// Every configured loop device, by number. What vanishes meanwhile is left out.
    ///
    /// # Errors
    /// `/sys/block` cannot be read.
    pub fn list() -> Result<Vec<Self>> {
        let folder = Path::new("/sys/block");
        let failed = |error| Error::system("read", folder, error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_loop = entry.file_name().to_str().is_some_and(|name| {
                name.strip_prefix("loop").is_some_and(|number| number.parse::<u32>().is_ok())
            });
            if is_loop && entry.path().join("loop/backing_file").exists() {
                let device = Path::new("/dev").join(entry.file_name());
                found.extend(Self::of(&device).ok().flatten());
            }
        }
        found.sort_by_key(|status| status.number);
        Ok(found)
    }
}

/// The name of the file below a device; `None` when there is none.
pub(crate) fn backing(number: u32) -> Option<PathBuf> {
    let mut name = std::fs::read(format!("/sys/block/loop{number}/loop/backing_file")).ok()?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(name)))
}

/// N of `/dev/loopN`, from the device itself: the name may be a link.
pub(crate) fn number(device: &Path) -> Result<u32> {
    let data = std::fs::metadata(device).map_err(|error| Error::system("find", device, error))?;
    if !data.file_type().is_block_device() || rustix::fs::major(data.rdev()) != LOOP_MAJOR {
        return Err(Error::Invalid { what: format!("{} is no loop device", device.display()) });
    }
    Ok(rustix::fs::minor(data.rdev()))
}

/// `LOOP_GET_STATUS64`.
pub(crate) fn status(file: &File, path: &Path) -> Result<Option<LoopInfo>> {
    let mut info = LoopInfo::ZERO;
    // SAFETY: the kernel fills a structure of this layout.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    match outcome(done) {
        Ok(_) => Ok(Some(info)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(Error::system("ask", path, error)),
    }
}

/// Bytes of a block device (`BLKGETSIZE64`).
pub(crate) fn size(fd: BorrowedFd<'_>) -> std::io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: the kernel writes eight bytes.
    outcome(unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// What an ioctl returned.
pub(crate) fn outcome(returned: libc::c_int) -> std::io::Result<libc::c_int> {
    if returned < 0 { Err(std::io::Error::last_os_error()) } else { Ok(returned) }
}
