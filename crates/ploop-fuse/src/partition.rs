//! Partitions by `BLKPG`, for kernels that cannot read a partition table themselves (T2).

use crate::error::{Error, Result};
use crate::loop_status::outcome;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a node may take to come.
const NODE: Duration = Duration::from_millis(500);

const BLKPG: libc::c_ulong = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_DEL_PARTITION: libc::c_int = 2;
const BLKPG_RESIZE_PARTITION: libc::c_int = 3;

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    operation: libc::c_int,
    flags: libc::c_int,
    len: libc::c_int,
    data: *mut Partition,
}

/// Adds partition `number` at `start`, `len` bytes long, and tells its device. A partition of
/// that number and place which is there already is fine.
///
/// # Errors
/// The kernel refuses: it overlaps another one, or lies outside the device.
pub fn add(device: &Path, number: u32, start: u64, len: u64) -> Result<PathBuf> {
    let path = path(device, number);
    match change(device, BLKPG_ADD_PARTITION, number, start, len) {
        Err(Error::Busy { .. }) if place(device, number) == Some((start, len)) => {}
        other => other?,
    }
    settle(device, number, &path)?;
    Ok(path)
}

/// The device of a partition that the kernel knows. Waits for its node, and makes it where nobody
/// else does.
///
/// # Errors
/// The kernel knows no such partition, or another device has that name.
pub fn node(device: &Path, number: u32) -> Result<PathBuf> {
    let path = path(device, number);
    settle(device, number, &path)?;
    Ok(path)
}

/// Gives partition `number` another length; it may be mounted.
///
/// # Errors
/// The kernel refuses: it overlaps another one, or lies outside the device.
pub fn resize(device: &Path, number: u32, start: u64, len: u64) -> Result<()> {
    change(device, BLKPG_RESIZE_PARTITION, number, start, len)
}

/// Deletes partition `number`. One that is not there is fine.
///
/// # Errors
/// [`Error::Busy`] while it is open or mounted.
pub fn delete(device: &Path, number: u32) -> Result<()> {
    match change(device, BLKPG_DEL_PARTITION, number, 0, 0) {
        Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        other => other,
    }
}

/// The device of a partition: `/dev/loop0p1`, `/dev/sda1`.
#[must_use]
pub fn path(device: &Path, number: u32) -> PathBuf {
    let mut name = device.as_os_str().to_os_string();
    let digit = name.as_encoded_bytes().last().is_some_and(u8::is_ascii_digit);
    name.push(if digit { "p" } else { "" });
    name.push(number.to_string());
    PathBuf::from(name)
}

/// Start and length in bytes of a partition the kernel knows.
#[must_use]
pub fn place(device: &Path, number: u32) -> Option<(u64, u64)> {
    let folder = sysfs(device, number)?;
    let sectors = |name: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    Some((sectors("start")?.checked_mul(512)?, sectors("size")?.checked_mul(512)?))
}

fn sysfs(device: &Path, number: u32) -> Option<PathBuf> {
    let device = device.canonicalize().ok()?;
    let partition = path(&device, number);
    Some(Path::new("/sys/class/block").join(device.file_name()?).join(partition.file_name()?))
}

fn change(device: &Path, operation: libc::c_int, number: u32, start: u64, len: u64) -> Result<()> {
    let wrong =
        || Error::Invalid { what: format!("partition {number} at {start}, {len} bytes long") };
    let mut partition = Partition {
        start: start.try_into().map_err(|_| wrong())?,
        length: len.try_into().map_err(|_| wrong())?,
        number: number.try_into().map_err(|_| wrong())?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = Argument {
        operation,
        flags: 0,
        len: size_of::<Partition>() as libc::c_int,
        data: &raw mut partition,
    };
    let file = File::open(device).map_err(|error| Error::system("open", device, error))?;
    // SAFETY: the kernel reads both structures, which live until the call returns.
    outcome(unsafe { libc::ioctl(file.as_raw_fd(), BLKPG, &raw const argument) })
        .map_err(|error| Error::system("change the partitions of", device, error))?;
    Ok(())
}

/// Waits until the node is that of the partition: udev may be about to make it, or to take away
/// that of another one.
fn settle(device: &Path, number: u32, path: &Path) -> Result<()> {
    let gone = || {
        let what = format!("the kernel knows no partition {number} of {}", device.display());
        Error::Invalid { what }
    };
    let folder = sysfs(device, number).ok_or_else(gone)?;
    let until = Instant::now() + NODE;
    loop {
        let text = std::fs::read_to_string(folder.join("dev")).map_err(|_| gone())?;
        let numbers = text.trim().split_once(':');
        let id = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (major, minor) = id.ok_or_else(gone)?;
        let wanted = rustix::fs::makedev(major, minor);
        let found = std::fs::metadata(path);
        let found = found.ok().filter(|data| data.file_type().is_block_device());
        if found.as_ref().is_some_and(|data| data.rdev() == wanted) {
            return Ok(());
        }
        if Instant::now() >= until {
            return if found.is_some() {
                let what = format!("{} is not partition {number}", path.display());
                Err(Error::Invalid { what })
            } else {
                make_node(path, wanted)
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_node(path: &Path, id: u64) -> Result<()> {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::BlockDevice;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, id)
        .map_err(|error| Error::system("make the node", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(path(Path::new("/dev/loop0"), 1), Path::new("/dev/loop0p1"));
        assert_eq!(path(Path::new("/dev/sda"), 12), Path::new("/dev/sda12"));
        assert_eq!(size_of::<Partition>(), 152);
    }
}
