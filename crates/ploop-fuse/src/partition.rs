//! Partitions by `BLKPG`, for kernels that cannot read a partition table themselves (T2).

use crate::error::{Error, Result};
use crate::loop_status::outcome;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

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
    make_node(device, number, &path);
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

/// Makes the node where devtmpfs did not. A failure shows when the node is opened.
fn make_node(device: &Path, number: u32, path: &Path) {
    if path.exists() {
        return;
    }
    let text = sysfs(device, number).and_then(|at| std::fs::read_to_string(at.join("dev")).ok());
    let id = text.as_deref().and_then(|text| {
        let (major, minor) = text.trim().split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    });
    let Some(id) = id else { return };
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::BlockDevice;
    if let Err(error) = rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, id) {
        tracing::debug!(path = %path.display(), %error, "no node for the partition");
    }
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
