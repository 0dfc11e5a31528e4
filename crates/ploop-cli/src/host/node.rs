//! The device of a partition, which the kernel may have to be told of first.

use super::table::Part;
use ploop_daemon::runtime::blkpg;
use ploop_daemon::{Code, Failure, Result};
use std::path::{Path, PathBuf};

/// The device of the file system; a partition that is known for this alone is forgotten again.
pub struct Node {
    /// Its path.
    pub path: String,
    added: Option<(PathBuf, u32)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((device, number)) = &self.added
            && let Err(error) = blkpg::delete(device, *number)
        {
            tracing::warn!("partition {number} stays known to the kernel: {error}");
        }
    }
}

impl Node {
    /// The device of what was chosen; the kernel may have to be told of the partition.
    ///
    /// # Errors
    /// The kernel has another partition of that number, or refuses this one.
    pub fn of(device: &Path, part: Option<&Part>) -> Result<Self> {
        let Some(part) = part else {
            return Ok(Self { path: device.display().to_string(), added: None });
        };
        let failed = |error| {
            let message = format!("partition {} of {}: {error}", part.number, device.display());
            Failure::new(Code::Partition, message)
        };
        let known = blkpg::place(device, part.number);
        let path = match known {
            Some((start, len)) if (start, len) == (part.start, part.len) => {
                blkpg::node(device, part.number).map_err(failed)?
            }
            // Of a length that the table had before: it is told the right one below.
            Some((start, _)) if start == part.start => {
                blkpg::node(device, part.number).map_err(failed)?
            }
            Some((start, len)) => {
                let message = format!(
                    "partition {} of {} lies at {} in the table, and at {start} ({len} bytes) for \
                     the kernel",
                    part.number,
                    device.display(),
                    part.start
                );
                let hint = format!("partx -u {} tells the kernel", device.display());
                return Err(Failure::new(Code::Partition, message).hint(hint));
            }
            None => blkpg::add(device, part.number, part.start, part.len).map_err(failed)?,
        };
        let added = known.is_none().then(|| (device.to_owned(), part.number));
        Ok(Self { path: path.display().to_string(), added })
    }

    /// A device that is there.
    pub fn at(path: &str) -> Self {
        Self { path: path.to_owned(), added: None }
    }

    /// Leaves the partition to the kernel: the disk's server takes it away with the device. Returns
    /// its path.
    #[must_use]
    pub fn stays(mut self) -> String {
        self.added = None;
        std::mem::take(&mut self.path)
    }
}
